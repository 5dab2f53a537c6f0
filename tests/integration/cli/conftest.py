"""The command line as its users run it: processes, pipes and a terminal."""

import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import wait_until

ROWCAST = [sys.executable, "-m", "rowcast.cli"]
Environment = dict[str, str]
Rowcast = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(**settings: object) -> Environment:
    """The environment without any setting of ours, but those given."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("ROWCAST_", "PG"))}
    return {**bare, **{name: str(value) for name, value in settings.items()}}


@pytest.fixture
def rowcast(tmp_path: Path) -> Rowcast:
    """Run a command to its end: `rowcast("serve", ROWCAST_PORT=1)`."""

    def run(*arguments: str, **settings: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*ROWCAST, *arguments],
            env=environment(**settings),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@dataclass
class Running:
    """A command that runs, and its files of output."""

    process: "subprocess.Popen[bytes]"
    out: Path
    err: Path

    @property
    def output(self) -> str:
        return self.out.read_text()

    @property
    def errors(self) -> str:
        return self.err.read_text()

    def says(self, text: str, *, seconds: float = 60) -> None:
        """Wait until the output contains `text`."""

        def is_said() -> bool:
            if text not in self.output and self.process.poll() is not None:
                pytest.fail(f"it ended with {self.process.returncode}: {self.output} {self.errors}")
            return text in self.output

        wait_until(is_said, what=lambda: f"it says {text!r}; it says {self.output!r}, {self.errors!r}", seconds=seconds)


Begin = Callable[..., Running]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Start a command in a process group of its own, as a terminal does: `begin("tail", session)`."""
    started: list[Running] = []

    def start(*arguments: str, command: list[str] | None = None, **settings: object) -> Running:
        out, err = tmp_path / f"out-{len(started)}", tmp_path / f"err-{len(started)}"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [*(command or ROWCAST), *arguments],
                env=environment(**settings),
                cwd=tmp_path,
                stdout=stdout,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        started.append(Running(process, out, err))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.terminate()
            try:
                each.process.wait(15)
            except subprocess.TimeoutExpired:
                each.process.kill()
                each.process.wait()


class Terminal:
    """A command in a pseudo-terminal."""

    def __init__(self, *arguments: str, **settings: object) -> None:
        self._master, slave = pty.openpty()
        options: dict[str, Any] = {"stdin": slave, "stdout": slave, "stderr": slave}
        self.process = subprocess.Popen(
            [*ROWCAST, *arguments], env=environment(TERM="xterm", **settings), start_new_session=True, **options
        )
        os.close(slave)
        self.screen = ""

    def shows(self, text: str) -> None:
        """Wait until the screen shows `text`."""

        def is_shown() -> bool:
            while select.select([self._master], [], [], 0)[0]:
                try:
                    self.screen += os.read(self._master, 65_536).decode()
                except OSError:  # the other end is closed
                    break
            return text in self.screen

        wait_until(is_shown, what=lambda: f"{text!r} is shown; shown is {self.screen!r}")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def start(*arguments: str, **settings: object) -> Terminal:
        started.append(Terminal(*arguments, **settings))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def run_in() -> Callable[[str, str], None]:
    """Run SQL as somebody with psql does."""

    def run(dsn: str, statements: str) -> None:
        command = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", dsn]
        subprocess.run(command, input=statements, env=environment(), capture_output=True, text=True, check=True)

    return run
