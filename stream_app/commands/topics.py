"""`foreclick topics`: create or check all topics."""

import asyncio
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from stream_app.contract.topics import SHOP
from stream_app.kafka.topic_problems import commands, merged
from stream_app.kafka.topics import check_topics, ensure_topics
from stream_app.settings import Settings
from stream_app.settings.command_options import with_settings


@with_settings("brokers", "group", "topic_prefix", "partitions", "replication")
def topics(
    *,
    settings: Settings,
    create: Annotated[
        bool, typer.Option("--create/--check", help="Create missing topics, or only check them.")
    ] = False,
    wait_s: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for a broker to respond.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Create the topics of a worker (inputs, outputs, changelog), or check those there are.

    Exits with 1 where a worker could not run on them.
    """
    topics = SHOP.of(settings)
    made = asyncio.run(ensure_topics(settings, topics, wait_s=wait_s)) if create else ()
    problems = asyncio.run(check_topics(settings, topics, wait_s=wait_s))
    bad = any(each.fatal for each in problems)
    if as_json:
        result = {"ok": not bad, "created": made, "problems": [each._asdict() for each in problems]}
        typer.echo(msgspec.json.encode(result).decode())
    else:
        out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)
        for name in made:
            out.print(f"created [bold]{escape(name)}[/]")
        for each in merged(problems):
            word = "[red]wrong[/]" if each.fatal else "[yellow]advice[/]"
            err.print(f"{word} {escape(each.text)}", highlight=False)
        mending = list(commands(settings.brokers, problems))
        if mending:
            err.print("to follow the advice, with the scripts of Apache Kafka:", highlight=False)
        for command in mending:
            err.print(f"  {escape(command)}", highlight=False)
        if not bad:
            names = ", ".join(topics.all)
            out.print(f"[green]ok[/] {escape(names)}", highlight=False)
    if bad:
        raise typer.Exit(1)
