"""The topics of a worker: their configuration; creates missing topics and checks existing ones."""

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

from stream_app.contract.topics import Topics
from stream_app.kafka.errors import TopicError
from stream_app.kafka.security import explain, identity, kafka_options, require_rights
from stream_app.kafka.security.refusals import refusal
from stream_app.kafka.security.rights import Needs, Operation
from stream_app.kafka.topic_problems import Problem, merged, missing
from stream_app.kafka.waiting import waiting_for
from stream_app.settings import DAY_MS, Settings

#: Kafka's default for the largest record batch of a topic, in bytes.
MESSAGE_BYTES = 1_048_588
#: Largest batch of state that a worker sends: `BATCH_BYTES` of `record_batches.size_limits`, which is slow to import.
BATCH_BYTES = 512 * 1024
#: The least batch size that an output topic must accept: enough for a dead letter's own headers, or for a prediction
#: without items.
OUTPUT_BYTES = 16 * 1024
#: Room for the headers that a dead letter adds to its record.
DEAD_LETTER_ROOM = 64 * 1024

_APPEND_TIME = {"cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime"}
_CHANGELOG = {
    "cleanup.policy": "compact",
    # Small segments, compacted early: so recovery reads few more records than there are users.
    "segment.bytes": str(64 * 1024 * 1024),
    "segment.ms": str(3_600_000),
    "min.cleanable.dirty.ratio": "0.2",
    "min.compaction.lag.ms": str(60_000),
    "delete.retention.ms": str(DAY_MS),
    "max.message.bytes": str(8 * 1024 * 1024),
}


class TopicSpec(NamedTuple):
    """A topic as we create it."""

    name: str
    configs: Mapping[str, str]


class _Found(NamedTuple):
    partitions: int
    configs: Mapping[str, str]
    unreadable: str  # why the configs could not be read, empty if they could


def topic_specs(topics: Topics) -> tuple[TopicSpec, ...]:
    """All topics of a worker: the inputs, the outputs, then the changelog."""
    return (
        *(TopicSpec(name, _APPEND_TIME) for name in topics.inputs),
        # With the broker's time in the outputs, anyone can measure the latency from the records alone.
        *(TopicSpec(name, _APPEND_TIME) for name in topics.outputs.values()),
        TopicSpec(topics.changelog, _CHANGELOG),
    )


async def ensure_topics(settings: Settings, topics: Topics, *, wait_s: float = 10.0) -> tuple[str, ...]:
    """Creates the missing topics and waits until they have leaders; returns the names of the created ones.

    They get as many partitions as the existing topics have, or `settings.partitions` if none exists. Raises
    BrokerUnreachable after `wait_s`, TopicError if a topic cannot be created or an existing one does not fit.
    """
    specs = topic_specs(topics)
    async with admin_client(settings, wait_s) as admin:
        found = await _describe(admin, specs)
        _refuse(_problems(settings, topics, found), found)
        made = await _create(admin, _missing(settings, topics, found), wait_s)
        # Somebody else may have created some of them at the same moment, with another number of partitions.
        found = await _describe(admin, specs)
        _refuse(_problems(settings, topics, found), found)
    return made


async def check_topics(settings: Settings, topics: Topics, *, wait_s: float = 10.0) -> list[Problem]:
    """The problems with the topics; empty if they are as the worker needs them.

    Raises BrokerUnreachable if no broker answers within `wait_s`. Creates no topics, not even on a broker that
    creates topics automatically.
    """
    async with admin_client(settings, wait_s) as admin:
        return _problems(settings, topics, await _describe(admin, topic_specs(topics)))


async def require_topics(settings: Settings, topics: Topics, *, wait_s: float = 10.0) -> list[Problem]:
    """Raises TopicError with all problems that keep a worker from running; returns the others, which are advice.

    Raises RightsError if we lack rights that a worker needs on the topics.
    """
    async with admin_client(settings, wait_s):  # until a broker answers
        options = kafka_options(settings)
        await require_rights(options, identity(settings.kafka), _needs(topics), settings.group)
    problems = await check_topics(settings, topics, wait_s=wait_s)
    _refuse(problems)
    return problems


