"""How the service logs: structured, and without tickets."""

import logging
import re
import sys

import structlog

__all__ = ["configure_logs", "redact_access_log"]

_TICKET = re.compile(r"(ticket=)[^&\s\"]+")


class _RedactTickets(logging.Filter):
    """Takes the ticket out of the paths that uvicorn logs: for a minute it opens a stream."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(_TICKET.sub(r"\1…", arg) if isinstance(arg, str) else arg for arg in record.args)
        return True


def redact_access_log() -> None:
    """Have uvicorn's access log leave out tickets, however it was started."""
    access = logging.getLogger("uvicorn.access")
    if not any(isinstance(each, _RedactTickets) for each in access.filters):
        access.addFilter(_RedactTickets())


def configure_logs(style: str, *, level: int = logging.INFO) -> None:
    """Send the log from `level` on to stderr: one JSON object a line, or coloured lines in a terminal."""
    as_json = style == "json" or (style == "auto" and not sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # It logs a stack trace ten times a second while the database is away; the worker says what matters itself.
    logging.getLogger("pgqueuer").setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.WARNING)
