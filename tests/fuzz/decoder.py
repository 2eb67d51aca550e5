"""Compares the compiled decoder with the general one, on records of arbitrary bytes."""

import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from stream_app.contract.event_columns import EVENT, Events
from stream_app.contract.events import MAX_VALUE_BYTES
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.decoding.decoder import Decoder
from stream_app.decoding.event_filler import EVENT_ID, FIELDS, USER, fill
from stream_app.decoding.json_scanner import scan
from stream_app.decoding.name_table import NameTable
from stream_app.kernels import item_checks as checks
from tests.fuzz.guarded import GuardedBuffer
from tests.fuzz.values import Values

PER_ROUND = 5000


def _index(name: str) -> int:
    return zlib.crc32(name.encode()) >> 1


def _decoder(correct_clock: bool) -> Decoder:
    names = (NameTable(_index, 0, limit=3000), NameTable(_index, 0, limit=3000))
    # One of the two has a limit for the past too.
    past = 0 if correct_clock else 200_000
    return Decoder(*names, max_future_ms=300_000, max_past_ms=past, correct_clock=correct_clock)


class DecoderTarget:
    """One round is one call for some thousand records, which lie before or after a forbidden page."""

    def __init__(self) -> None:
        self._input = GuardedBuffer(8 << 20)
        self._text = GuardedBuffer(4 << 20)
        self._decoders = [(_decoder(correct), _decoder(correct)) for correct in (False, True)]

    def round(self, seed: str, number: int) -> Counter[Any]:
        """Return the outcomes of one round by kind. Raises AssertionError if the two decoders differ."""
        values = Values(seed)
        pairs = values.some(PER_ROUND)
        topic_index = number % 3
        times = values.times(PER_ROUND)
        records = [
            Record(INPUT_TOPICS[topic_index], 2, 3 * i, time, key, value, headers)
            for i, ((key, value), time, headers) in enumerate(
                zip(pairs, times, values.headers(PER_ROUND), strict=True)
            )
        ]
        fast, general = self._decoders[number % 2]
        columns = self._columns(records, at_end=number % 5 != 4)
        events, bad = fast.decode(topic_index, columns)
        wanted, wrong = general.decode_generally(topic_index, records)
        assert bad == wrong, next(pair for pair in zip(bad, wrong, strict=False) if pair[0] != pair[1])
        compare(events, wanted.packed(), records)
        short = self._fill_guarded(fast, topic_index, columns)
        outcomes = Counter((b.reason, b.field) for b in bad)
        outcomes["good, compiled", ""] = short
        outcomes["good, general", ""] = len(events) - short
        return outcomes

    def _columns(self, records: Sequence[Record], at_end: bool) -> RecordColumns:
        plain = RecordColumns.of(records)
        return RecordColumns(
            plain.topic, plain.partition, self._input.holding(plain.data.tobytes(), at_end), plain.spans
        )

    def _fill_guarded(self, decoder: Decoder, topic_index: int, columns: RecordColumns) -> int:
        """Call `fill` again with a text that ends at a forbidden page; return how many events it filled."""
        tokens, good = scan(columns, FIELDS)
        sizes = np.where(good[:, None], tokens["size"][:, [USER, EVENT_ID]], 0)
        text = self._text.last(int(sizes.clip(0, MAX_VALUE_BYTES).sum()))
        data = np.empty(len(columns), EVENT)
        filled, used = fill(
            columns.data, columns.spans, tokens, good, topic_index, columns.partition, decoder.max_future_ms,
            decoder.max_past_ms, decoder.correct_clock, decoder.items.columns, decoder.categories.columns, checks.KEY,
            data, text,
        )  # fmt: skip
        assert filled == good.sum() and 0 <= used <= len(text)
        return int(filled)


def compare(events: Events, wanted: Events, records: Sequence[Record]) -> None:
    """Fail with the first record on which the two differ."""
    if events.data.tobytes() == wanted.data.tobytes() and events.text.tobytes() == wanted.text.tobytes():
        return
    assert events.data["offset"].tolist() == wanted.data["offset"].tolist()
    ids = zip(events.user, events.event_id, wanted.user, wanted.event_id, strict=True)
    for row, other, (user, event_id, user2, event_id2) in zip(events.data, wanted.data, ids, strict=True):
        same = row.tobytes() == other.tobytes() and (user, event_id) == (user2, event_id2)
        assert same, (records[int(row["offset"]) // 3], row, other)
    raise AssertionError("the texts differ outside the ids")
