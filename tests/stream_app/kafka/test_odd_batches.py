"""Unusual batches that a broker stores: they are read like Kafka's Java consumer reads them, or set aside.

The consumer's behaviour was observed on Kafka 4.1; `tests/fuzz/stored.py` compares again, at random.
"""

import hashlib
import itertools
import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import zstandard

from stream_app.contract.record_columns import RecordColumns
from stream_app.kafka.record_batches import reader as wire
from stream_app.kafka.record_batches.chunked_reader import LONGEST_RECORD, STEP_BYTES, STEP_RECORDS
from stream_app.kafka.record_batches.fetch_reader import read
from stream_app.processing.shop_processor import ShopProcessor
from stream_app.settings import Settings
from stream_app.worker.transport.fetch_hook import DEAD_LETTER_BYTES, dead_letters_of
from tests.stream_app.batches import T0, TP, Parsed, Part, batch, parse, seal
from tests.stream_app.raw_batches import gzip, lz4, record, snappy, stored, varint, zstd


def seen(parsed: Parsed | None) -> list[tuple[int, bytes | None, bytes | None]]:
    assert parsed is not None and parsed.error is None
    columns = RecordColumns(*TP, parsed.data, parsed.spans)
    return [(r.offset, r.key, r.value) for r in columns]


AB = record(0, b"a", b"1") + record(1, b"b", b"2")
#: A valid batch after the odd one, which has the offsets 0 and 1.
BEHIND = batch([Part(0, T0, b"g", b"good")], 2)
GOOD = (2, b"g", b"good")
BOTH = [(0, b"a", b"1"), (1, b"b", b"2"), GOOD]


@pytest.mark.parametrize(
    "what, codec, body",
    [
        (
            "bits of a length that 32 have no room for",
            0,
            record(0, None, b"1", key=b"\x82\x80\x80\x80\x70a") + AB[9:],
        ),
        ("a delta of which 32 bits are 0", 0, record(0, b"a", b"1", delta=b"\x80\x80\x80\x80\x10") + AB[9:]),
        ("a delta beyond its batch: the offset that the broker gave", 0, record(7, b"a", b"1") + AB[9:]),
        ("bytes after a gzip member", 1, gzip(AB) + b"7 bytes"),
        ("zeros after a gzip member", 1, gzip(AB) + bytes(30)),
        ("the beginning of a gzip header", 1, gzip(AB) + gzip(b"")[:9]),
        ("two gzip members", 1, gzip(AB[:9]) + gzip(AB[9:])),
        ("unknown gzip flags", 1, gzip(AB)[:3] + b"\xe0" + gzip(AB)[4:]),
        ("three bytes after the last snappy block", 2, snappy(AB) + b"abc"),
        ("two snappy streams", 2, snappy(AB[:9]) + snappy(AB[9:])),
        ("two snappy blocks", 2, snappy(AB[:9], AB[9:])),
        ("a snappy header of version 0", 2, snappy(AB)[:8] + bytes(8) + snappy(AB)[16:]),
        ("snappy without a header", 2, snappy(AB)[20:]),
        ("an lz4 frame with a wrong checksum of its content", 3, lz4(AB, flags=0x64) + b"abcd"),
        ("bytes after an lz4 frame", 3, lz4(AB) + b"abcdefg"),
        ("two lz4 blocks", 3, lz4(AB[:9], AB[9:])),
        ("two zstd frames", 4, zstd(AB[:9]) + zstd(AB[9:])),
        ("a skippable zstd frame", 4, zstd(AB) + struct.pack("<II", 0x184D2A50, 3) + b"abc"),
        ("the beginning of a zstd frame after another", 4, zstd(AB) + zstd(AB)[:6]),
    ],
)
def test_what_the_java_consumer_reads_is_read(what: str, codec: int, body: bytes) -> None:
    """Both records of the odd batch and the one after it are read, and nothing is set aside."""
    parsed = parse(stored(body, 2, codec) + BEHIND)
    assert seen(parsed) == BOTH, what
    assert parsed is not None and not parsed.unreadable and parsed.next == 3


NO_LENGTH = b"\x03" + AB[10:]  # the second record, with a wrong length