async def batch_limits(settings: Settings, topics: Topics, *, wait_s: float = 10.0) -> dict[str, int]:
    """The largest record batch, in bytes, of each topic that a worker writes, if the broker tells it.

    Raises BrokerUnreachable after `wait_s`.
    """
    async with admin_client(settings, wait_s) as admin:
        found = await _describe(admin, topic_specs(topics))
    limits = {name: _limit(found[name].configs) for name in topics.written if name in found}
    return {name: limit for name, limit in limits.items() if limit is not None}


def _limit(configs: Mapping[str, str]) -> int | None:
    """The largest record batch, in bytes, that a topic with these configurations accepts; None if they do not say."""
    sizes = [int(configs[name]) for name in ("max.message.bytes", "segment.bytes") if configs.get(name)]
    if not sizes:
        return None
    most = min(sizes)
    # A broker that compresses batches itself checks the size after that, and incompressible data grows a little.
    return (
        most
        if configs.get("compression.type", "producer") in ("producer", "uncompressed")
        else most - most // 64
    )


async def input_partitions(settings: Settings, topics: Topics, *, wait_s: float = 10.0) -> int:
    """The number of partitions of each input topic. Raises BrokerUnreachable after `wait_s`."""
    async with admin_client(settings, wait_s) as admin:
        (described,) = await admin.describe_topics([topics.inputs[0]])
        return len(described["partitions"])


async def has_begun(settings: Settings, topics: Topics, *, wait_s: float = 10.0) -> bool:
    """Whether the group has committed offsets, so this is not its first start.

    True if the broker does not tell. Raises BrokerUnreachable after `wait_s`.
    """
    async with admin_client(settings, wait_s) as admin:
        try:
            found = await admin.list_consumer_group_offsets(settings.group)
        except KafkaError:
            return True
    return any(each.topic in topics.inputs and at.offset >= 0 for each, at in found.items())


def _needs(topics: Topics) -> Needs:
    """The operations on its topics that a worker needs."""
    return {
        **dict.fromkeys(topics.inputs, (Operation.READ,)),
        **dict.fromkeys(topics.outputs.values(), (Operation.WRITE,)),
        topics.changelog: (Operation.READ, Operation.WRITE),
    }


def _refuse(problems: Sequence[Problem], topics: Container[str] | None = None) -> None:
    """Raises TopicError for the fatal problems (if `topics` is given, only for those of these topics)."""
    fatal = [each for each in problems if each.fatal and (topics is None or each.topic in topics)]
    if fatal:
        raise TopicError("; ".join(each.text for each in merged(fatal)))


