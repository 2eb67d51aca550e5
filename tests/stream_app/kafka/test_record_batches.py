"""Record batches in both directions, compared with aiokafka's own reader and builder."""

import itertools
import struct
from collections.abc import Sequence

import numpy as np
import pytest
from aiokafka.errors import CorruptRecordException
from aiokafka.record.util import calc_crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.contract.record_columns import RecordColumns
from stream_app.kafka.record_batches import builder as closed
from stream_app.kafka.record_batches import reader as wire
from tests.fuzz.fetches import varint
from tests.stream_app.batches import (
    CODECS,
    T0,
    TP,
    Log,
    Parsed,
    Part,
    batch,
    logs,
    marker,
    parse,
    reference,
    seal,
    seen,
)  # fmt: skip

MESSAGES = st.lists(
    st.tuples(
        st.one_of(st.none(), st.binary(max_size=70)),
        st.one_of(st.none(), st.binary(max_size=9), st.binary(min_size=120, max_size=140)),
    ),
    max_size=40,
)


def columns(parsed: Parsed | None) -> RecordColumns:
    assert parsed is not None
    return RecordColumns(*TP, parsed.data, parsed.spans)


def inside(parsed: Parsed) -> bool:
    """Whether the columns point only into the buffer, and offsets rise and stay below the next position."""
    ok = True
    for name in ("key", "value", "headers"):
        at, size = parsed.spans[f"{name}_at"], np.maximum(parsed.spans[f"{name}_bytes"], 0)
        ok &= bool(((size == 0) | ((at >= 0) & (at + size <= len(parsed.data)))).all())
    offsets = parsed.spans["offset"]
    return ok and bool((np.diff(offsets) > 0).all()) and bool((offsets < parsed.next).all())


def packed(parts: Sequence[bytes | None]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return one buffer, the start of each part in it, and its length: -1 for none."""
    sizes = np.array([-1 if p is None else len(p) for p in parts], np.int32)
    at = np.cumsum(np.maximum(sizes, 0), dtype=np.int64) - np.maximum(sizes, 0)
    return np.frombuffer(b"".join(p or b"" for p in parts), np.uint8), at, sizes


def build(messages: Sequence[tuple[bytes | None, bytes | None]], **options: int) -> list[bytes]:
    """Return our batches, with the offsets that a broker would give them."""
    keys, values = [k for k, _ in messages], [v for _, v in messages]
    options = {"timestamp": T0, "limit": 1 << 20, **options}
    batches, base = [], 0
    for built in closed.build(*packed(keys), *packed(values), **options):
        raw = built._build()
        assert built.size() == len(raw)
        batches.append(struct.pack(">q", base) + raw[8:])
        base += built.record_count()
    return batches


# --- parsing


@settings(deadline=None)  # the kernels may have to be compiled
@given(logs(), st.data())
def test_a_consumer_sees_what_aiokafka_sees(log: Log, data: st.DataObject) -> None:
    """Any codec, header, gap, marker, aborted transaction, time type and position: same records, same next offset."""
    first = data.draw(
        st.integers(0, len(log.batches) - 1)
    )  # a broker starts with the batch that has the position
    base = log.nexts[first - 1] if first else struct.unpack_from(">q", log.batches[0])[0]
    position = data.draw(st.integers(base, log.nexts[first] - 1))
    raw = b"".join(log.batches[first:])
    for committed in (True, False):
        theirs = reference(raw, position, committed=committed, aborted=log.aborted)
        ours = parse(raw, position, committed=committed, aborted=log.aborted)
        assert [seen(r) for r in columns(ours)] == [seen(r) for r in theirs]
        assert ours.next == theirs.next_fetch_offset
        assert ours.error is None
        assert inside(ours)


@settings(deadline=None)
@given(logs(), st.integers(1, 200))
def test_a_cut_tail_is_left_for_the_next_fetch(log: Log, missing: int) -> None:
    """The last batch of a fetch may be cut off anywhere: those before it are read, and the next fetch has it."""
    whole, tail = log.batches[:-1], log.batches[-1]
    raw = b"".join(whole) + tail[: max(len(tail) - missing, 0)]
    ours = parse(raw, 0, aborted=log.aborted)
    assert ours is not None and ours.error is None
    assert ours.next == (log.nexts[-2] if whole else 0)
    theirs = reference(b"".join(whole), aborted=log.aborted)
    assert [seen(r) for r in columns(ours)] == [seen(r) for r in theirs]


def test_uncompressed_records_are_not_copied() -> None:
    """The columns point into the bytes of the fetch, read-only and without a copy."""
    raw = b"".join(batch([Part(0, T0, b"key", b"value")], base) for base in range(100))
    parsed = parse(raw, 0)
    assert np.shares_memory(parsed.data, np.frombuffer(raw, np.uint8))
    assert not parsed.data.flags.writeable


def test_an_abort_marker_ends_one_transaction() -> None:
    """After the marker the same producer's records are visible again; another open transaction stays hidden."""
    part = [Part(0, T0, None, b"x")]
    bits = wire.TRANSACTIONAL
    raw = b"".join(
        [
            batch(part, 0, producer=1, attributes=bits),
            batch(part, 1, producer=2, attributes=bits),
            marker(2, 1, abort=True),
            batch(part, 3, producer=1, attributes=bits),
            marker(4, 1, abort=False),
            batch(part, 5, producer=2, attributes=bits),
            batch(part, 6),
        ]
    )
    parsed = parse(raw, 0, aborted=[(1, 0), (2, 1)])
    assert parsed.spans["offset"].tolist() == [3, 6]
    assert parsed.next == 7


def test_position_moves_past_what_nobody_sees() -> None:
    """A fetch with only markers, or a batch emptied by compaction, has no record, but the position advances."""
    parsed = parse(marker(10, 1, abort=True) + marker(11, 1, abort=False), 10)
    assert (len(parsed.spans), parsed.next, parsed.error) == (0, 12, None)
    emptied = bytearray(batch([Part(0, T0, b"k", b"v")], 10, last=8)[: wire.HEADER_BYTES])
    struct.pack_into(">i", emptied, wire.LENGTH_AT, wire.HEADER_BYTES - wire.AFTER_LENGTH)
    struct.pack_into(">i", emptied, wire.COUNT_AT, 0)
    parsed = parse(seal(bytes(emptied)), 10)
    assert (len(parsed.spans), parsed.next, parsed.error) == (0, 19, None)


# --- malformed batches


@settings(deadline=None)
@given(logs(), st.data())
def test_a_flipped_bit_is_found(log: Log, data: st.DataObject) -> None:
    """Any wrong bit after the checksum is an error; batches before it are delivered, the next position is its own."""
    which = data.draw(st.integers(0, len(log.batches) - 1))
    bad = bytearray(log.batches[which])
    at = data.draw(st.integers(wire.CRC_AT, len(bad) - 1))
    bad[at] ^= 1 << data.draw(st.integers(0, 7))
    raw = b"".join([*log.batches[:which], bytes(bad), *log.batches[which + 1 :]])
    ours = parse(raw, 0, aborted=log.aborted)
    assert isinstance(ours.error, CorruptRecordException)
    theirs = reference(b"".join(log.batches[:which]), aborted=log.aborted)
    assert [seen(r) for r in columns(ours)] == [seen(r) for r in theirs]
    assert ours.next == (log.nexts[which - 1] if which else 0)


@settings(deadline=None)
@given(
    logs(), st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=8), st.booleans()
)
def test_bytes_of_any_kind_do_no_harm(log: Log, pokes: list[tuple[int, int]], sealed: bool) -> None:
    """For any bytes, with a correct checksum or unchecked, columns stay inside the buffer."""
    batches = [bytearray(b) for b in log.batches]
    for where, byte in pokes:
        target = batches[where % len(batches)]
        # Headers are a small part of a batch with the most possible mistakes.
        at = where // len(batches)
        target[at % (wire.HEADER_BYTES + 8 if at % 2 else len(target)) % len(target)] = byte
    raw = b"".join(seal(bytes(b)) if sealed else bytes(b) for b in batches)
    parsed = parse(raw, 0, check_crcs=sealed, aborted=log.aborted)
    assert parsed is None or inside(parsed)


