"""A recording of synthetic traffic: slices of shop time, sorted by the broker's time, and a file of labels."""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.lab.generator import abuse, trouble
from stream_app.lab.generator.catalogue import Catalogue, Floats, Ints
from stream_app.lab.generator.columns import BOT, FRAUD, EventRows, rows
from stream_app.lab.generator.encoding import EventEncoder
from stream_app.lab.generator.people import People
from stream_app.lab.generator.sessions import Visits, draw_lengths, shop
from stream_app.lab.generator.settings import DAY_S, SESSION_EVENTS, THINK_MEAN_S, GeneratorSettings
from stream_app.recordings.errors import RecordingError
from stream_app.recordings.recording import RecordingWriter

Longs = npt.NDArray[np.int64]

#: A slice has at least so many sessions, and so many seconds of shop time if many visitors are in the shop at once:
#: enough for numpy to be fast, and for the events that wait for later slices to be not much more than a slice.
_SLICE_SESSIONS, _SLICE_S = 8_000, 100.0
_BLOCK_RECORDS = 10_000
_BUSIEST_HOUR = 20.0


class Label(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was planted in one record, and which record that is; a record may have several labels."""

    kind: str  #: bot, fraud, late, duplicate or malformed
    topic: str
    partition: int
    offset: int
    user_id: str
    event_id: str
    detail: str | int | None = None  #: the fault of a malformed record, or by how many ms a late one is late


class Block(msgspec.Struct, frozen=True):
    """Consecutive records of the stream and the labels of what is planted in them."""

    records: list[Record]
    labels: list[Label]


class Summary(msgspec.Struct, frozen=True):
    """What was written."""

    recording: str
    labels: str
    records: int
    topics: dict[str, int]  #: number of records per topic
    planted: dict[str, int]  #: number of labels per kind
    first_ms: int  #: Unix ms, the broker's time of the first record
    last_ms: int


def generate(settings: GeneratorSettings) -> Iterator[Block]:
    """Yield the traffic in the order of the broker's time, in blocks of some ten thousand records.

    Offsets of each topic partition count from 0; partitions are those of Kafka's default partitioner.
    """
    rng = np.random.default_rng(settings.seed)
    people = People(
        settings, Catalogue.make(settings.items, settings.categories, settings.item_zipf, rng), rng
    )
    encoder = EventEncoder(settings, people)
    next_offset = np.zeros(len(INPUT_TOPICS) * settings.partitions, np.int64)
    left = settings.events
    for events in _in_order(settings, people, rng):
        for at in range(0, min(len(events), left), _BLOCK_RECORDS):
            part = events[at : min(at + _BLOCK_RECORDS, left)]
            yield _block(part, encoder, next_offset, settings.partitions)
        left -= min(left, len(events))
        if not left:
            return


def write(
    settings: GeneratorSettings, path: Path, on_progress: Callable[[int], None] = lambda _: None
) -> Summary:
    """Write the traffic to `path` and its labels next to it (`S.labels.jsonl`).

    `on_progress` gets the number of records so far. Raises `RecordingError` if a file cannot be written.
    """
    path = Path(path)
    labels_path = labels_beside(path)
    topics = dict.fromkeys(INPUT_TOPICS, settings.partitions)
    by_topic, planted = dict.fromkeys(INPUT_TOPICS, 0), dict.fromkeys(KINDS, 0)
    first = last = 0
    encode = msgspec.json.Encoder()
    metadata = {"made_by": "generate", "settings": msgspec.to_builtins(settings), "labels": labels_path.name}
    with RecordingWriter(path, topics, metadata) as writer:
        try:
            with labels_path.open("wb") as labels:
                for block in generate(settings):
                    first = first if writer.records else block.records[0].timestamp
                    last = block.records[-1].timestamp
                    writer.extend(block.records)
                    labels.write(encode.encode_lines(block.labels))
                    for topic in INPUT_TOPICS:
                        by_topic[topic] += sum(record.topic == topic for record in block.records)
                    for label in block.labels:
                        planted[label.kind] += 1
                    on_progress(writer.records)
        except OSError as error:
            raise RecordingError(f"cannot write {labels_path}: {error.strerror}") from error
    return Summary(str(path), str(labels_path), writer.records, by_topic, planted, first, last)


#: All kinds of labels.
KINDS = ("bot", "fraud", "late", "duplicate", "malformed")


def labels_beside(recording: Path) -> Path:
    """Return the path of the labels of a recording: `S.labels.jsonl` for `S.stream`."""
    return recording.with_suffix(".labels.jsonl")


def read_labels(path: Path) -> list[Label]:
    """Return the labels of a file. Raises `RecordingError` if it cannot be read or is not a file of labels."""
    try:
        return msgspec.json.Decoder(Label).decode_lines(path.read_bytes())
    except OSError as error:
        raise RecordingError(f"cannot read {path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise RecordingError(
            f"{path} is not a file of labels written by `foreclick generate`: {error}"
        ) from error


def _in_order(settings: GeneratorSettings, people: People, rng: np.random.Generator) -> Iterator[EventRows]:
    """Yield slices without end, each with the sorted events that come before all events of later slices."""
    rate = (
        settings.events / settings.seconds / SESSION_EVENTS * (1 - settings.bot_share - settings.fraud_share)
    )
    begin, session, serial = 0.0, 0, 0
    waiting = rows(0)
    # As if the shop had been open before: from the start, as many sessions are in progress as later.
    ahead = min(round(rate * (SESSION_EVENTS - 1) * THINK_MEAN_S), people.users // 2)
    while True:
        starts, end = _starts(settings, rate, begin, rng)
        planted = len(starts) * SESSION_EVENTS / (1 - settings.bot_share - settings.fraud_share)
        if begin == 0.0:
            starts = np.concatenate([rng.uniform(0, min(THINK_MEAN_S, end), ahead), starts])
        visits = _visits(starts, people, rng)
        made = [shop(visits, people, session=session, rng=rng)]
        session += len(visits.users)
        clicks, buys = planted * settings.bot_share, planted * settings.fraud_share
        made.append(abuse.bots(clicks, (begin, end), people, session=session, rng=rng))
        session += len(made[-1])
        made.append(abuse.fraud(buys, visits.users, (begin, end), people, session=session, rng=rng))
        session += len(made[-1])
        fresh = np.concatenate(made)
        fresh["serial"] = serial + np.arange(len(fresh))
        fresh["msgpack"] = rng.random(len(fresh)) < settings.msgpack_share
        fresh["ts"] = settings.start_ms + (fresh["time_s"] * (1000 / settings.time_compression)).astype(
            np.int64
        )
        trouble.append_times(fresh, rng)
        trouble.make_late(fresh, settings, rng)
        again = trouble.duplicates(fresh, settings, rng)
        bad = trouble.malformed(fresh, serial + len(fresh), settings, rng)
        serial += len(fresh) + len(bad)
        waiting = np.concatenate([waiting, fresh, again, bad])
        border = settings.start_ms + int(end * 1000 / settings.time_compression)
        order = np.argsort(waiting["append"], kind="stable")
        final = int(np.searchsorted(waiting["append"], border, side="right", sorter=order))
        ready, waiting = waiting[order[:final]], waiting[order[final:]]
        yield ready
        begin = end


def _starts(
    settings: GeneratorSettings, rate: float, begin: float, rng: np.random.Generator
) -> tuple[Floats, float]:
    """Return the starts of the next slice's sessions in seconds, and its end; `rate` is the daily mean per second.

    The starts are a Poisson process whose rate depends on the hour, drawn by inverting the integral of the rate.
    """
    wanted = min(max(_SLICE_SESSIONS, rate * _SLICE_S), max(50.0, rate * settings.seconds / 4))
    stretch = wanted / rate / max(1 - settings.rhythm, 0.05)  # long enough, even in the quietest hour
    grid = np.linspace(begin, begin + stretch, 4096)
    hour = (settings.start_ms / 1000 + grid) / 3600 - _BUSIEST_HOUR
    intensity = 1 + settings.rhythm * np.cos(2 * np.pi * hour * 3600 / DAY_S)
    done = np.concatenate([[0.0], np.cumsum((intensity[1:] + intensity[:-1]) / 2 * np.diff(grid))]) * rate
    end = float(np.interp(wanted, done, grid))
    return np.interp(np.sort(rng.uniform(0, min(wanted, done[-1]), rng.poisson(wanted))), done, grid), end


def _visits(starts: Floats, people: People, rng: np.random.Generator) -> Visits:
    """Return the visits for the requested starts (n,).

    If a user is still busy, another user gets the session; if that user is busy too, the session is dropped.
    """
    events, gaps = draw_lengths(len(starts), rng)
    length = gaps.sum(axis=1)
    users = people.visitors(len(starts), rng)
    _, fits = people.admit(users, starts, length)
    users[~fits] = rng.integers(0, people.users, int((~fits).sum()))
    real, fits = people.admit(users, starts, length)
    visits = Visits(users, real, events, gaps).take(fits)
    np.maximum.at(people.busy_until, visits.users, visits.start + length[fits] + 1.0)
    people.drift(visits.users, rng)
    return visits


def _block(events: EventRows, encoder: EventEncoder, next_offset: Longs, partitions: int) -> Block:
    """Return the records and labels of rows; advances the offsets."""
    partition = encoder.partition[events["user"]]
    place = events["event_type"].astype(np.int64) * partitions + partition
    order = np.argsort(place, kind="stable")
    counts = np.bincount(place, minlength=len(next_offset))
    offset = np.empty(len(events), np.int64)
    offset[order] = np.arange(len(events)) - np.repeat(np.cumsum(counts) - counts, counts)
    offset += next_offset[place]
    next_offset += counts
    keys, values = encoder.encode(events)
    topics = [INPUT_TOPICS[event_type] for event_type in events["event_type"].tolist()]
    columns = (topics, partition.tolist(), offset.tolist(), events["append"].tolist(), keys, values)
    return Block(list(map(Record, *columns)), _labels(events, encoder, partition, offset))


def _labels(events: EventRows, encoder: EventEncoder, partition: Ints, offset: Longs) -> list[Label]:
    faults = tuple(trouble.FAULTS)
    planted = (events["maker"] > 0) | (events["late_ms"] > 0) | events["duplicate"] | (events["fault"] >= 0)
    index = np.flatnonzero(planted)
    some = events[index]
    labels = []
    for row, at, user, event_id in zip(
        some, index.tolist(), encoder.users(some), encoder.event_ids(some), strict=True
    ):
        kinds: list[tuple[str, str | int | None]] = []
        if row["fault"] >= 0:
            kinds.append(("malformed", faults[row["fault"]]))
        else:
            if row["maker"] in (BOT, FRAUD):
                kinds.append(("bot" if row["maker"] == BOT else "fraud", None))
            if row["late_ms"]:
                kinds.append(("late", int(row["late_ms"])))
            if row["duplicate"]:
                kinds.append(("duplicate", None))
        topic = INPUT_TOPICS[row["event_type"]]
        place = (topic, int(partition[at]), int(offset[at]), user, event_id)
        labels += [Label(kind, *place, detail) for kind, detail in kinds]
    return labels
