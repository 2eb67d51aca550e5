"""A short run of each fuzzer, and a test for each problem that the long runs found."""

import itertools
import signal
import struct
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zstandard
from aiokafka.errors import CorruptRecordException

from stream_app.contract.events import MIN_TS_MS
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import CLICK, Record
from stream_app.kafka.record_batches import reader as wire
from stream_app.recordings import file_format as layout
from stream_app.recordings.errors import DamagedRecording
from stream_app.recordings.recording import RecordingReader
from tests.fuzz.run import TARGETS, fuzz
from tests.stream_app.batches import T0, Part, batch, parse, seal
from tests.stream_app.strategies import a_decoder

_ROUNDS = {"decoder": 4, "batches": 2, "recordings": 4}
_KINDS = {"decoder": 18, "batches": 15, "recordings": 12}


@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run(name: str) -> None:
    """With thousands of damaged inputs both readers agree, only the buffers are accessed, and all outcomes occur."""
    outcomes = fuzz(name, 0, range(_ROUNDS[name]))
    assert outcomes.total() == _ROUNDS[name] * TARGETS[name][1]
    assert len(outcomes) >= _KINDS[name], outcomes


def test_one_byte_too_far_ends_the_process() -> None:
    """The fuzzers rely on this: a kernel that reads one byte before or after its buffer crashes."""
    program = """
import numba
from stream_app.kernels.hashing import xxh64
from stream_app.kernels.memory import pointer_to
from tests.fuzz.guarded import GuardedBuffer

hashed = numba.njit(lambda data, at, size: xxh64(pointer_to(data), at, size))
buffer = GuardedBuffer(100)
hashed(buffer.holding(b"abc"), 0, 3)
print("inside", flush=True)
hashed(buffer.holding(b"abc", AT_END), AT, 3)
"""
    for at_end, at in ((True, 1), (False, -1)):
        code = program.replace("AT_END", str(at_end)).replace("AT", str(at))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=False)
        assert done.stdout == b"inside\n", done.stderr
        assert done.returncode in (-signal.SIGSEGV, -signal.SIGBUS)


# --- found in the decoder


def test_minus_zero_is_a_price_of_zero() -> None:
    """`-0` had another sign in the compiled decoder than in the general one."""
    for text in (b"-0", b"-0.0", b"0", b"-0e5"):
        value = b'{"user_id":"u","ts":1e11,"item_id":"i","price":%b}' % text
        record = Record("clicks", 0, 0, T0, b"u", value)
        fast, general = a_decoder(), a_decoder()
        for events in (
            fast.decode(CLICK, RecordColumns.of([record]))[0],
            general.decode_generally(CLICK, [record])[0],
        ):
            assert events.data["price"].tobytes() == np.float32(0).tobytes()


@pytest.mark.parametrize("correct_clock", [False, True])
def test_broker_times_at_the_ends_of_their_range(correct_clock: bool) -> None:
    """Record times from the least to the greatest of 64 bits never overflow: events too far ahead stay invalid."""
    first = MIN_TS_MS
    ends = (-(2**63), -(2**63) + 300_000, -1, 0, first, 2**62, 2**63 - 300_000, 2**63 - 1)
    times = (
        (first, None),
        (first, first + 1),
        (first + 300_000, None),
        (first + 300_001, None),
        (first + 9, first + 8),
    )
    texts = [b'"ts":%d' % ts + (b',"sent_at":%d' % sent if sent else b"") for ts, sent in times]
    cases = list(itertools.product(ends, texts))
    records = [
        Record("clicks", 0, i, time, b"u", b'{"user_id":"u","item_id":"i",%b}' % text)
        for i, (time, text) in enumerate(cases)
    ]
    fast, general = a_decoder(correct_clock=correct_clock), a_decoder(correct_clock=correct_clock)
    events, bad = fast.decode(CLICK, RecordColumns.of(records))
    wanted, wrong = general.decode_generally(CLICK, records)
    assert events.data.tobytes() == wanted.packed().data.tobytes()
    assert bad == wrong
    if not correct_clock:
        good = [
            i
            for i, (time, text) in enumerate(cases)
            if time <= 0
            or msgspec.json.decode(b"{%b}" % text)["ts"] <= time + 300_000  # 0 and less is not a time
        ]
        assert events.data["offset"].tolist() == good
    assert ((events.data["ts"] >= first) & (events.data["ts"] < 2**50)).all()