@settings(deadline=None)
@given(st.binary(max_size=400), st.integers(0, 60))
def test_a_body_of_any_bytes_does_no_harm(body: bytes, count: int) -> None:
    """A batch with a correct header and checksum and random records is read; an unknown codec is set aside."""
    whole = bytearray(batch([Part(0, T0, b"", b"")])[: wire.HEADER_BYTES] + body)
    struct.pack_into(">i", whole, wire.LENGTH_AT, len(whole) - wire.AFTER_LENGTH)
    struct.pack_into(">i", whole, wire.COUNT_AT, count)
    for codec in (*CODECS.values(), 5):
        whole[wire.ATTRIBUTES_AT + 1] = codec
        parsed = parse(seal(bytes(whole)), 0)
        assert inside(parsed)
        if codec == 5 and count:
            assert [each.data for each in parsed.unreadable] == [seal(bytes(whole))]


_EDGES = (-(1 << 63), -(1 << 31), -2, -1, 0, 1, 6, 7, 63, 64, 1 << 31, (1 << 63) - 1)


@pytest.mark.parametrize("field", range(7))
def test_lengths_at_their_limits_do_no_harm(field: int) -> None:
    """A length, delta or count at the ends of its range, cut off or longer than 64 bits, never overflows."""
    for edge in [*map(varint, _EDGES), b"\x80", b"\xff" * 9 + b"\x7f", b"\xff" * 11 + b"\x01"]:
        fields = [b"\x00", varint(0), varint(0), varint(1) + b"k", varint(1) + b"v", varint(0)]
        if field:
            fields[field - 1] = edge + fields[field - 1][1:]
        record = b"".join(fields)
        record = (varint(len(record)) if field else edge) + record
        whole = bytearray(batch([Part(0, T0, b"", b"")])[: wire.HEADER_BYTES] + record)
        struct.pack_into(">i", whole, wire.LENGTH_AT, len(whole) - wire.AFTER_LENGTH)
        parsed = parse(seal(bytes(whole)), -(1 << 62))
        assert inside(parsed)
        assert parsed.error is None
        assert parsed.unreadable or len(parsed.spans) == 1


