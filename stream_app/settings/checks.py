"""What is wrong between settings that are each right."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from stream_app.settings.kafka import kafka_clashes
from stream_app.settings.sources import Secret

#: How far ahead of its record's time an event may be, where nothing else is set: a tenth of the default lateness.
FUTURE_MS = 30_000
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,}")  # what RFC 6750 allows


def clashes(values: Mapping[str, Any]) -> Iterator[str]:
    """Each of them as a sentence; `values` by the names of the settings."""
    if values["heartbeat_ms"] * 3 > values["session_timeout_ms"]:
        yield (
            f"heartbeat_ms is {values['heartbeat_ms']}, more than a third of session_timeout_ms "
            f"({values['session_timeout_ms']}): one lost heartbeat would cost the worker its partitions"
        )
    future_ms, lateness_ms = values["max_future_ms"], values["lateness_ms"]
    if future_ms > (most := max(FUTURE_MS, lateness_ms // 10)):
        yield (
            f"max_future_ms is {future_ms}, more than a tenth of lateness_ms ({lateness_ms}): "
            f"a sender so far ahead has a wrong clock, so set at most {most}"
        )
    yield from kafka_clashes(values)
    if (values["web_cert"] is None) != (values["web_key"] is None):
        yield "web_cert and web_key belong together: give both for TLS, or none"
    token: Secret | None = values["web_token"]
    if token is None and values["web_protect"] == "all":
        yield "web_protect is all, but there is no token: set FORECLICK_WEB_TOKEN or web_token_file"
    if token is not None and not _TOKEN.fullmatch(token.reveal()):
        yield (
            "web_token must be 16 or more letters, digits or characters of -._~+/= (not shown, it is a secret): "
            "make one with `openssl rand -hex 32`"
        )