@pytest.mark.parametrize(
    "what, codec, body, before",
    [
        (
            "a second offset below the first",
            0,
            record(1, b"a", b"1") + record(0, b"b", b"2"),
            [(1, b"a", b"1")],
        ),
        ("an offset twice", 0, record(0, b"a", b"1") + record(0, b"b", b"2"), BOTH[:1]),
        ("an offset before the batch", 0, record(-1, b"a", b"1") + record(1, b"b", b"2"), BOTH[1:2]),
        ("a length that is wrong", 1, gzip(AB[:9] + NO_LENGTH), BOTH[:1]),
        ("a length that is wrong", 2, snappy(AB[:9] + NO_LENGTH), BOTH[:1]),
        ("a length that is wrong", 3, lz4(AB[:9] + NO_LENGTH), BOTH[:1]),
        ("a length that is wrong", 4, zstd(AB[:9] + NO_LENGTH), BOTH[:1]),
        ("a first length of 2 GB", 4, zstd(varint(2**31 - 1) + AB[1:]), []),
        ("a first length below zero", 4, zstd(varint(-9) + AB[1:]), []),
        ("bytes after the last record", 4, zstd(AB + b"\0"), BOTH[:1]),
        ("an unknown codec", 5, AB, []),
        ("no zstd", 4, b"something else", []),
        ("a zstd frame that is cut off", 4, zstd(AB)[:-1], BOTH[:1]),
    ],
)
def test_what_the_java_consumer_refuses_is_set_aside(
    what: str, codec: int, body: bytes, before: Sequence[tuple[int, bytes, bytes]]
) -> None:
    """Records before the bad one are read, the stored batch is set aside, and reading continues after it."""
    odd = stored(body, 2, codec)
    parsed = parse(odd + BEHIND)
    assert seen(parsed) == [*before, GOOD], what
    assert parsed is not None
    (aside,) = parsed.unreadable
    assert (aside.first, aside.last, aside.data) == (0, 1, odd), what
    assert parsed.next == 3


def test_a_batch_that_is_set_aside_fits_into_letters() -> None:
    """Pieces of at most 512 KiB together equal the stored batch; each has the last offset of the batch."""
    odd = stored(record(1, b"a", bytes(1_200_000)) + record(0, b"b", b"2"), 2)
    (aside,) = parse(odd).unreadable
    found = dead_letters_of("clicks", 1, aside)
    assert b"".join(letter.record.value or b"" for letter in found) == odd
    assert [dict(letter.details)["foreclick.part"] for letter in found] == ["1/3", "2/3", "3/3"]
    assert all(len(letter.record.value or b"") <= DEAD_LETTER_BYTES for letter in found)
    assert {letter.record.offset for letter in found} == {1}


def test_a_position_in_the_middle_of_a_batch_sets_nothing_aside() -> None:
    """The broker sends the whole batch; records that were read before are skipped, not treated as an error."""
    whole = batch([Part(i, T0, b"k", b"%d" % i) for i in range(5)])
    parsed = parse(whole, 3)
    assert seen(parsed) == [(3, b"k", b"3"), (4, b"k", b"4")] and not parsed.unreadable


def test_an_aborted_transaction_is_passed_over_whatever_it_holds() -> None:
    """A batch that is invisible to consumers is neither expanded nor set aside."""
    bad = bytearray(stored(b"no zstd", 1, 4))
    bad[wire.ATTRIBUTES_AT + 1] |= wire.TRANSACTIONAL
    struct.pack_into(">q", bad, wire.PRODUCER_AT, 7)
    parsed = parse(seal(bytes(bad)) + batch([Part(0, T0, b"g", b"good")], 1), aborted=[(7, 0)])
    assert seen(parsed) == [(1, b"g", b"good")] and not parsed.unreadable


@pytest.mark.parametrize("size", [0, 1, 63, DEAD_LETTER_BYTES])
def test_the_header_of_a_batch_that_is_cut_off_by_its_count(size: int) -> None:
    """No memory is reserved for a count that the bytes cannot hold."""
    odd = bytearray(stored(bytes(size), 1))
    struct.pack_into(">i", odd, wire.COUNT_AT, 2**31 - 1)
    parsed = parse(seal(bytes(odd)))
    assert len(parsed.unreadable) == 1 and not len(parsed.spans)


# --- piece by piece


def pieces(raw: bytes) -> Iterator[tuple[int, list[int]]]:
    """Return buffer size and offsets of each piece."""
    for piece in read(raw, 0):
        yield len(piece.data), piece.spans["offset"].tolist()


@pytest.mark.parametrize("codec, compress", [(1, gzip), (2, snappy), (3, lz4), (4, zstd)])
def test_a_batch_that_expands_to_much_comes_in_pieces(codec: int, compress: object) -> None:
    """A batch of 70 MB gives each record once and in order, in pieces of at most some megabytes."""
    n = 20_000
    body = [record(i, b"%d" % i, b"v" * 3500) for i in range(n)]
    blocks = [b"".join(body[i : i + 16]) for i in range(0, n, 16)]
    raw = stored(compress(*blocks), n, codec)  # type: ignore[operator]
    sizes, offsets = zip(*pieces(raw), strict=True)
    assert list(itertools.chain(*offsets)) == list(range(n))
    assert max(sizes) <= 2 * STEP_BYTES and len(sizes) > 10


def test_many_small_records_come_in_pieces() -> None:
    """700,000 records without key and value in a batch of at most 519 kB are read 16,384 at a time."""
    n = 700_000
    raw = stored(zstd(b"".join(record(i, None, None) for i in range(n))), n, 4)
    found = [offsets for _, offsets in pieces(raw)]
    assert list(itertools.chain(*found)) == list(range(n))
    assert max(map(len, found)) <= STEP_RECORDS
    plain = batch([Part(i, T0, None, None) for i in range(40_000)])
    assert max(len(offsets) for _, offsets in pieces(plain)) <= STEP_RECORDS


