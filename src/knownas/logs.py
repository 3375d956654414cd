"""Structured logs: one line an event, as text for people or JSON for machines.

No key, identifier or customer id is ever passed to a logger; a test looks for a canary in all
that is logged. So an unexpected error is logged by its type and place, never by its text.
"""

import logging
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

Logger = Any


def configure(log_format: Literal["console", "json"]) -> None:
    """Send structlog's lines, and those of the standard library's loggers, to standard error."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                _without_values,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer,
            ],
        )
    )
    # uvicorn's warnings are about what clients send, and name no client.
    logging.basicConfig(handlers=[handler], level=logging.ERROR, force=True)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _without_values(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Keep of a library's line what has no value in it.

    An error's text, and the calls and objects that asyncio shows with it, may quote a client.
    """
    error = event.pop("exc_info", None)
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["event"] = f"unexpected error, told by {event['_record'].name}"
        event["type"] = type(error).__name__
        event["at"] = place_of(error)
    else:
        event["event"] = str(event["event"]).partition("\n")[0]
    return event


def get() -> Logger:
    """Return the logger of the server's own events."""
    return structlog.get_logger()


def place_of(error: BaseException) -> list[str]:
    """Return where an error came from, as `file:line function`, without any of its values."""
    return [
        f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
    ]
