"""The topics of a worker: what they must look like, how missing ones are made and existing ones checked."""

import asyncio
import time
from collections.abc import AsyncIterator, Container, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    NodeNotReadyError,
    TopicAlreadyExistsError,
    for_code,
)

from stream_app.kafka.errors import TopicError
from stream_app.kafka.security import explain, identity, kafka_options, require_rights
from stream_app.kafka.security.refusals import refusal
from stream_app.kafka.security.rights import Needs, Operation
from stream_app.kafka.topic_problems import Problem, merged, missing
from stream_app.kafka.waiting import waiting_for
from stream_app.settings import DAY_MS, Settings

#: Kafka's default for the largest record batch of a topic, in bytes.
MESSAGE_BYTES = 1_048_588
#: Largest batch of state that a worker sends: `BATCH_BYTES` of `transport.room`, which takes long to import.
BATCH_BYTES = 512 * 1024
#: Least that an output topic must take: a dead letter's own headers, or a prediction without items, with some room.
OUTPUT_BYTES = 16 * 1024
#: Room for the headers that a dead letter carries beside the record it keeps.
DEAD_LETTER_ROOM = 64 * 1024

_APPEND_TIME = {"cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime"}
_CHANGELOG = {
    "cleanup.policy": "compact",
    # Small segments, cleaned early: what recovery reads stays near the number of users.
    "segment.bytes": str(64 * 1024 * 1024),
    "segment.ms": str(3_600_000),
    "min.cleanable.dirty.ratio": "0.2",
    "min.compaction.lag.ms": str(60_000),
    "delete.retention.ms": str(DAY_MS),
    "max.message.bytes": str(8 * 1024 * 1024),
}


class TopicSpec(NamedTuple):
    """A topic as we make it."""

    name: str
    configs: Mapping[str, str]


class _Found(NamedTuple):
    partitions: int
    configs: Mapping[str, str]
    unreadable: str  # why the configs could not be read, empty where they were


def topic_specs(settings: Settings) -> tuple[TopicSpec, ...]:
    """All topics of a worker: the inputs, the outputs, then the changelog."""
    return (
        *(TopicSpec(name, _APPEND_TIME) for name in settings.inputs),
        # The broker's time in the outputs lets anyone measure the latency from the records alone.
        *(TopicSpec(name, _APPEND_TIME) for name in settings.outputs),
        TopicSpec(settings.changelog, _CHANGELOG),
    )


async def ensure_topics(settings: Settings, *, wait_s: float = 10.0) -> tuple[str, ...]:
    """Make the topics that are missing and wait until they have leaders; returns the names of those made.

    They get as many partitions as those that exist already, `settings.partitions` where none does. Raises
    BrokerUnreachable after `wait_s`, TopicError where a topic cannot be made or an existing one does not fit.
    """
    specs = topic_specs(settings)
    async with admin_client(settings, wait_s) as admin:
        found = await _describe(admin, specs)
        _refuse(_problems(settings, found), found)
        made = await _create(admin, _missing(settings, found), wait_s)
        # Somebody may have made some at the same moment, with other partitions than ours.
        found = await _describe(admin, specs)
        _refuse(_problems(settings, found), found)
    return made


async def check_topics(settings: Settings, *, wait_s: float = 10.0) -> list[Problem]:
    """What is wrong with the topics, empty where they are as the worker needs them.

    Raises BrokerUnreachable where no broker answers within `wait_s`. Makes no topic, not even on a broker
    that makes each one that is asked for.
    """
    async with admin_client(settings, wait_s) as admin:
        return _problems(settings, await _describe(admin, topic_specs(settings)))


async def require_topics(settings: Settings, *, wait_s: float = 10.0) -> list[Problem]:
    """Raise TopicError with all that keeps a worker from running; returns the rest, which is advice.

    Raises RightsError where we may not use them as a worker does.
    """
    async with admin_client(settings, wait_s):  # so that the question of rights meets a broker that answers
        options = kafka_options(settings)
        await require_rights(options, identity(settings.kafka), _needs(settings), settings.group)
    problems = await check_topics(settings, wait_s=wait_s)
    _refuse(problems)
    return problems


