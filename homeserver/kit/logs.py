"""Structured logs: one JSON object a line, or aligned text on a terminal; every line of a request carries its id.

A traceback shows the lines of the code and never the values of variables, among which are passwords, tokens and keys.
Both shapes of structlog show values unless told otherwise.
"""

import logging
import sys

import structlog

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(level: str, *, json: bool) -> None:
    """Set the process up to log at `level` and above on standard error."""
    threshold = _LEVELS[level]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[structlog.typing.Processor] = (
        [
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ]
        if json
        else [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    )
    structlog.configure(
        processors=shared + render,
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries that log through the standard module are shown from "warning" on, in the same shape.
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *render,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(threshold, logging.WARNING))


class Trouble(Exception):
    """What is known to happen and to pass: where it came up is of no interest, only that it did, and why."""


def report(error: BaseException) -> None:
    """Log a failure of work that nobody waits for."""
    if isinstance(error, Trouble):
        reason = str(error.__cause__ or error)
        structlog.get_logger().warning("background work could not be done, and is tried again", reason=reason)
    else:
        structlog.get_logger().error("background work failed", exc_info=error)
