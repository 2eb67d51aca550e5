"""Runs a processor as a worker; environment variables name its topics."""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from stream_app.agents.shop import app_around
from stream_app.commands.worker import serve
from stream_app.contract.topics import Topics
from stream_app.kafka.topics import input_partitions
from stream_app.ops.logging import setup_logging
from stream_app.processing.processor import Processor
from stream_app.settings import Settings


class Job(NamedTuple):
    """A run of the comparison, as its environment describes it."""

    settings: Settings
    topics: Topics


def job_of(environment: dict[str, str], **more: object) -> Job:
    """Return the job from BROKER, IN, OUT, RID and STATE, and from GUARANTEE and COMMIT_MS if they are given."""
    if guarantee := environment.get("GUARANTEE"):
        more["guarantee"] = guarantee
    if commit_ms := environment.get("COMMIT_MS"):
        more["commit_interval_ms"] = int(commit_ms)
    group = environment["RID"]
    outputs = {
        "predictions": environment["OUT"], "flags": f"{group}-flags", "dead-letters": f"{group}-dead-letters",
    }  # fmt: skip
    settings = Settings(
        brokers=(environment["BROKER"],),
        group=group,
        data_dir=Path(environment["STATE"]),
        web="",
        session_timeout_ms=6000,
        heartbeat_ms=1000,
        **more,  # type: ignore[arg-type]
    )
    return Job(settings, Topics((environment["IN"],), outputs, f"{group}-state"))


def make_topics(job: Job, partitions: int) -> None:
    """Create the topics of the run if they do not exist yet."""
    admin = AdminClient({"bootstrap.servers": job.settings.brokers[0]})
    compacted = {"cleanup.policy": "compact"}
    wanted = [NewTopic(name, partitions, 1) for name in list(job.topics.outputs.values())[1:]]
    wanted.append(NewTopic(job.topics.changelog, partitions, 1, config=compacted))
    for name, made in admin.create_topics(wanted).items():
        try:
            made.result(30)
        except KafkaException as error:
            if error.args[0].name() != "TOPIC_ALREADY_EXISTS":
                raise SystemExit(f"cannot make the topic {name}: {error}") from error


def run(
    processor: Callable[[Job, int], Processor],
    warm_up: Callable[[Job], None] | None = None,
    **more: object,
) -> None:
    """Run the worker until SIGTERM. `processor` makes a processor from the job and the number of partitions."""
    job = job_of(dict(os.environ), **more)
    settings = job.settings
    setup_logging("info", "json")
    for library in ("faust", "mode", "aiokafka"):
        logging.getLogger(library).setLevel(logging.WARNING)
    settings.data_dir.mkdir(parents=True, exist_ok=True)

    async def work() -> None:
        partitions = await input_partitions(settings, job.topics)
        await asyncio.to_thread(make_topics, job, partitions)
        if warm_up is not None:
            await asyncio.to_thread(warm_up, job)
        app = app_around(settings, processor(job, partitions), partitions=partitions)
        await serve(settings, app)

    asyncio.run(work())
