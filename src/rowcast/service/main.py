"""For `uvicorn rowcast.service.main:app`: the application, made from the environment when it is first asked for."""

import logging
import sys
from functools import cache
from typing import TYPE_CHECKING

from rowcast import ConfigurationError
from rowcast.service.app import create_app
from rowcast.service.logs import configure_logs
from rowcast.service.settings import load_settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    app: FastAPI

__all__ = ["app"]


@cache
def _app() -> "FastAPI":
    try:
        settings = load_settings()
        if not logging.getLogger().handlers:
            configure_logs(settings.log_format)
        return create_app(settings)
    except ConfigurationError as error:
        sys.exit(f"rowcast: {error}")


def __getattr__(name: str) -> object:
    if name == "app":
        return _app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
