"""Structured logs as console text or JSON lines, including the standard library's loggers. Masks secrets."""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from stream_app.ops.log_throttle import ThrottledHandler

MASK = "***"

_SENSITIVE = r"passw(?:or)?d|passphrase|secret|token|sasl|credential|api_?key|private_?key|authorization"
_SECRET_KEY = re.compile(_SENSITIVE, re.IGNORECASE)
#: A value in quotes; the quotes may be escaped. It may contain line breaks, as a private key does.
_QUOTED = r"""(?P<quote>\\*["'])(?:(?!(?P=quote))(?:\\[\s\S]|[^\\]))*(?P=quote)(?!\w)"""
#: One character of a value without quotes. Such a value ends with the line, at a comma or semicolon, or before the
#: next `key=`.
_PLAIN = r"(?:(?!\s[\w.-]{1,64}\s{0,3}=|&[\w.-]{1,64}=)[^\r\n,;])"
_SECRET_IN_TEXT = (
    # password=..., "sasl_plain_password": "...", Authorization: Bearer ...; but not SaslAuthenticationError: ...
    (
        re.compile(
            rf"""((?:{_SENSITIVE})[\w.-]{{0,64}}(?:\\*["'])?\s*(?:=|(?<!error)(?<!exception)(?<!warning):)\s*)"""
            rf"(?:{_QUOTED}|(?:bearer|basic)\s+\S+{_PLAIN}*|{_PLAIN}+)",
            re.IGNORECASE,
        ),
        rf"\1\g<quote>{MASK}\g<quote>",
    ),
    # scheme://user:password@host, up to the last @, because a password may contain @ and slashes.
    (re.compile(r"(://[^/\s:@]*:)[^\s\"'<>]+@"), rf"\1{MASK}@"),
)

#: Loggers whose `info` messages concern only their developers.
_CHATTY = ("aiokafka", "kafka", "asyncio", "aiohttp.access")

#: Libraries that repeat the same messages while a broker is unreachable or a port is flooded.
_THROTTLED = ("aiokafka", "kafka", "aiohttp", "asyncio")


def _is_no_bad_request(record: logging.LogRecord) -> bool:
    """False for aiohttp's traceback about an invalid HTTP request, which the client learns from status 400."""
    error = record.exc_info[1] if record.exc_info else None
    return record.name != "aiohttp.server" or type(error).__module__ != "aiohttp.http_exceptions"


def redact(logger: WrappedLogger | None, method: str, event: EventDict) -> EventDict:
    """A structlog processor that masks secrets, which it recognises by their key or by the text before them."""
    return cast(EventDict, _masked(event))


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        for pattern, replacement in _SECRET_IN_TEXT:
            value = pattern.sub(replacement, value)
        return value
    if isinstance(value, Mapping):
        return {
            key: MASK if isinstance(key, str) and _SECRET_KEY.search(key) else _masked(each)
            for key, each in value.items()
        }
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(_masked(each) for each in value)
    return value


def _shared() -> list[Processor]:
    """The processors for all records, our own and those of libraries."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(allow=()),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def setup_logging(level: str = "info", form: str = "console", stream: TextIO | None = None) -> None:
    """Sends all logs of the process to `stream` (by default stderr) at `level`, with `form` console or json.

    Call it once at the start of a command; a later call replaces the earlier one.
    """
    stream = sys.stderr if stream is None else stream
    # Tracebacks become text before `redact`, so that secrets in an exception's message are masked too.
    last: list[Processor]
    if form == "json":
        last = [
            structlog.processors.format_exc_info,
            redact,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(default=repr),
        ]
    else:
        colors = stream.isatty()
        last = [
            structlog.processors.format_exc_info,
            redact,
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback),
        ]
    handler = ThrottledHandler(stream, () if level == "debug" else _THROTTLED)
    if level != "debug":
        handler.addFilter(_is_no_bad_request)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
            foreign_pre_chain=_shared(),
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    number = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(number)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(number, logging.WARNING) if level != "debug" else number)
    # At "debug" numba logs each step of each compilation, so a start would take minutes.
    logging.getLogger("numba").setLevel(logging.WARNING)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