# --- found in the reader of record batches


def test_headers_that_are_counted_and_not_there() -> None:
    """A record with a count of one header and no header was accepted, and its dead letter raised IndexError."""
    record = bytes([0, 0, 0, 1, 2, ord("v"), 2])
    whole = bytearray(batch([Part(0, T0, b"", b"")])[: wire.HEADER_BYTES] + bytes([2 * len(record)]) + record)
    struct.pack_into(">i", whole, wire.LENGTH_AT, len(whole) - wire.AFTER_LENGTH)
    parsed = parse(seal(bytes(whole)), 0)
    assert parsed is not None and not len(parsed.spans)
    (aside,) = parsed.unreadable
    assert aside.data == seal(bytes(whole))


def test_a_damaged_format_byte_is_not_an_older_format() -> None:
    """No checksum of format 2 covers the format byte: the batch is corrupt, but the one before it is delivered."""
    first, second = batch([Part(0, T0, b"k", b"v")]), bytearray(batch([Part(0, T0, b"k", b"v")], 1))
    for magic in (0, 1, 3, 0x82):
        second[wire.MAGIC_AT] = magic
        parsed = parse(first + bytes(second), 0)
        assert parsed is not None
        assert type(parsed.error) is CorruptRecordException
        assert (parsed.spans["offset"].tolist(), parsed.next) == ([0], 1)


# --- found in the reader of recordings


def recording(path: Path, body: bytes, count: int, head: bytes = b"") -> Path:
    """Return a file with any content and correct checksums."""
    end = layout.block(layout.END, b"", count)
    path.write_bytes((head or layout.head({"clicks": 1}, {})) + layout.block(layout.BLK, body, count) + end)
    return path


def packed(rows: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(rows)


ROW = msgspec.msgpack.encode(["clicks", 0, 0, 0, None, None, []])


@pytest.mark.parametrize(
    "what, body, count",
    [
        ("a name that is not text", packed(b"\x91" + ROW.replace(b"clicks", b"\xff" * 6)), 1),
        ("fewer records than its head says", packed(b"\x91" + ROW), 2),
        ("a size that nothing has", b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**62) + b"\x01\0\0", 1),
        ("arrays without end", packed(b"\x91" * 100_000), 1),
    ],
)
def test_blocks_that_nobody_wrote(what: str, body: bytes, count: int, tmp_path: Path) -> None:
    """A block with a correct checksum and wrong content raises our error, not one of a library."""
    path = recording(tmp_path / "a.stream", body, count)
    with pytest.raises(DamagedRecording):
        list(RecordingReader(path))
    lenient = RecordingReader(path, strict=False)
    assert list(lenient) == [], what
    assert isinstance(lenient.broken, DamagedRecording)


@pytest.mark.parametrize(
    "topics", [b"\x81\xa6\xff\xff\xff\xff\xff\xff\x01", b"\x81\xa1a" + b"\x91" * 100_000]
)
def test_heads_that_nobody_wrote(topics: bytes, tmp_path: Path) -> None:
    """A head with a correct checksum and wrong content raises our error."""
    head = layout.head({"clicks": 1}, {})
    body = b"\x82\xa6topics\x80\xa8metadata" + topics
    checksum = layout.xxhash.xxh3_64_intdigest(body)
    bad = layout.HEAD.pack(layout.MAGIC, layout.VERSION, len(body), checksum) + body
    assert bad != head
    with pytest.raises(DamagedRecording):
        RecordingReader(recording(tmp_path / "a.stream", packed(b"\x90"), 0, bad))
