"""Running the server and the worker as processes."""

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import ceil
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from rowcast import ConfigurationError
from rowcast.service.app import create_app
from rowcast.service.protocol import StreamProtocol
from rowcast.service.settings import Settings
from rowcast.service.worker import Worker

__all__ = ["Server", "bind", "leave_within", "serve_forever", "server_config", "work_forever"]

_LAST_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """A server that returns when it was told to stop.

    uvicorn's own sends itself the signal once more, which would end the process before others have cleaned up.
    """

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Exit on SIGINT and SIGTERM for the length of the block."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Supervisor(Multiprocess):
    """Worker processes that, once they are told to stop, leave nobody waiting at the door.

    Every process has the listening socket, and connections are made as long as one of them keeps it open. uvicorn's own
    keeps it until the last worker has left: whoever came meanwhile would wait for that, only to be cut. And it looks
    for signals twice a second only, which is half of the second that a drain may take longer than its window.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._pass_on)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.signal_queue.append(number)
        for process in self.processes:
            if process.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGTERM)

    def terminate_all(self) -> None:
        """Close the door, and have the workers end."""
        for listening in self.sockets:
            listening.close()
        super().terminate_all()


def serve_forever(settings: Settings, *, workers: int = 1) -> None:
    """Run the server until it is told to stop. Raises `ConfigurationError` when the port is taken."""
    if workers > 1 and settings.signing_key_file is None:
        raise ConfigurationError(
            "several workers need ROWCAST_SIGNING_KEY_FILE, or they would not accept each other's tickets"
        )
    listening = bind(settings.host, settings.port)
    let_go_of_the_dead(listening, settings.write_timeout_seconds)
    if workers == 1:
        Server(server_config(settings, create_app(settings))).run(sockets=[listening])
        return
    # Each process reads the environment anew, so what was chosen on the command line has to be there.
    os.environ |= {"ROWCAST_HOST": settings.host, "ROWCAST_PORT": str(settings.port)}
    config = uvicorn.Config("rowcast.service.main:app", workers=workers, **server_options(settings))
    Supervisor(config, sockets=[listening]).run()


def server_config(settings: Settings, app: FastAPI) -> uvicorn.Config:
    """Return how uvicorn runs the application in this process."""
    return uvicorn.Config(app, **server_options(settings))


def server_options(settings: Settings) -> dict[str, Any]:
    """Return what the server is told; its access log is left to the proxy in front."""
    return {
        "http": StreamProtocol,
        "log_config": None,
        "access_log": False,
        "proxy_headers": True,
        "forwarded_allow_ips": settings.forwarded_allow_ips,
        "server_header": False,
        "timeout_graceful_shutdown": ceil(settings.drain_seconds) + 1,
    }


async def work_forever(settings: Settings) -> None:
    """Run a worker until SIGTERM or SIGINT; a second signal ends the grace that running requests have."""
    loop = asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()
    told = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        # Not a handler of the loop: a request that blocks the loop would block that, too.
        if not told.is_set():
            leave_within(settings.worker_grace_seconds + _LAST_SECONDS)
        loop.call_soon_threadsafe((hurry if told.is_set() else stop).set)
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    await Worker(settings).run(stop, hurry=hurry)


def leave_within(seconds: float) -> None:
    """End this process after `seconds`, should a handler that blocks, or will not be cancelled, keep it from ending."""

    def leave() -> None:
        logger.critical("a handler keeps the process from ending; it is ended now")
        os._exit(1)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()


def let_go_of_the_dead(listening: socket.socket, seconds: float) -> None:
    """Have the system end connections whose peer has taken nothing of what was sent to it for so long.

    A stream that its client does not read is given up by then; without this, its socket would stay for as long as the
    client's system answers, or for a quarter of an hour where there is none any more.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections inherit it
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address. Raises `ConfigurationError` when it is taken."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        # Until it listens, another program could bind the same port, and take it.
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise ConfigurationError(
            f"{host}:{port} cannot be used ({error.strerror}); "
            "choose another one with --port, ROWCAST_PORT, or PORT=… make demo"
        ) from None
    listening.set_inheritable(True)
    return listening
