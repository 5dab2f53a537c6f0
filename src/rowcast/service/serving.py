"""Running the server and the worker as processes."""

import asyncio
import os
import signal
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI

from rowcast import ConfigurationError
from rowcast.service.app import create_app
from rowcast.service.settings import Settings
from rowcast.service.worker import Worker

__all__ = ["bind", "serve_forever", "server_config", "work_forever"]


def serve_forever(settings: Settings, *, workers: int = 1) -> None:
    """Run the server until it is told to stop. Raises `ConfigurationError` when the port is taken."""
    listening = bind(settings.host, settings.port)
    if workers == 1:
        asyncio.run(uvicorn.Server(server_config(settings, create_app(settings))).serve(sockets=[listening]))
        return
    if settings.signing_key_file is None:
        raise ConfigurationError(
            "several workers need ROWCAST_SIGNING_KEY_FILE, or they would not accept each other's tickets"
        )
    # Each process reads the environment anew, so what was chosen on the command line has to be there.
    os.environ |= {"ROWCAST_HOST": settings.host, "ROWCAST_PORT": str(settings.port)}
    listening.close()
    options = server_options(settings)
    uvicorn.run("rowcast.service.main:app", host=settings.host, port=settings.port, workers=workers, **options)


def server_config(settings: Settings, app: FastAPI) -> uvicorn.Config:
    """Return how uvicorn runs the application in this process."""
    return uvicorn.Config(app, **server_options(settings))


def server_options(settings: Settings) -> dict[str, Any]:
    """Return what the server is told; its access log is left to the proxy in front."""
    return {
        "log_config": None,
        "access_log": False,
        "proxy_headers": True,
        "forwarded_allow_ips": settings.forwarded_allow_ips,
        "server_header": False,
        "timeout_graceful_shutdown": max(1, round(settings.drain_seconds) + 1),
    }


async def work_forever(settings: Settings) -> None:
    """Run a worker until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await Worker(settings).run(stop)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address. Raises `ConfigurationError` when it is taken."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise ConfigurationError(
            f"{host}:{port} cannot be used ({error.strerror}); "
            "choose another one with --port, ROWCAST_PORT, or PORT=… make demo"
        ) from None
    listening.set_inheritable(True)
    return listening