async def batch_limits(settings: Settings, *, wait_s: float = 10.0) -> dict[str, int]:
    """Bytes of the largest record batch that each topic takes that a worker writes, as far as the broker says so.

    Raises BrokerUnreachable after `wait_s`.
    """
    async with admin_client(settings, wait_s) as admin:
        found = await _describe(admin, topic_specs(settings))
    written = (*settings.outputs, settings.changelog)
    limits = {name: _limit(found[name].configs) for name in written if name in found}
    return {name: limit for name, limit in limits.items() if limit is not None}


def _limit(configs: Mapping[str, str]) -> int | None:
    """Bytes of the largest record batch that a topic of these configurations takes; None where they do not say."""
    sizes = [int(configs[name]) for name in ("max.message.bytes", "segment.bytes") if configs.get(name)]
    if not sizes:
        return None
    most = min(sizes)
    # A broker that compresses by itself measures again, and what cannot be compressed grows a little.
    return (
        most
        if configs.get("compression.type", "producer") in ("producer", "uncompressed")
        else most - most // 64
    )


async def input_partitions(settings: Settings, *, wait_s: float = 10.0) -> int:
    """How many partitions each input topic has. Raises BrokerUnreachable after `wait_s`."""
    async with admin_client(settings, wait_s) as admin:
        (described,) = await admin.describe_topics([settings.inputs[0]])
        return len(described["partitions"])


async def has_begun(settings: Settings, *, wait_s: float = 10.0) -> bool:
    """Whether the group has committed a position, so that this is not its first start.

    True where the broker does not say. Raises BrokerUnreachable after `wait_s`.
    """
    async with admin_client(settings, wait_s) as admin:
        try:
            found = await admin.list_consumer_group_offsets(settings.group)
        except KafkaError:
            return True
    return any(each.topic in settings.inputs and at.offset >= 0 for each, at in found.items())


def _needs(settings: Settings) -> Needs:
    """What a worker does with its topics."""
    return {
        **dict.fromkeys(settings.inputs, (Operation.READ,)),
        **dict.fromkeys(settings.outputs, (Operation.WRITE,)),
        settings.changelog: (Operation.READ, Operation.WRITE),
    }


def _refuse(problems: Sequence[Problem], topics: Container[str] | None = None) -> None:
    """Raise TopicError for the fatal problems (of `topics`, where given)."""
    fatal = [each for each in problems if each.fatal and (topics is None or each.topic in topics)]
    if fatal:
        raise TopicError("; ".join(each.text for each in merged(fatal)))


@asynccontextmanager
async def admin_client(settings: Settings, wait_s: float) -> AsyncIterator[AIOKafkaAdminClient]:
    """A client of a broker that answers, tried again until `wait_s` is over.

    Raises BrokerUnreachable or SecurityError where there is none, TopicError for what the broker refuses within.
    """
    options = kafka_options(settings)
    client = AIOKafkaAdminClient(**options, request_timeout_ms=max(int(wait_s * 1000), 1000))
    began = time.monotonic()
    try:
        with waiting_for(settings.brokers):
            async with asyncio.timeout(wait_s):
                await _start(client, settings, options)
        yield client
    except (TimeoutError, KafkaConnectionError, KafkaTimeoutError, NodeNotReadyError) as error:
        tried = f" (tried for {round(time.monotonic() - began, 1):g} s)"
        raise await explain(settings.brokers, options, tried) from error
    except KafkaError as error:
        raise TopicError(f"the broker at {settings.bootstrap} refused to handle topics: {error}") from error
    finally:
        await client.close()