# --- building


@pytest.mark.parametrize("codec", CODECS.values(), ids=list(CODECS))
@settings(deadline=None)
@given(messages=MESSAGES, limit=st.sampled_from([1, 100, 400, 1 << 20]))
def test_aiokafka_reads_what_we_build(
    messages: list[tuple[bytes | None, bytes | None]], limit: int, codec: int
) -> None:
    """aiokafka's reader and ours read the same keys and values, from batches within the size limit."""
    batches = build(messages, limit=limit, compression=codec)
    raw = b"".join(batches)
    theirs = [seen(r) for r in reference(raw)]
    assert theirs == [(*TP, i, T0, k, v, ()) for i, (k, v) in enumerate(messages)]
    assert [seen(r) for r in columns(parse(raw, 0))] == theirs
    counts = [struct.unpack_from(">i", b, wire.COUNT_AT)[0] for b in batches]
    assert sum(counts) == len(messages)
    for b, n in zip(batches, counts, strict=True):
        assert n == 1 or len(b) <= limit


@settings(deadline=None)
@given(messages=MESSAGES.filter(len), transactional=st.booleans())
def test_batches_are_aiokafkas_to_the_byte(
    messages: list[tuple[bytes | None, bytes | None]], transactional: bool
) -> None:
    """One batch equals what aiokafka's builder makes of the same messages, its attributes included."""
    bits = wire.TRANSACTIONAL if transactional else 0
    parts = [Part(i, T0, key, value) for i, (key, value) in enumerate(messages)]
    ours = build(messages, transactional=transactional)
    expected = bytearray(batch(parts, attributes=bits))
    assert len(ours) == 1
    struct.pack_into(">qhi", expected, wire.PRODUCER_AT, -1, -1, -1)
    assert ours[0] == seal(bytes(expected))


@pytest.mark.parametrize("codec", [c for c in CODECS.values() if c])
def test_compressed_only_where_that_is_smaller(codec: int) -> None:
    """Text shrinks; one byte is sent as it is, and its batch says so."""
    (large,), (small,) = (
        build([(None, b"abc" * 500)], compression=codec),
        build([(None, b"a")], compression=codec),
    )
    assert len(large) < 800 and large[wire.ATTRIBUTES_AT + 1] == codec
    assert small == build([(None, b"a")])[0]


def test_producer_state_may_be_set_again() -> None:
    """A retry under another id or number changes the header and its checksum, and nothing else."""
    (built,) = closed.build(*packed([b"k"]), *packed([b"v"]), timestamp=T0, limit=1000)
    assert built.closed() and built.append(key=b"k", value=b"v", timestamp=None, headers=[]) is None
    for state in itertools.product([5, 1 << 40], [0, 3], [0, 77]):
        built._set_producer_state(*state)
        raw = bytes(built._build())
        assert raw == bytes(built._build())
        assert struct.unpack_from(">qhi", raw, wire.PRODUCER_AT) == state
        assert struct.unpack_from(">I", raw, wire.CRC_AT)[0] == calc_crc32c(raw[wire.ATTRIBUTES_AT :])
        assert [r.value for r in reference(raw)] == [b"v"]


@pytest.mark.parametrize("at, size", [(0, 6), (-1, 2), (5, 1), (1 << 62, 5)])
def test_a_record_outside_its_array_is_refused(at: int, size: int) -> None:
    """Columns that point outside of their array are an error, not a read of strange memory."""
    data, where, sizes = np.zeros(5, np.uint8), np.array([at], np.int64), np.array([size], np.int32)
    well = packed([b"x"])
    with pytest.raises(ValueError, match="record 0 lies outside"):
        closed.build(data, where, sizes, *well, timestamp=T0, limit=1000)
    with pytest.raises(ValueError, match="record 0 lies outside"):
        closed.build(*well, data, where, sizes, timestamp=T0, limit=1000)
    with pytest.raises(ValueError, match="differ in length"):
        closed.build(*well, *packed([b"x", b"y"]), timestamp=T0, limit=1000)


def test_kernels_are_compiled_once() -> None:
    """Arrays that are writable, have gaps, or contain other integers need no second, slow compilation."""
    part, at, size = packed([b"one", None, b"two"])
    gaps = np.zeros((3, 2), np.int64)
    gaps[:, 0] = at
    for where in (at, at.astype(np.int32), gaps[:, 0]):
        for data in (part, part.copy()):
            (built,) = closed.build(data, where, size, part, at, size, timestamp=T0, limit=1000)
            parsed = parse(bytes(built._build()), 0, aborted=[(1, 2)])
            assert columns(parsed).keys() == columns(parsed).values() == [b"one", None, b"two"]
    for codec in CODECS.values():
        build([(None, b"text " * 99)], compression=codec)
    for kernel in (wire.survey, wire.records, closed._write, closed._checksum):
        assert len(kernel.signatures) == 1
