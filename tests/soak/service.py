"""The server under test: `rowcast serve` as processes that can be frozen, killed and started again."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_IDENTITY = re.compile(r"^rowcast_frames_created (\S+)", re.MULTILINE)
_FOUND = re.compile(r"^rowcast_sweep_found_total (\S+)", re.MULTILINE)


class Service:
    """A server on one port, with one or more worker processes, all of them in a session of their own."""

    def __init__(self, *, workers: int, environment: Mapping[str, str], log: Path) -> None:
        self.starts = 0
        self.log = log
        self._wanted_workers = workers
        self._environment = environment
        self._port = quiet_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._is_wanted = False
        self._deaths: list[str] = []
        self._found: dict[str, float] = {}

    @property
    def pid(self) -> int:
        """The process that was started; with several workers, the one that looks after them."""
        assert self._process is not None
        return self._process.pid

    def deaths(self) -> list[str]:
        """How often it went though nobody told it to, and with which exit codes."""
        self._note_death()
        return self._deaths

    def _note_death(self) -> None:
        if self._is_wanted and self._process is not None and self._process.poll() is not None:
            self._deaths.append(f"it ended by itself with {self._process.returncode}")
        self._is_wanted = False

    async def start(self) -> None:
        """Start it and wait until it answers.

        It will not begin without its database; whoever supervises it starts it again then, and so do we.
        """
        async with asyncio.timeout(_START_SECONDS):
            while not self._is_wanted:
                self._launch()
                while self._process is not None and self._process.poll() is None:
                    if await asyncio.to_thread(self._fetch, "/livez"):
                        self._is_wanted = True
                        return
                    await asyncio.sleep(0.05)
                await asyncio.sleep(0.2)

    async def answers(self, path: str) -> None:
        """Wait until it answers a path with 200."""
        async with asyncio.timeout(_START_SECONDS):
            while not await asyncio.to_thread(self._fetch, path):
                await asyncio.sleep(0.05)

    def _launch(self) -> None:
        command = [sys.executable, "-m", "rowcast.cli", "serve", "--port", str(self._port)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--workers", str(self._wanted_workers)],
                env=self._environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.starts += 1

    async def stop(self) -> None:
        """Tell it to leave, as a deploy does, and kill it if it does not."""
        if self._process is None:
            return
        self._note_death()
        self.send(signal.SIGTERM, self.pid)
        try:
            await asyncio.to_thread(self._process.wait, _STOP_SECONDS)
        except subprocess.TimeoutExpired:
            await self.kill()

    async def kill(self) -> None:
        """Kill all of its processes at once."""
        self._note_death()
        self.kill_now()
        assert self._process is not None
        await asyncio.to_thread(self._process.wait)

    def kill_now(self) -> None:
        """Kill all of its processes, without waiting; whoever is left when everything is over."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def send(self, number: signal.Signals, pid: int) -> None:
        """Send a signal to one of its processes, if it is still there."""
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def processes(self) -> list[int]:
        """All of its processes."""
        return [pid for pid, _ in self._session()]

    def workers(self) -> list[int]:
        """The processes that serve."""
        if self._wanted_workers == 1:
            return [self.pid]
        return sorted(pid for pid, command in self._session() if "spawn_main" in command)

    def _session(self) -> list[tuple[int, str]]:
        """The processes of its session, and what they were started with."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    # The name of a program may hold spaces and brackets; what follows the last one is numbers.
                    numbers = (entry / "stat").read_text().rpartition(")")[2].split()
                    if numbers[0] != "Z" and int(numbers[3]) == self.pid:
                        found.append((int(entry.name), (entry / "cmdline").read_text()))
        return found

    def sweep_found(self) -> tuple[float, int]:
        """What sweeps found that nobody was told, and in how many processes, of all that were alive at some call.

        Whoever asks is answered by one worker or the other; when it began to count tells them apart.
        """
        asked: set[str] = set()
        for _ in range(60 * self._wanted_workers):
            text = self._fetch("/metrics")
            if (identity := _IDENTITY.search(text)) and (count := _FOUND.search(text)):
                self._found[identity[1]] = float(count[1])
                asked.add(identity[1])
            if len(asked) == self._wanted_workers:
                break
        return sum(self._found.values()), len(self._found)

    def troubles(self) -> list[str]:
        """The lines of its log that nobody should have to read."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if "Traceback" in line or '"level": "error"' in line]

    def _fetch(self, path: str) -> str:
        """What it answers with 200; empty if it does not."""
        with suppress(OSError, urllib.error.URLError), urllib.request.urlopen(self.url + path, timeout=5) as answer:
            return str(answer.read().decode())
        return ""


def quiet_port() -> int:
    """A free port of 127.0.0.1 that the system gives to no outgoing connection.

    While the server is away, many try to reach its port; one of them could be given that very port as its own end,
    reach itself, and keep the server from coming back.
    """
    for port in range(20_000 + os.getpid() % 5000, 32_000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free from 20000 to 32000")