@asynccontextmanager
async def admin_client(settings: Settings, wait_s: float) -> AsyncIterator[AIOKafkaAdminClient]:
    """A connected admin client; tries for `wait_s` to connect.

    Raises BrokerUnreachable or SecurityError if it cannot connect, and TopicError if the broker refuses a request
    made within the context.
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
    """Connects, and tries again while no broker answers."""
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
    # Ask for all topics: to ask for a name would create the topic on a broker that creates topics automatically.
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


def _problems(settings: Settings, topics: Topics, found: Mapping[str, _Found]) -> list[Problem]:
    """The problems with the topics `found`, in the order of `topic_specs`."""
    problems = []
    first = next(iter(found), "")
    for spec in topic_specs(topics):
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
            problems.extend(_config_problems(settings, topics, spec, found))
    return problems


def _config_problems(
    settings: Settings, topics: Topics, spec: TopicSpec, found: Mapping[str, _Found]
) -> list[Problem]:
    configs = found[spec.name].configs
    policy = configs.get("cleanup.policy", "")
    problems = []
    takes = int(configs.get("max.message.bytes", MESSAGE_BYTES))
    if spec.name == topics.changelog and takes < BATCH_BYTES:
        text = (
            f"topic {spec.name} takes batches of at most {takes} bytes, and a worker under load sends some of "
            f"{BATCH_BYTES}: set max.message.bytes to {MESSAGE_BYTES}"
        )
        problems.append(Problem(spec.name, text, True))
    elif spec.name in topics.outputs.values() and takes < OUTPUT_BYTES:
        text = (
            f"topic {spec.name} takes batches of at most {takes} bytes, too few for any output: "
            f"set max.message.bytes to {MESSAGE_BYTES}"
        )
        problems.append(Problem(spec.name, text, True))
    if spec.name == topics.changelog:
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
        problems.extend(_producers_time(settings, topics, spec.name))
    if spec.name == topics.outputs["dead-letters"]:
        needed = _dead_letter_bytes(topics, found)
        if int(configs.get("max.message.bytes", MESSAGE_BYTES)) < needed:
            text = (
                f"topic {spec.name} accepts no dead letter as large as the largest input record, so larger ones "
                f"are cut: set max.message.bytes to {needed} to keep them whole"
            )
            problems.append(Problem(spec.name, text, False, f"max.message.bytes={needed}"))
    return problems


def _producers_time(settings: Settings, topics: Topics, topic: str) -> Iterator[Problem]:
    """The problem with a topic whose records have the time that their producers set."""
    if topic not in topics.inputs:
        text = (
            f"topic {topic} keeps the producer's time, so latency depends on our clock: set "
            "message.timestamp.type to LogAppendTime"
        )
        yield Problem(topic, text, False, "message.timestamp.type=LogAppendTime")
    elif settings.record_time == "broker":
        text = (
            f"topic {topic} keeps the producer's time, so any producer could delay or hide the events of all "
            "others: run `kafka-configs.sh --bootstrap-server "
            f"{settings.brokers[0]} --alter --entity-type topics --entity-name {topic} --add-config "
            "message.timestamp.type=LogAppendTime`, or set FORECLICK_RECORD_TIME=producer to trust the clocks of all "
            "producers"
        )
        yield Problem(topic, text, True)


def _dead_letter_bytes(topics: Topics, found: Mapping[str, _Found]) -> int:
    """Size of the largest dead letter: the largest input and its headers."""
    inputs = (found[name].configs for name in topics.inputs if name in found)
    largest = max(
        (int(each.get("max.message.bytes", MESSAGE_BYTES)) for each in inputs), default=MESSAGE_BYTES
    )
    return largest + DEAD_LETTER_ROOM


def _missing(settings: Settings, topics: Topics, found: Mapping[str, _Found]) -> list[NewTopic]:
    """The topics to create in addition to those `found`, with as many partitions as those have."""
    partitions = next((each.partitions for each in found.values()), settings.partitions)
    # Three replicas survive the loss of a broker only if two of them must have each record.
    durable = {"min.insync.replicas": "2"} if settings.replication >= 3 else {}
    room = {"max.message.bytes": str(_dead_letter_bytes(topics, found))}
    new = []
    for spec in topic_specs(topics):
        if spec.name not in found:
            extra = room if spec.name == topics.outputs["dead-letters"] else {}
            configs = {**spec.configs, **durable, **extra}
            new.append(NewTopic(spec.name, partitions, settings.replication, topic_configs=configs))
    return new


async def _create(admin: AIOKafkaAdminClient, topics: list[NewTopic], wait_s: float) -> tuple[str, ...]:
    """Creates the topics and waits until all can be used; returns those that did not exist before."""
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
            f"the broker created {', '.join(sorted(names))}, but they have no leaders after {wait_s:g} s: "
            "check the broker's log"
        ) from None
    return tuple(made)


async def _led(admin: AIOKafkaAdminClient, names: set[str]) -> bool:
    """Whether every partition of these topics has a leader, so that it can be written and read."""
    topics: list[dict[str, Any]] = await admin.describe_topics()
    led = {
        topic["topic"]
        for topic in topics
        if not topic["error_code"]
        and topic["partitions"]
        and all(not each["error_code"] and each["leader"] >= 0 for each in topic["partitions"])
    }
    return names <= led
