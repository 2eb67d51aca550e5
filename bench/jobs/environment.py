"""Runs a processor as a worker; environment variables name its topics."""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from stream_app.agents.shop import app_around
from stream_app.commands.worker import serve
from stream_app.kafka.topics import input_partitions
from stream_app.ops.logging import setup_logging
from stream_app.processing.processor import Processor
from stream_app.settings import Settings


class JobSettings(Settings, frozen=True):
    """Settings of a worker that reads one topic, with the topics of a run."""

    in_topic: str = ""
    out_topic: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The one input topic."""
        return (self.in_topic,)

    @property
    def outputs(self) -> tuple[str, str, str]:
        """Answers, flags and dead letters."""
        return (self.out_topic, f"{self.group}-flags", f"{self.group}-dead-letters")

    @property
    def changelog(self) -> str:
        """The topic of the state records."""
        return f"{self.group}-state"


def settings_of(environment: dict[str, str], **more: object) -> JobSettings:
    """Return settings from BROKER, IN, OUT, RID and STATE, and from GUARANTEE and COMMIT_MS if they are given."""
    if guarantee := environment.get("GUARANTEE"):
        more["guarantee"] = guarantee
    if commit_ms := environment.get("COMMIT_MS"):
        more["commit_interval_ms"] = int(commit_ms)
    return JobSettings(
        brokers=(environment["BROKER"],),
        group=environment["RID"],
        in_topic=environment["IN"],
        out_topic=environment["OUT"],
        data_dir=Path(environment["STATE"]),
        web="",
        session_timeout_ms=6000,
        heartbeat_ms=1000,
        **more,  # type: ignore[arg-type]
    )


def make_topics(settings: JobSettings, partitions: int) -> None:
    """Create the topics of the run if they do not exist yet."""
    admin = AdminClient({"bootstrap.servers": settings.brokers[0]})
    compacted = {"cleanup.policy": "compact"}
    wanted = [NewTopic(name, partitions, 1) for name in settings.outputs[1:]]
    wanted.append(NewTopic(settings.changelog, partitions, 1, config=compacted))
    for name, made in admin.create_topics(wanted).items():
        try:
            made.result(30)
        except KafkaException as error:
            if error.args[0].name() != "TOPIC_ALREADY_EXISTS":
                raise SystemExit(f"cannot make the topic {name}: {error}") from error


def run(
    processor: Callable[[JobSettings, int], Processor],
    warm_up: Callable[[JobSettings], None] | None = None,
    **more: object,
) -> None:
    """Run the worker until SIGTERM. `processor` makes a processor from the settings and the number of partitions."""
    settings = settings_of(dict(os.environ), **more)
    setup_logging("info", "json")
    for library in ("faust", "mode", "aiokafka"):
        logging.getLogger(library).setLevel(logging.WARNING)
    settings.data_dir.mkdir(parents=True, exist_ok=True)

    async def work() -> None:
        partitions = await input_partitions(settings)
        await asyncio.to_thread(make_topics, settings, partitions)
        if warm_up is not None:
            await asyncio.to_thread(warm_up, settings)
        app = app_around(settings, processor(settings, partitions), partitions=partitions)
        await serve(settings, app)

    asyncio.run(work())
