"""The fetcher's replacement for aiokafka's record iterator, compared with the iterator itself."""

from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CorruptRecordException
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from hypothesis import given, settings

from stream_app.kafka.record_batches import reader as wire
from stream_app.worker.errors import IncompatibleAiokafka
from stream_app.worker.transport.fetch_hook import PartitionColumns, install_fetch_hook
from tests.stream_app.batches import T0, Log, Part, batch, logs, reference, seal, seen


def fetched(raw: bytes, position: int = 0, **options: Any) -> PartitionColumns:
    return PartitionColumns(reference(raw, position, **options), raw)


@settings(deadline=None)
@given(logs())
def test_one_piece_then_the_end(log: Log) -> None:
    """All records come in one piece, then no more; the next fetch continues where aiokafka's would."""
    raw = b"".join(log.batches)
    theirs, ours = reference(raw, aborted=log.aborted), fetched(raw, aborted=log.aborted)
    assert ours.next_fetch_offset == theirs.next_fetch_offset == 0
    pieces = list(ours)
    assert len(pieces) <= 1
    assert [seen(r) for piece in pieces for r in piece] == [seen(r) for r in theirs]
    assert ours.next_fetch_offset == theirs.next_fetch_offset
    assert next(ours, None) is None


def test_a_bad_batch_stops_the_next_fetch() -> None:
    """Batches before a bad one are delivered; if it is the first, the error is aiokafka's, and names the place."""
    good, bad = batch([Part(0, T0, b"k", b"v")], 5), bytearray(batch([Part(0, T0, b"k", b"v")], 6))
    bad[-1] ^= 1
    first = fetched(good + bytes(bad), 5)
    assert [len(piece) for piece in first] == [1]
    assert first.next_fetch_offset == 6
    second = fetched(bytes(bad), 6)
    with pytest.raises(CorruptRecordException) as ours:
        next(second)
    with pytest.raises(CorruptRecordException) as theirs:
        next(reference(bytes(bad), 6))
    assert str(ours.value) == str(theirs.value)
    assert next(second, None) is None and second.next_fetch_offset == 6


def test_an_unknown_codec_is_set_aside() -> None:
    """A batch with an unknown codec becomes a dead letter, and reading continues after it."""
    raw = bytearray(batch([Part(0, T0, b"k", b"v")], last=4))
    raw[wire.ATTRIBUTES_AT + 1] = 6
    bad = seal(bytes(raw))
    ours = fetched(bad + batch([Part(0, T0, b"k", b"v")], 5))
    first, second = ours
    assert [len(first), *second.spans["offset"].tolist()] == [0, 5]
    assert ours.next_fetch_offset == 6
    (letter,) = first.aside
    assert letter.reason == "unreadable"
    assert letter.record == ("clicks", 3, 4, T0, None, bad, ())
    assert letter.details == (("foreclick.offsets", "0-4"), ("foreclick.part", "1/1"))
    assert "0x06" in letter.expected


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", [0, 1, 2])
def test_old_message_formats(magic: int, codec: int) -> None:
    """Message sets of formats 0 (which has no times) and 1 are read too."""
    builder = LegacyRecordBatchBuilder(magic, codec, 1 << 20)
    for i in range(5):
        assert builder.append(i, T0 + i, b"k%d" % i, b"value " * i)
    raw = bytes(builder.build())
    theirs, ours = reference(raw), fetched(raw)
    (piece,) = ours
    expected = [(i, T0 + i if magic else -1, b"k%d" % i, b"value " * i) for i in range(5)]
    assert [(r.offset, r.timestamp, r.key, r.value) for r in piece] == expected
    assert len(list(theirs)) == 5
    assert ours.next_fetch_offset == theirs.next_fetch_offset


def test_another_aiokafka_is_refused() -> None:
    """A consumer with other internals than expected (here one that has not started) is refused with the remedy."""

    class Other:
        """A consumer of some other release."""

    with pytest.raises(IncompatibleAiokafka, match=r"has not Other\._fetcher, .* install aiokafka 0\.14"):
        install_fetch_hook(Other())  # type: ignore[arg-type]
    assert hasattr(AIOKafkaConsumer, "getmany")
