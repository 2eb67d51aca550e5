"""The traffic of the demo: a history to learn from, and the events that follow it, moved to the present."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.lab.demo import journey
from stream_app.lab.demo.plan import Data, DemoError, Plan
from stream_app.lab.demo.truth import Truth
from stream_app.lab.generator import Block, GeneratorSettings, Label, generate
from stream_app.lab.generator.stream import labels_beside
from stream_app.recordings.errors import RecordingError
from stream_app.recordings.recording import RecordingWriter

_DAY_MS = 86_400_000
#: Live events end this long before the present, so that no event can be ahead of the broker's clock.
_MARGIN_MS = 1_000

WriteProgress = Callable[[int], None]


def history_start(plan: Plan, now_ms: int) -> int:
    """Unix ms at which the history begins: a midnight (UTC), early enough to end before the live part begins.

    It is always midnight, since the model reads the hour of the day: so the same plan gives the same model.
    """
    needed = int(plan.seconds_of(plan.events + plan.live) * 1000)
    return (now_ms - needed) // _DAY_MS * _DAY_MS


def write_history(plan: Plan, now_ms: int, progress: WriteProgress) -> None:
    """Write the first `plan.events` records."""
    if plan.data is Data.COMPLETE_JOURNEY:
        journey.write_history(plan, now_ms, progress)
        return
    shop = plan.shop(history_start(plan, now_ms))
    with _writer(plan, plan.history, shop) as writer:
        for block in generate(shop):
            writer.extend(block.records[: plan.events - writer.records])
            progress(writer.records)
            if writer.records >= plan.events:
                return


def write_live(plan: Plan, now_ms: int, progress: WriteProgress) -> Truth:
    """Write the records after the history and their labels, the last one with the present time; return their Truth.

    Offsets count from zero, as they will in Kafka.
    """
    if plan.data is Data.COMPLETE_JOURNEY:
        labels_beside(plan.live_recording).unlink(missing_ok=True)  # of an earlier demo with a made-up shop
        return Truth(journey.write_live(plan, now_ms, progress), [], plan.partitions)
    shop = plan.shop(now_ms - _MARGIN_MS - _span_ms(plan))
    records: list[Record] = []
    labels: list[Label] = []
    base: Counter[tuple[str, int]] = Counter()
    done = 0
    for part, behind in _split(generate(shop), plan.events):
        done += len(part.records)
        if not behind:
            base.update((r.topic, r.partition) for r in part.records)
        else:
            records += part.records
            labels += part.labels
        progress(done)
        if len(records) >= plan.live:
            break
    moved = [r._replace(offset=r.offset - base[r.topic, r.partition]) for r in records[: plan.live]]
    kept = {(r.topic, r.partition, r.offset) for r in moved}
    shifted = (
        msgspec.structs.replace(label, offset=label.offset - base[label.topic, label.partition])
        for label in labels
    )
    labels = [label for label in shifted if (label.topic, label.partition, label.offset) in kept]
    with _writer(plan, plan.live_recording, shop) as writer:
        writer.extend(moved)
    try:
        beside = labels_beside(plan.live_recording)
        beside.write_bytes(msgspec.json.Encoder().encode_lines(labels))
    except OSError as error:
        raise RecordingError(f"cannot write {beside}: {error.strerror}") from error
    return Truth(moved, labels, plan.partitions)


def _span_ms(plan: Plan) -> int:
    """How long history and live part together are in shop time, which is known only after making them once."""
    left = plan.events + plan.live
    for block in generate(plan.shop(0)):
        if left <= len(block.records):
            return block.records[left - 1].timestamp
        left -= len(block.records)
    raise DemoError(f"the shop made {left} too few records")


def _split(blocks: Iterator[Block], at: int) -> Iterator[tuple[Block, bool]]:
    """Split blocks at the record `at`; yield each with whether it comes after it."""
    seen = 0
    for block in blocks:
        n = len(block.records)
        if seen + n <= at or seen >= at:
            yield block, seen >= at
        else:
            cut = at - seen
            early = {(r.topic, r.partition, r.offset) for r in itertools.islice(block.records, cut)}
            before = [x for x in block.labels if (x.topic, x.partition, x.offset) in early]
            after = [x for x in block.labels if (x.topic, x.partition, x.offset) not in early]
            yield Block(block.records[:cut], before), False
            yield Block(block.records[cut:], after), True
        seen += n


def _writer(plan: Plan, path: Path, shop: GeneratorSettings) -> RecordingWriter:
    topics = dict.fromkeys(INPUT_TOPICS, plan.partitions)
    return RecordingWriter(path, topics, {"made_by": "demo", "settings": msgspec.to_builtins(shop)})