def test_a_record_that_is_too_long_leaves_its_length_and_checksum() -> None:
    """Of a record of 50 MB: key, beginning and SHA-256 of its value; the records before and after it are read."""
    long = bytes(range(256)) * 200_000
    body = record(0, b"a", b"1") + record(1, b"m", long, ((b"h", b"x"),)) + record(2, b"b", b"2")
    raw = stored(zstd(body), 3, 4)
    parsed = parse(raw)
    assert seen(parsed) == [(0, b"a", b"1"), (2, b"b", b"2")]
    (aside,) = parsed.unreadable
    assert (aside.first, aside.last, aside.key, aside.data) == (1, 1, b"m", long[:4096])
    assert (aside.value_bytes, aside.sha256) == (len(long), hashlib.sha256(long).hexdigest())
    assert max(size for size, _ in pieces(raw)) <= 2 * STEP_BYTES
    (letter,) = dead_letters_of("clicks", 0, aside)
    assert letter.reason == "too_large" and dict(letter.details)["foreclick.value.length"] == str(len(long))


@pytest.mark.parametrize(
    "what, body",
    [
        ("cut off", record(0, b"m", bytes(6 * LONGEST_RECORD))[:-5]),
        ("headers that are none", record(0, b"m", bytes(6 * LONGEST_RECORD), tail=b"\x02\x05")),
        ("a value longer than its record", varint(6 << 20) + b"\0\0\0\1" + varint(7 << 20) + bytes(6 << 20)),
        ("bytes after it", record(0, b"m", bytes(6 * LONGEST_RECORD)) + b"\0"),
    ],
)
def test_a_long_record_that_is_none(what: str, body: bytes) -> None:
    """The batch is set aside, and reading continues after it."""
    odd = stored(zstd(body), 1, 4)
    parsed = parse(odd + batch([Part(0, T0, b"g", b"good")], 1))
    assert seen(parsed) == [(1, b"g", b"good")], what
    assert [each.data for each in parsed.unreadable] == [odd], what


def test_a_piece_is_delivered_before_a_broken_stream() -> None:
    """The records before the error in a batch of many megabytes are read, and the batch is set aside."""
    body = b"".join(record(i, b"k", np.random.default_rng(i).bytes(5000)) for i in range(3000))
    whole = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(body)
    odd = stored(whole[: len(whole) * 2 // 3], 3000, 4)
    parsed = parse(odd)
    assert 1500 < len(parsed.spans) < 2100
    assert parsed.spans["offset"].tolist() == list(range(len(parsed.spans)))
    assert [each.data for each in parsed.unreadable] == [odd] and parsed.next == 3000


def test_gzip_checks_what_java_checks() -> None:
    """A wrong checksum or length of a member is an error after its data, so the last record is not read."""
    good = gzip(AB)
    for bad in (good[:-8] + b"abcd" + good[-4:], good[:-1] + b"\x7f", good[:-3], gzip(AB + b"\1")):
        parsed = parse(stored(bad, 2, 1))
        assert seen(parsed) == BOTH[:1] and len(parsed.unreadable) == 1
    named = bytearray(good)
    named[3] = 0x1A  # a name, a comment and a checksum of the header
    head = bytes(named[:10]) + b"name\0comment\0"
    parsed = parse(stored(head + struct.pack("<H", zlib.crc32(head) & 0xFFFF) + good[10:], 2, 1))
    assert seen(parsed) == BOTH[:2] and not parsed.unreadable


def test_a_checkpoint_never_passes_what_was_set_aside() -> None:
    """Dead letters of a batch are sent once processing has passed its last offset; before, there is no checkpoint."""
    processor = ShopProcessor(Settings(resident_users=100), partitions=1)
    processor.assign(0, [0, 0, 0])
    processor.restored(0)
    event = b'{"user_id":"g","ts":%d,"item_id":"i1"}' % T0
    good = stored(record(0, b"g", event), 1, base=0)
    odd = stored(record(1, b"a", b"1") + record(1, b"b", b"2"), 2, base=1)
    (piece,) = read(good + odd, 0)
    aside = [letter for each in piece.unreadable for letter in dead_letters_of("clicks", 0, each)]
    bad = processor.ingest(0, 0, RecordColumns("clicks", 0, piece.data, piece.spans, aside), piece.next)
    assert [(b.reason, b.record.offset) for b in bad] == [("malformed", 2), ("unreadable", 2)]
    assert processor.dead_letters() == {}  # the event before it waits for the other topics
    assert processor.step(0.0, ended=True) is not None
    assert processor.checkpoint(0, 1) is None
    ((_, found),) = processor.dead_letters().items()
    assert [dict(headers)["foreclick.reason"] for _, _, headers in found] == [b"malformed", b"unreadable"]
    assert found[1][1] == odd and dict(found[1][2])["foreclick.offsets"] == b"1-2"
    checkpoint = processor.checkpoint(0, 1)
    assert checkpoint is not None and checkpoint.positions == [3, 0, 0]
