"""Batches that the broker stores, and that once stopped every worker of a group or filled its memory."""

import time

from stream_app.kafka.record_batches.reader import HEADER_BYTES
from tests.attack.worker import Attacked
from tests.integration.harness import wait_for
from tests.stream_app.raw_batches import gzip, lz4, record, snappy, stored, varint, zstd

ONE = record(0, b"k", b"v")


def a_long_bad_record(it: Attacked) -> None:
    """187 bytes with a value of 3 MB: the dead letter must fit its topic."""
    it.send(stored(zstd(record(0, b"mallory", bytes(3_000_000))), 1, 4))
    it.answers("a long bad record")


def odd_shapes(it: Attacked) -> None:
    """Batches that Kafka's own consumer reads, or skips in part."""
    for what, batch in {
        "an offset delta of more than 32 bits": stored(
            record(0, b"k", b"v", delta=b"\x80\x80\x80\x80\x10"), 1
        ),
        "a key length of more than 32 bits": stored(record(0, None, b"v", key=b"\x82\x80\x80\x80\x70k"), 1),
        "an offset delta beyond the batch": stored(record(2**31 - 1, b"k", b"v"), 1),
        "an offset delta below zero": stored(record(-1, b"k", b"v"), 1),
        "an offset twice": stored(ONE + ONE, 2),
        "bytes after a gzip member": stored(gzip(ONE) + b"7 bytes", 1, 1),
        "a wrong checksum of an lz4 frame": stored(lz4(ONE, flags=0x64) + b"abcd", 1, 3),
        "bytes after a snappy block": stored(snappy(ONE) + b"abc", 1, 2),
        "headers with long numbers": stored(record(0, b"k", b"v", tail=b"\x02\x82\x80\x80\x80\x70h\x01"), 1),
    }.items():
        it.send(batch)
        it.answers(what)


def unreadable_batches(it: Attacked) -> None:
    """Batches that Kafka's own consumer refuses: dead letters contain their bytes."""
    second = record(1, b"k", b"v")
    batches = [
        stored(f(ONE + b"\x03" + second[1:]), 2, codec)
        for codec, f in ((1, gzip), (2, snappy), (3, lz4), (4, zstd))
    ]
    batches.append(stored(zstd(varint(2**31 - 1) + ONE[1:]), 1, 4))
    it.send(*batches)
    it.answers("unreadable batches")
    letters = it.dead_letters("unreadable")
    for batch in batches:
        # The broker changes fields of the header: the offset, the time, and so the checksum.
        assert any(letter[HEADER_BYTES:] == batch[HEADER_BYTES:] for letter in letters), (
            "no dead letter contains the batch"
        )


def bombs(it: Attacked) -> None:
    """46 kB that expand to 1.5 GB, then 124 kB that expand to 4 GB."""
    bomb = stored(zstd(record(0, b"m", bytes(250_000_000))), 1, 4)
    for count in (6, 16):
        it.send(*[bomb] * count)
        it.answers(f"{count} bombs", 300)
        it.within_memory()


def many_empty_records(it: Attacked) -> None:
    """700,000 records without key and value in a batch of 519 kB."""
    it.send(stored(zstd(b"".join(record(i, None, None) for i in range(700_000))), 700_000, 4))
    it.answers("700,000 empty records", 400)
    it.within_memory()


def an_honest_large_batch(it: Attacked) -> None:
    """700,000 events compressed to about 1 MB are all processed."""
    n, now = 700_000, int(time.time() * 1000)
    value = b'{"user_id":"u%d","ts":%d,"item_id":"i%d"}'
    body = b"".join(
        record(i, b"u%d" % (i // 1000), value % (i // 1000, now - 60_000, i // 1000 % 99)) for i in range(n)
    )
    batch = stored(zstd(body), n, 4, first_ms=now)
    before = it.events()
    it.send(batch)
    it.waits("700,000 events of one batch", before + n, 400)
    it.within_memory()


def large_beside_small(it: Attacked) -> None:
    """30,000 clicks in batches that expand to 15 MB each, and 300 browses in batches of one: all are processed."""
    per_batch, now, before = 10_000, int(time.time() * 1000), it.events()
    for start in range(0, 30_000, per_batch):
        value = b'{"user_id":"u%d","ts":%d,"item_id":"i1","query":"' + b"q" * 1400 + b'"}'
        body = b"".join(
            record(i, b"u%d" % (i % 99), value % (i % 99, now + start + i)) for i in range(per_batch)
        )
        it.send(stored(zstd(body), per_batch, 4, first_ms=now))
    for i in range(300):
        event = b'{"user_id":"b%d","ts":%d}' % (i % 9, now + 100 * i)
        it.send(stored(record(0, b"b%d" % (i % 9), event), 1, first_ms=now), topic="browses")
    it.waits("30,000 clicks and 300 browses", before + 30_300, 240)


def many_headers(it: Attacked) -> None:
    """Invalid records with headers of two bytes each: half a million in each of 60 records, then a million in one."""
    half, million = (varint(n) + b"\0\1" * n for n in (500_000, 1_000_000))
    it.send(stored(zstd(b"".join(record(i, b"mallory", b"?", tail=half) for i in range(60))), 60, 4))
    it.answers("60 records of 500,000 headers")
    it.send(stored(zstd(record(0, b"mallory", b"?", tail=million)), 1, 4))
    it.send(stored(record(0, b"mallory", b"?", tail=half), 1))
    it.answers("a million headers")
    it.within_memory()
    for dropped, letters in ((b"500000", 61), (b"1000000", 1)):
        header = ("foreclick.headers.dropped", dropped)
        wait_for(
            "a dead letter for each",
            lambda header=header, n=letters: len(it.outputs("dead-letters", header)) == n,
        )


SHORT = (a_long_bad_record, odd_shapes, unreadable_batches, many_headers)
ALL = (*SHORT, bombs, many_empty_records, an_honest_large_batch, large_beside_small)