async def _start(client: AIOKafkaAdminClient, settings: Settings, options: Mapping[str, Any]) -> None:
    """Connects, as often as it takes."""
    while True:
        try:
            await client.start()
            return
        except KafkaConnectionError:
            # Waiting helps against a broker that is starting, not against one that refuses us.
            if refused := await refusal(settings.brokers, options):
                raise refused from None
            await asyncio.sleep(0.2)


async def _describe(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec]) -> dict[str, _Found]:
    # All topics are asked for: asking by name would make a missing one where the broker does that by itself.
    wanted = {spec.name for spec in specs}
    partitions = {
        topic["topic"]: len(topic["partitions"])
        for topic in await admin.describe_topics()
        if topic["topic"] in wanted
    }
    if not partitions:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in partitions]
    configs: dict[str, Mapping[str, str]] = {}
    unreadable: dict[str, str] = {}
    for response in await admin.describe_configs(resources):
        for code, message, _, name, entries, *_ in response.resources:
            if code:
                unreadable[name] = message or for_code(code).__name__
            configs[name] = {key: value for key, value, *_ in entries or ()}
    return {
        spec.name: _Found(partitions[spec.name], configs.get(spec.name, {}), unreadable.get(spec.name, ""))
        for spec in specs
        if spec.name in partitions
    }


def _problems(settings: Settings, found: Mapping[str, _Found]) -> list[Problem]:
    """What is wrong with the topics `found`, in the order of `topic_specs`."""
    problems = []
    first = next(iter(found), "")
    for spec in topic_specs(settings):
        topic = found.get(spec.name)
        if topic is None:
            problems.append(Problem(spec.name, missing([spec.name]), True, missing=True))
            continue
        if topic.partitions != found[first].partitions:
            text = (
                f"topic {spec.name} has {topic.partitions} partitions but {first} has "
                f"{found[first].partitions}: inputs, outputs and changelog need the same number, "
                "so delete it and create it again with that many"
            )
            problems.append(Problem(spec.name, text, True))
        if topic.unreadable:
            text = (
                f"the configuration of topic {spec.name} is unchecked: it cannot be read ({topic.unreadable})"
            )
            problems.append(Problem(spec.name, text, False))
        else:
            problems.extend(_config_problems(settings, spec, found))
    return problems


def _config_problems(settings: Settings, spec: TopicSpec, found: Mapping[str, _Found]) -> list[Problem]:
    configs = found[spec.name].configs
    policy = configs.get("cleanup.policy", "")
    problems = []
    takes = int(configs.get("max.message.bytes", MESSAGE_BYTES))
    if spec.name == settings.changelog and takes < BATCH_BYTES:
        text = (
            f"topic {spec.name} takes batches of at most {takes} bytes, and a worker under load sends some of "
            f"{BATCH_BYTES}: set max.message.bytes to {MESSAGE_BYTES}"
        )
        problems.append(Problem(spec.name, text, True))
    elif spec.name in settings.outputs and takes < OUTPUT_BYTES:
        text = (
            f"topic {spec.name} takes batches of at most {takes} bytes, too few for any output: "
            f"set max.message.bytes to {MESSAGE_BYTES}"
        )
        problems.append(Problem(spec.name, text, True))
    if spec.name == settings.changelog:
        if policy != "compact":
            text = f"topic {spec.name} has cleanup.policy={policy}, which loses state: set it to compact"
            problems.append(Problem(spec.name, text, True))
        return problems
    if "compact" in policy:
        text = (
            f"topic {spec.name} has cleanup.policy={policy}, which drops records of one key: set it to delete"
        )
        problems.append(Problem(spec.name, text, False, "cleanup.policy=delete"))
    if configs.get("message.timestamp.type") != "LogAppendTime":
        problems.extend(_producers_time(settings, spec.name))
    if spec.name == settings.topic("dead-letters"):
        needed = _dead_letter_bytes(settings, found)
        if int(configs.get("max.message.bytes", MESSAGE_BYTES)) < needed:
            text = (
                f"topic {spec.name} takes no bad record as large as the inputs may bring, so those will be cut: "
                f"set max.message.bytes to {needed} to keep them whole"
            )
            problems.append(Problem(spec.name, text, False, f"max.message.bytes={needed}"))
    return problems


