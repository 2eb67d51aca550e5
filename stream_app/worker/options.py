"""The settings of a worker, divided so that each part gets only the options that it needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stream_app.kafka.security import kafka_options
from stream_app.settings import Settings

#: Share of the session timeout that the checkpoint at a revoke may take. The group waits for this worker no longer
#: than the session timeout, and the worker learns of the rebalance up to one heartbeat after it has begun.
REVOKE_SHARE = 0.5


@dataclass(frozen=True)
class TurnOptions:
    """Limits of turns, and of the records that wait for a turn."""

    max_batch: int  #: events of one micro-batch
    max_idle_s: float
    commit_interval_s: float
    buffered_records: int
    buffer_bytes: int


@dataclass(frozen=True)
class CheckpointOptions:
    """Limits of checkpoints, in seconds."""

    session_timeout_s: float
    revoke_s: float  #: how long the checkpoint at a revoke may take


@dataclass(frozen=True)
class ProducerOptions:
    """How the partition producers write."""

    group: str
    compression: str
    timeout_ms: int  #: after which the broker aborts a transaction that nobody ends
    transactional: bool


@dataclass(frozen=True)
class WorkerOptions:
    """The options of all parts of a pipeline."""

    client: Mapping[str, Any]  #: brokers and security, as an aiokafka client takes them
    turns: TurnOptions
    checkpoints: CheckpointOptions
    producers: ProducerOptions
    skip_damaged_state: bool
    web_url: str  #: where the worker's pages are, empty if it serves none

    @classmethod
    def of(cls, settings: Settings) -> "WorkerOptions":
        """The options that follow from the settings. Raises SecurityError if a TLS file cannot be used."""
        session_timeout_s = settings.session_timeout_ms / 1000
        return cls(
            client=kafka_options(settings),
            turns=TurnOptions(
                max_batch=settings.max_batch,
                max_idle_s=settings.max_idle_ms / 1000,
                commit_interval_s=settings.commit_interval_ms / 1000,
                buffered_records=settings.buffered_records,
                buffer_bytes=settings.buffer_bytes,
            ),
            checkpoints=CheckpointOptions(session_timeout_s, REVOKE_SHARE * session_timeout_s),
            producers=ProducerOptions(
                group=settings.group,
                compression=settings.compression,
                timeout_ms=settings.transaction_timeout_ms,
                transactional=settings.guarantee == "exactly_once",
            ),
            skip_damaged_state=settings.skip_damaged_state,
            web_url=web_url(settings),
        )


def web_url(settings: Settings) -> str:
    """Where the worker's pages are, empty if it serves none."""
    if not settings.web:
        return ""
    return f"{'https' if settings.web_cert else 'http'}://{settings.web}/"
