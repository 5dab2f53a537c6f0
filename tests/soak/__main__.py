"""The command line: `scripts/soak --minutes 10 --seed 7`."""

import argparse
import asyncio
import random
import resource
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from tests.soak.report import Outcome
from tests.soak.run import Options, soak


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Say it and leave."""
        self.exit(2, f"soak: {message}; for example: scripts/soak --minutes 3 --seed 7 --source poll --workers 1\n")


def options_of(arguments: list[str]) -> Options:
    """Read the command line, or leave with a line that says what is wrong with it."""
    parser = Parser(
        prog="soak", description=f"{__doc__} Runs Rowcast under random faults and load, and looks for loss."
    )
    parser.add_argument("--minutes", type=_positive, default=10.0, help="how long, rests included (10)")
    parser.add_argument("--seed", type=int, default=None, help="repeats the plan of an earlier run")
    parser.add_argument("--source", choices=("notify", "poll"), default="notify", help="of changes (notify)")
    parser.add_argument("--workers", type=int, choices=(1, 2), default=2, help="processes of the server (2)")
    parser.add_argument("--clients", type=_count, default=200, help="how many follow (200)")
    parser.add_argument("--writers", type=_count, default=8, help="how many write (8)")
    parser.add_argument("--every", type=_positive, default=5.0, help="seconds between two faults (5)")
    parser.add_argument(
        "--sweep", type=_positive, default=600.0, help="seconds between sweeps, which repair what was lost (600)"
    )
    chosen = parser.parse_args(arguments)
    return Options(
        seconds=chosen.minutes * 60,
        seed=random.SystemRandom().randrange(1_000_000) if chosen.seed is None else chosen.seed,
        source=chosen.source,
        workers=chosen.workers,
        clients=chosen.clients,
        writers=chosen.writers,
        fault_every_seconds=chosen.every,
        sweep_seconds=chosen.sweep,
    )


def _positive(text: str) -> float:
    number = float(text) if text.replace(".", "", 1).isdecimal() else 0
    if not 0 < number < 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a length of time")
    return number


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 2000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 2000")
    return int(text)


async def _run(options: Options, directory: Path) -> Outcome | None:
    """Run to the end, or take everything down when told to stop; None then."""
    running = asyncio.ensure_future(soak(options, directory, lambda line: print(line, flush=True)))
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):  # what is being taken down is not to be left half way
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
        print("stopping", flush=True)
        running.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        return await running
    except asyncio.CancelledError:
        return None


def main() -> int:
    """Run a soak and return the exit code: 0, or 1 if anything was lost, stale or applied twice."""
    options = options_of(sys.argv[1:])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 20_000)), hard))
    directory = Path(tempfile.mkdtemp(prefix="rowcast-soak-"))
    print(f"{options}; in {directory}", flush=True)
    is_kept = True
    try:
        outcome = asyncio.run(_run(options, directory))
        is_kept = outcome is not None and not outcome.is_good
    finally:
        if not is_kept:
            shutil.rmtree(directory, ignore_errors=True)
    if outcome is None:
        return 130
    print(outcome.table())
    if details := outcome.details():
        print(f"\n{details}")
    if not outcome.is_good:
        print(f"\nThe logs are in {directory}. To repeat it: --seed {options.seed}")
    return 0 if outcome.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