def _producers_time(settings: Settings, topic: str) -> Iterator[Problem]:
    """What a topic means whose records carry the time that their producers say."""
    if topic not in settings.inputs:
        text = (
            f"topic {topic} keeps the producer's time, so latency rests on our clock: set message.timestamp.type to "
            "LogAppendTime"
        )
        yield Problem(topic, text, False, "message.timestamp.type=LogAppendTime")
    elif settings.record_time == "broker":
        text = (
            f"topic {topic} keeps the producer's time, by which whoever writes there could hold up or hide the "
            "events of all others: run `kafka-configs.sh --bootstrap-server "
            f"{settings.brokers[0]} --alter --entity-type topics --entity-name {topic} --add-config "
            "message.timestamp.type=LogAppendTime`, or set FORECLICK_RECORD_TIME=producer to trust the clocks of all "
            "who write there"
        )
        yield Problem(topic, text, True)


def _dead_letter_bytes(settings: Settings, found: Mapping[str, _Found]) -> int:
    """Size of the largest dead letter: the largest input and its headers."""
    inputs = (found[name].configs for name in settings.inputs if name in found)
    largest = max(
        (int(each.get("max.message.bytes", MESSAGE_BYTES)) for each in inputs), default=MESSAGE_BYTES
    )
    return largest + DEAD_LETTER_ROOM


def _missing(settings: Settings, found: Mapping[str, _Found]) -> list[NewTopic]:
    """What has to be made beside the topics `found`, with as many partitions as they have."""
    partitions = next((each.partitions for each in found.values()), settings.partitions)
    # Three copies survive the loss of one broker only where two must have each record.
    durable = {"min.insync.replicas": "2"} if settings.replication >= 3 else {}
    room = {"max.message.bytes": str(_dead_letter_bytes(settings, found))}
    topics = []
    for spec in topic_specs(settings):
        if spec.name not in found:
            extra = room if spec.name == settings.topic("dead-letters") else {}
            configs = {**spec.configs, **durable, **extra}
            topics.append(NewTopic(spec.name, partitions, settings.replication, topic_configs=configs))
    return topics


async def _create(admin: AIOKafkaAdminClient, topics: list[NewTopic], wait_s: float) -> tuple[str, ...]:
    """Make the topics, wait until all can be used, return those that were not there by then."""
    if not topics:
        return ()
    response = await admin.create_topics(topics, timeout_ms=int(wait_s * 1000))
    made, failed = [], []
    for name, code, *rest in response.topic_errors:
        error = for_code(code)
        if not code:
            made.append(name)
        elif error is not TopicAlreadyExistsError:  # another worker may have been faster
            failed.append(f"topic {name} cannot be made: {(rest and rest[0]) or error.__name__}")
    if failed:
        raise TopicError("; ".join(failed))
    names = {topic.name for topic in topics}
    try:
        async with asyncio.timeout(wait_s):
            while not await _led(admin, names):  # noqa: ASYNC110 - the broker sends no event for it
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise TopicError(
            f"the broker made {', '.join(sorted(names))} but gave them no leaders within {wait_s:g} s: "
            "look into its log"
        ) from None
    return tuple(made)


async def _led(admin: AIOKafkaAdminClient, names: set[str]) -> bool:
    """Whether every partition of `names` has a leader, so that it can be written and read."""
    topics: list[dict[str, Any]] = await admin.describe_topics()
    led = {
        topic["topic"]
        for topic in topics
        if not topic["error_code"]
        and topic["partitions"]
        and all(not each["error_code"] and each["leader"] >= 0 for each in topic["partitions"])
    }
    return names <= led
