"""`foreclick tail`: follow an output topic, as text for people or as JSON lines for programs."""

import asyncio
import base64
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaConnectionError, KafkaError, NodeNotReadyError
from rich.console import Console
from rich.text import Text

from stream_app.commands.printable import duration, printable, printable_json
from stream_app.contract.records import EVENT_TYPES, INPUT_TOPICS
from stream_app.contract.times import shown
from stream_app.errors import ForeclickError
from stream_app.kafka.errors import TopicError
from stream_app.kafka.security import explain, identity, kafka_options, require_rights
from stream_app.kafka.security.rights import Operation
from stream_app.kafka.waiting import waiting_for
from stream_app.settings import Settings
from stream_app.settings.command_options import with_settings

#: `<topic>-<partition>-<offset>`, behind any prefix.
_ID = re.compile(rf".*?({'|'.join(INPUT_TOPICS)})-(\d+-\d+)", re.DOTALL)
#: An event so near its output is not given a time of its own.
_SAME_TIME_MS = 60_000


class Output(StrEnum):
    """The topics that a worker writes for others."""

    PREDICTIONS = "predictions"
    FLAGS = "flags"
    DEAD_LETTERS = "dead-letters"


@with_settings("brokers", "topic_prefix")
def tail(
    topic: Annotated[Output, typer.Argument(help="The output to follow.", metavar="TOPIC")],
    *,
    settings: Settings,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many records.")] = None,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Start with the existing records.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Follow predictions, flags or dead-letters until Ctrl-C."""
    console = Console(highlight=False)

    def show(record: ConsumerRecord) -> None:
        if as_json:
            typer.echo(_AS_JSON[topic](record))
        elif console.is_terminal:  # a line for each, cut to the width
            console.print(_AS_LINE[topic](record), no_wrap=True, overflow="ellipsis", crop=True)
        else:
            console.print(_AS_LINE[topic](record), soft_wrap=True)

    asyncio.run(_follow(settings, topic, limit, from_beginning, show))


async def _follow(
    settings: Settings,
    topic: str,
    limit: int | None,
    from_beginning: bool,
    show: Callable[[ConsumerRecord], None],
) -> None:
    shown = 0
    # Closed here, while the loop still runs: a generator that is only dropped leaves its connections open.
    async with aclosing(_records(settings, settings.topic(topic), from_beginning)) as records:
        async for record in records:
            show(record)
            shown += 1
            if shown == limit:
                return


async def _records(
    settings: Settings, topic: str, from_beginning: bool
) -> AsyncGenerator[ConsumerRecord, None]:
    """Yield the records of the topic as they arrive. No consumer group is used, so no offsets change."""
    options = kafka_options(settings)
    consumer = AIOKafkaConsumer(
        **options,
        group_id=None,
        isolation_level="read_committed",
        auto_offset_reset="earliest" if from_beginning else "latest",
    )
    try:
        with waiting_for(settings.brokers):
            await consumer.start()
        await require_rights(options, identity(settings.kafka), {topic: (Operation.READ,)})
        # Checked before subscribing, which would create the topic on a broker that creates topics automatically.
        if topic not in await consumer.topics():
            raise TopicError(
                f"topic {topic} is missing: run `foreclick topics --create`, or check the prefix"
            )
        consumer.subscribe([topic])
        while True:
            batches = await consumer.getmany(timeout_ms=200)
            for record in sorted(
                (record for batch in batches.values() for record in batch), key=lambda each: each.timestamp
            ):
                yield record
    except (KafkaConnectionError, NodeNotReadyError) as error:
        raise await explain(settings.brokers, options) from error
    except KafkaError as error:
        raise ForeclickError(f"topic {topic} cannot be read: {error}") from error
    finally:
        await consumer.stop()


def _decoded(record: ConsumerRecord) -> dict[str, Any]:
    """Decode a value, which is JSON or msgpack depending on its first byte; empty if it is neither."""
    value = record.value or b""
    try:
        decoded = msgspec.json.decode(value) if value[:1] == b"{" else msgspec.msgpack.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return decoded if isinstance(decoded, dict) else {}


def _time(ms: float) -> str:
    return datetime.fromtimestamp(ms / 1000).strftime("%H:%M:%S.%f")[:-3]


def _start(record: ConsumerRecord, user: object) -> Text:
    return Text.assemble(
        (_time(record.timestamp), "dim"), "  ", (f"{printable(user):<12}", "bold cyan"), "  "
    )


def _source(record: ConsumerRecord, value: dict[str, Any]) -> tuple[str, str]:
    """The event that an output is about: its type and place, and its time where that is not the output's."""
    found = _ID.fullmatch(str(value.get("id", "")))
    event = f"{EVENT_TYPES[INPUT_TOPICS.index(found[1])]} {found[2]}" if found else "event ?"
    ts = value.get("ts")
    if not isinstance(ts, int) or abs(ts - record.timestamp) < _SAME_TIME_MS:
        return f"{event:<14} ", ""
    return f"{event:<14} ", f"of {shown(ts)} "


def prediction_line(record: ConsumerRecord) -> Text:
    """Format a prediction as one line: the next event, the probability of a purchase, the items."""
    value = _decoded(record)
    events = value.get("next_event") or {}  # null without a model
    bought, horizon = value.get("purchase_probability"), value.get("horizon_ms")
    within = f" within {duration(horizon)}" if isinstance(horizon, int) else ""
    items = ", ".join(
        f"{printable(each['item_id'])} {each['score']:.3g}" for each in value.get("items", [])[:5]
    )
    event, when = _source(record, value)
    return _start(record, value.get("user_id", "?")).append_text(
        Text.assemble(
            event,
            (when, "dim"),
            ("next ", "dim"),
            *(f"{printable(event_type)} {share:4.0%}  " for event_type, share in events.items()),
            ("no model" if bought is None else f"buys{within} {bought:4.0%}", "bold"),
            ("  items ", "dim"),
            items or "-",
        )
    )


def flag_line(record: ConsumerRecord) -> Text:
    """A flag on one line: its type and score, and each reason with the observed value and the limit."""
    value = _decoded(record)
    flag_type = value.get("kind", "?")
    style = "bold red" if flag_type == "fraud" else "bold yellow"
    event, when = _source(record, value)
    return _start(record, value.get("user_id", "?")).append_text(
        Text.assemble(
            event,
            (when, "dim"),
            (f"{printable(flag_type)} {value.get('score', 0.0):.3f}", style),
            "  ",
            "; ".join(map(_reason, value.get("reasons", []))),
        )
    )


def _reason(each: dict[str, Any]) -> str:
    expected, limit = each["expected"], each.get("limit")
    if limit is None or limit == expected:  # flags of older versions have no limit
        beside = f"limit {_number(expected)}"
    else:
        beside = f"usually {_number(expected)}, limit {_number(limit)}"
    return f"{printable(each['code'])} {_number(each['value'])} ({beside})"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else printable(value)


def _headers(record: ConsumerRecord) -> dict[str, str]:
    """Headers by name. Ours occur once; in dead letters of older versions they stand behind a producer's own."""
    return {key: (value or b"").decode("utf-8", "replace") for key, value in record.headers}


def dead_letter_line(record: ConsumerRecord) -> Text:
    """A dead letter on one line: reason, source, what was wrong, how the body begins."""
    headers = _headers(record)
    source = "-".join(
        headers.get(f"__streams.errors.{part}", "?") for part in ("topic", "partition", "offset")
    )
    return _start(record, (record.key or b"").decode("utf-8", "replace")).append_text(
        Text.assemble(
            (printable(headers.get("foreclick.reason", "?")), "bold red"),
            f"  {printable(source)}  {printable(headers.get('__streams.errors.message', ''))}  ",
            (repr((record.value or b"")[:60]), "dim"),
        )
    )


def value_json(record: ConsumerRecord) -> str:
    """The value as JSON: as it stands where it is JSON already, but for escapes of the same meaning."""
    value = record.value or b""
    if value[:1] == b"{" and _decoded(record):
        return printable_json(value.decode("utf-8", "replace"))
    return printable_json(msgspec.json.encode(_decoded(record)).decode())


def dead_letter_json(record: ConsumerRecord) -> str:
    """A dead letter as JSON: headers as text, key and value as base64, since they may be any bytes."""
    found = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "reason": _headers(record).get("foreclick.reason"),
        "headers": _headers(record),
        "key_base64": None if record.key is None else base64.b64encode(record.key).decode(),
        "value_base64": None if record.value is None else base64.b64encode(record.value).decode(),
    }
    return printable_json(msgspec.json.encode(found).decode())


_AS_LINE = {
    Output.PREDICTIONS: prediction_line,
    Output.FLAGS: flag_line,
    Output.DEAD_LETTERS: dead_letter_line,
}
_AS_JSON = {
    Output.PREDICTIONS: value_json,
    Output.FLAGS: value_json,
    Output.DEAD_LETTERS: dead_letter_json,
}
