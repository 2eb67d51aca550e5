"""Settings: each documented where it is declared; defaults < TOML file < environment < options.

The options of `foreclick worker`, the names of the environment variables (`FORECLICK_` and the name in upper
case; `FORECLICK_RULES_` for the rules) and the reference page derive from the declarations here.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_origin

import msgspec

from model.training.settings import TrainSettings
from stream_app.settings.checks import FUTURE_MS
from stream_app.settings.flag_limits import Rules
from stream_app.settings.kafka import KafkaAccess
from stream_app.settings.sources import Field, Secret, make_field, moment_ms
from stream_app.settings.sources import doc as _doc

DAY_MS = 86_400_000
#: Default horizon of the probability of a purchase.
HORIZON_MS = 1_800_000
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+):(\d{1,5})")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}")


def _is_address(text: str) -> bool:
    match = _ADDRESS.fullmatch(text)
    return match is not None and int(match[2]) <= 65_535


def _are_brokers(brokers: tuple[str, ...]) -> bool:
    return all(_is_address(each) and int(each.rpartition(":")[2]) > 0 for each in brokers)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of a worker."""

    brokers: Annotated[
        tuple[str, ...],
        _doc(
            "Kafka brokers that the first connection goes to",
            takes="host:port, several separated by commas",
            check=_are_brokers,
            min_length=1,
        ),
    ] = ("127.0.0.1:9092",)
    group: Annotated[
        str,
        _doc(
            "consumer group: the workers of one group share the partitions",
            takes="1 to 100 letters, digits, dots, dashes or underscores",
            pattern=r"^[A-Za-z0-9._-]{1,100}\Z",
        ),
    ] = "foreclick"
    topic_prefix: Annotated[
        str,
        _doc(
            "text before the name of every topic",
            takes="up to 100 letters, digits, dots, dashes or underscores",
            pattern=r"^[A-Za-z0-9._-]{0,100}\Z",
        ),
    ] = ""
    partitions: Annotated[
        int, _doc("partitions of each topic that `foreclick topics --create` creates", ge=1, le=10_000)
    ] = 4
    replication: Annotated[
        int, _doc("replicas of each topic that `foreclick topics --create` creates", ge=1, le=15)
    ] = 1
    data_dir: Annotated[Path, _doc("folder for data that this machine keeps between runs")] = Path(
        ".foreclick"
    )
    web: Annotated[
        str,
        _doc(
            "address that serves metrics, health and user look-ups",
            takes="host:port, or nothing to turn it off",
            check=lambda web: not web or _is_address(web),
        ),
    ] = "127.0.0.1:6066"
    web_hosts: Annotated[
        tuple[str, ...],
        _doc(
            "host names that requests to the web port may use, besides addresses and this machine's own name",
            takes="host names, several separated by commas",
            check=lambda names: all(map(_NAME.fullmatch, names)),
        ),
    ] = ()
    web_token: Annotated[
        Secret | None,
        _doc(
            "bearer token of the web port; without one, look-ups are answered on the loopback interface only"
        ),
    ] = None
    web_token_file: Annotated[Path | None, _doc("file that contains the token of the web port")] = None
    web_protect: Annotated[
        Literal["users", "all"],
        _doc("what requires the token: user look-ups, or also metrics and the details of health"),
    ] = "users"
    web_cert: Annotated[Path | None, _doc("TLS certificate of the web port (PEM, with its chain)")] = None
    web_key: Annotated[Path | None, _doc("private key of that certificate (PEM, without a password)")] = None

    model: Annotated[
        Path | None,
        _doc("model folder; without one, there are only windows and rules, and predictions have no content"),
    ] = None
    model_key: Annotated[
        Path | None,
        _doc("file of public keys (Ed25519, PEM); a model that is not signed by one of them is refused"),
    ] = None
    model_name: Annotated[
        str,
        _doc(
            "name that the model must have, so that a signed model for another purpose is refused",
            takes="a name as `foreclick train --name` gives it, or nothing for any",
        ),
    ] = ""
    model_not_before: Annotated[
        str,
        _doc(
            "earliest time at which the model may have been made; an older one is refused, even if it is signed",
            takes="a time such as 2026-11-27T08:00:00Z, or nothing for any",
            check=lambda text: not text or moment_ms(text) is not None,
        ),
    ] = ""
    start_without_model: Annotated[
        bool,
        _doc("let a group that has committed nothing yet start although its model is missing"),
    ] = False
    device: Annotated[
        str,
        _doc(
            "where the model runs; auto uses CUDA if the machine has it",
            takes="auto, cpu, cuda or cuda:N",
            pattern=r"^(auto|cpu|cuda(:\d+)?)\Z",
        ),
    ] = "auto"
    model_trouble: Annotated[
        Literal["degrade", "hold"],
        _doc(
            "while the model fails: answer without it and mark the answers, or hold events back until it works"
        ),
    ] = "degrade"
    model_slow_ms: Annotated[
        int,
        _doc(
            "a slower model step counts as a model failure (only with model_trouble = degrade)",
            "ms",
            ge=10,
            le=DAY_MS,
        ),
    ] = 10_000
    k: Annotated[int, _doc("items in a prediction", "items", ge=1, le=1000)] = 10
    horizon_ms: Annotated[
        int | None,
        _doc(
            "how far ahead a purchase is predicted. A training uses it (30 minutes if it is not given); a worker "
            "only checks that its model has the same horizon",
            "ms",
            ge=1000,
            le=365 * DAY_MS,
        ),
    ] = None
    emit: Annotated[
        Literal["all", "latest"],
        _doc("one prediction per event, or only one for a user's last event of a micro-batch"),
    ] = "all"
    output_format: Annotated[Literal["json", "msgpack"], _doc("encoding of predictions and flags")] = "json"
    compression: Annotated[
        Literal["none", "lz4", "zstd", "gzip"],
        _doc("compression of the record batches that the worker writes"),
    ] = "none"

    guarantee: Annotated[
        Literal["at_least_once", "exactly_once"],
        _doc(
            "at_least_once: outputs may be repeated after a failure, with the same id; exactly_once: "
            "read-committed consumers see each output once. Both lose no output, and the state is exact"
        ),
    ] = "at_least_once"
    transaction_timeout_ms: Annotated[
        int,
        _doc(
            "time until the broker aborts an open transaction; at most the broker's transaction.max.timeout.ms",
            "ms",
            ge=1000,
            le=DAY_MS,
        ),
    ] = 60_000
    commit_interval_ms: Annotated[int, _doc("longest time between two commits", "ms", ge=10, le=60_000)] = 500
    max_delay_ms: Annotated[
        int,
        _doc(
            "how long to collect records between two fetches while few records arrive", "ms", ge=0, le=10_000
        ),
    ] = 3
    max_batch: Annotated[
        int, _doc("largest number of events in a micro-batch", "events", ge=1, le=1_000_000)
    ] = 4096
    buffered_records: Annotated[
        int,
        _doc(
            "records buffered per partition of an input topic before its fetch pauses",
            "records",
            ge=1,
            le=10**8,
        ),
    ] = 20_000
    buffer_bytes: Annotated[
        int,
        _doc(
            "bytes buffered for all partitions of the input topics, in equal shares, before their fetches pause",
            "bytes",
            ge=1 << 20,
            le=1 << 40,
        ),
    ] = 64 << 20

    lateness_ms: Annotated[
        int,
        _doc(
            "how much older than its user's newest event an event may be and still count in windows",
            "ms",
            ge=0,
            le=30 * DAY_MS,
        ),
    ] = 300_000
    max_idle_ms: Annotated[
        int,
        _doc("how long the merge waits for an input topic that has nothing to read", "ms", ge=0, le=60_000),
    ] = 20
    max_future_ms: Annotated[
        int,
        _doc(
            f"how far an event may be ahead of its record's time; above {FUTURE_MS}, at most a tenth of lateness_ms",
            "ms",
            ge=0,
            le=3 * DAY_MS,
        ),
    ] = FUTURE_MS
    record_time: Annotated[
        Literal["broker", "producer"],
        _doc(
            "which clock sets the time of input records: only the broker's (message.timestamp.type=LogAppendTime), "
            "or also the producers', if you trust the clocks of all of them"
        ),
    ] = "broker"
    max_past_ms: Annotated[
        int,
        _doc(
            "how far an event may be behind its record's time; 0 for no limit, which recordings and replays need",
            "ms",
            ge=0,
            le=3650 * DAY_MS,
        ),
    ] = 0
    correct_clock: Annotated[
        bool, _doc("correct the time of an event by the sender's clock if the event has sent_at")
    ] = False

    resident_users: Annotated[
        int, _doc("users kept in memory, in equal shares per partition", "users", ge=1, le=10**9)
    ] = 1_000_000
    user_ttl_ms: Annotated[
        int,
        _doc("event time without events after which a user is forgotten", "ms", ge=60_000, le=3650 * DAY_MS),
    ] = 30 * DAY_MS

    skip_damaged_state: Annotated[
        bool, _doc("skip state records with impossible values; their users start again without history")
    ] = False

    standby_replicas: Annotated[
        int,
        _doc(
            "how many other workers keep a copy of a partition's state, for a fast take-over",
            "workers",
            ge=0,
            le=10,
        ),
    ] = 0
    instance_id: Annotated[
        str,
        _doc(
            "fixed name of this worker in its group. A worker that restarts with it before its session ends gets its "
            "partitions back without a rebalance. Each worker needs a name of its own",
            takes="letters, digits and ._-",
            pattern=r"^[A-Za-z0-9._-]{0,249}\Z",
        ),
    ] = ""
    session_timeout_ms: Annotated[
        int,
        _doc(
            "time without a heartbeat after which the broker considers a worker dead",
            "ms",
            ge=1000,
            le=1_800_000,
        ),
    ] = 6000
    heartbeat_ms: Annotated[
        int, _doc("time between two heartbeats to the broker", "ms", ge=100, le=600_000)
    ] = 1000
    ready_max_age_ms: Annotated[
        int,
        _doc(
            "the worker is not ready while its oldest unprocessed record is older than this",
            "ms",
            ge=100,
            le=DAY_MS,
        ),
    ] = 30_000

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _doc("lowest level of messages that are logged")
    ] = "info"
    log_format: Annotated[
        Literal["console", "json"], _doc("logs for people, or one JSON object per line")
    ] = "console"

    kafka: KafkaAccess = KafkaAccess()
    rules: Rules = Rules()
    train: TrainSettings = TrainSettings()

    @property
    def bootstrap(self) -> str:
        """The brokers as one string, as Kafka clients take them."""
        return ",".join(self.brokers)

    def topic(self, name: str) -> str:
        """The full name of one of our topics: `topic("clicks")`."""
        return self.topic_prefix + name

    @property
    def model_not_before_ms(self) -> int:
        """`model_not_before` in Unix ms, 0 for any time."""
        return moment_ms(self.model_not_before) or 0

    @property
    def web_address(self) -> tuple[str, int] | None:
        """Host and port of the web server, None where it is off."""
        if not self.web:
            return None
        host, _, port = self.web.rpartition(":")
        return host.strip("[]"), int(port)


#: Groups of settings: a table in the TOML file, and a prefix of the name in other sources.
GROUPS: Mapping[str, type[msgspec.Struct]] = {"kafka": KafkaAccess, "rules": Rules, "train": TrainSettings}


def fields() -> tuple[Field, ...]:
    """All settings in the order of their declarations, with the groups at the end."""
    plain = (each for each in msgspec.structs.fields(Settings) if each.name not in GROUPS)
    return (
        *(make_field(each.name, (each.name,), each.type, each.default) for each in plain),
        *(
            make_field(f"{group}_{each.name}", (group, each.name), each.type, each.default)
            for group, struct in GROUPS.items()
            for each in msgspec.structs.fields(struct)
            if get_origin(each.type) is Annotated  # a field without a description is set by another setting
        ),
    )
