"""The recording format: exactly the written records are read back."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.contract.records import Record
from stream_app.recordings.errors import (
    DamagedRecording,
    NotARecordingError,
    RecordingError,
    TruncatedRecording,
)
from stream_app.recordings.file_format import MAGIC
from stream_app.recordings.recording import RecordingReader, RecordingWriter

TOPICS = {"clicks": 4, "browses": 4, "purchases": 2}

INT64 = st.integers(-(2**63), 2**63 - 1)
BYTES = st.none() | st.binary(max_size=40)
RECORDS = st.lists(
    st.builds(
        Record,
        topic=st.sampled_from(list(TOPICS)),
        partition=st.integers(0, 1),
        offset=INT64,
        timestamp=INT64,
        key=BYTES,
        value=BYTES,
        headers=st.lists(st.tuples(st.text(max_size=8), BYTES), max_size=3).map(tuple),
    ),
    max_size=12,
)


def sample(n: int) -> list[Record]:
    return [
        Record("clicks", i % 4, i // 4, 1_700_000_000_000 + i, b"u%d" % (i % 7), b'{"n":%d}' % i)
        for i in range(n)
    ]


def write(path: Path, records: list[Record], block: int = 1_000_000) -> None:
    """Write a recording with a new block after every `block` records."""
    with RecordingWriter(path, TOPICS, {"made": "by a test"}) as writer:
        for at in range(0, len(records), block):
            writer.extend(records[at : at + block])
            writer.flush()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@settings(deadline=None)
@given(records=RECORDS, block=st.integers(1, 10))
def test_round_trip(folder: Path, records: list[Record], block: int) -> None:
    """Any records are read back bit for bit, with topics and metadata, wherever the blocks end."""
    path = folder / "round.stream"
    write(path, records, block)
    reader = RecordingReader(path)
    assert list(reader) == records
    assert list(reader) == records  # a second pass starts at the beginning
    assert reader.topics == TOPICS
    assert reader.metadata == {"made": "by a test"}
    assert reader.broken is None
    assert reader.count() == len(records)


@settings(max_examples=10, deadline=None)
@given(records=RECORDS.filter(bool), block=st.integers(1, 10))
def test_cut_at_every_byte(folder: Path, records: list[Record], block: int) -> None:
    """Cut at any byte, a file gives a prefix of its records and a typed error that counts them."""
    path, cut = folder / "whole.stream", folder / "cut.stream"
    write(path, records, block)
    data = path.read_bytes()
    for length in range(len(data)):
        cut.write_bytes(data[:length])
        try:
            reader = RecordingReader(cut, strict=False)
        except (NotARecordingError, TruncatedRecording):
            continue
        got = list(reader)
        assert got == records[: len(got)]
        assert isinstance(reader.broken, TruncatedRecording)
        assert reader.broken.records == len(got) == reader.count()
        with pytest.raises(TruncatedRecording, match="still being written"):
            list(RecordingReader(cut))


@settings(deadline=None)
@given(at=st.integers(0), bit=st.integers(0, 7))
def test_one_changed_bit(folder: Path, at: int, bit: int) -> None:
    """A single flipped bit anywhere is found: the records before it are correct, the rest is refused."""
    path = folder / "bit.stream"
    records = sample(40)
    write(path, records, 10)
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << bit
    path.write_bytes(data)
    try:
        reader = RecordingReader(path, strict=False)
    except RecordingError:
        return
    got = list(reader)
    assert got == records[: len(got)]
    assert reader.broken is not None


@settings(deadline=None)
@given(data=st.binary(max_size=200), own_magic=st.booleans(), tail=st.booleans())
def test_random_bytes(folder: Path, data: bytes, own_magic: bool, tail: bool) -> None:
    """Random bytes, alone, after the magic or after a complete head, give no record and a typed error."""
    path = folder / "random.stream"
    if tail:
        write(path, [])
        head = path.read_bytes()[:-24]  # without the end mark
        path.write_bytes(head + data)
    else:
        path.write_bytes((MAGIC if own_magic else b"") + data)
    with pytest.raises(RecordingError):
        list(RecordingReader(path))


def test_strict_error_counts_the_good_records(tmp_path: Path) -> None:
    """The error of a truncated file has the number of good records, and comes after all of them."""
    path = tmp_path / "a.stream"
    write(path, sample(30), 10)
    path.write_bytes(path.read_bytes()[:-30])
    got = []
    with pytest.raises(TruncatedRecording, match="20 records") as caught:
        for record in RecordingReader(path):
            got.append(record)  # noqa: PERF402 (what came before the error counts)
    assert (len(got), caught.value.records) == (20, 20)


def test_bytes_behind_the_end_mark_are_refused(tmp_path: Path) -> None:
    """A file with added bytes does not count as complete."""
    path = tmp_path / "a.stream"
    write(path, sample(3))
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DamagedRecording, match="end mark"):
        list(RecordingReader(path))


def test_a_file_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    """A follower gets each flushed block immediately, waits for the next, and ends at the end mark."""
    path = tmp_path / "a.stream"
    records = sample(30)
    writer = RecordingWriter(path, TOPICS)
    writer.extend(records[:10])
    writer.flush()
    steps = iter([lambda: writer.extend(records[10:]), writer.flush, writer.close])
    got = list(RecordingReader(path).follow(timeout_s=5, sleep=lambda _: next(steps)()))
    assert got == records


def test_a_follower_gives_up_after_its_timeout(tmp_path: Path) -> None:
    """A follower of a file without a writer ends with a typed error after its time limit."""
    path = tmp_path / "a.stream"
    writer = RecordingWriter(path, TOPICS)
    writer.extend(sample(5))
    writer.flush()
    slept: list[float] = []
    with pytest.raises(TruncatedRecording, match="5 records"):
        list(RecordingReader(path).follow(timeout_s=1, poll_s=0.25, sleep=slept.append))
    assert sum(slept) == 1
    writer.close()


@pytest.mark.parametrize("n", [1, 7, 10, 100])
def test_batches(tmp_path: Path, n: int) -> None:
    """`batches` cuts the same records into lists of n, whatever the blocks are."""
    path = tmp_path / "a.stream"
    write(path, sample(30), 9)
    batches = list(RecordingReader(path).batches(n))
    assert [record for batch in batches for record in batch] == sample(30)
    assert all(len(batch) == n for batch in batches[:-1])


def test_a_failed_body_leaves_no_end_mark(tmp_path: Path) -> None:
    """A failed writer leaves a file that is marked as incomplete."""
    path = tmp_path / "a.stream"
    with pytest.raises(ZeroDivisionError), RecordingWriter(path, TOPICS) as writer:
        writer.extend(sample(5))
        writer.flush()
        raise ZeroDivisionError
    with pytest.raises(TruncatedRecording, match="5 records"):
        list(RecordingReader(path))


@pytest.mark.parametrize("record", [sample(1)[0]._replace(topic="other"), sample(1)[0]._replace(partition=4)])
def test_undeclared_topic_or_partition(tmp_path: Path, record: Record) -> None:
    """A record of a topic or partition that the head does not list is refused, since readers trust the head."""
    with (
        RecordingWriter(tmp_path / "a.stream", TOPICS) as writer,
        pytest.raises(RecordingError, match="opened for"),
    ):
        writer.append(record)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_full_disk() -> None:
    """A full disk gives one clear sentence."""
    with pytest.raises(RecordingError, match=r"the disk is full; its first 0 records are whole"):
        RecordingWriter(Path("/dev/full"), TOPICS)


def test_disk_full_in_the_middle_keeps_whole_blocks(tmp_path: Path) -> None:
    """If the disk is full within a block, that block is removed and the earlier ones stay readable."""
    resource = pytest.importorskip("resource", reason="this system has no resource limits")
    signal = pytest.importorskip("signal")
    path = tmp_path / "a.stream"
    writer = RecordingWriter(path, TOPICS)
    writer.extend(sample(100))
    writer.flush()
    size = path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, limits[1]))
    try:
        writer.extend(sample(1000))
        with pytest.raises(RecordingError, match="first 100 records are whole"):
            writer.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert path.stat().st_size == size
    reader = RecordingReader(path, strict=False)
    assert list(reader) == sample(100)


def test_other_files(tmp_path: Path) -> None:
    """A missing file, a folder, a text file and a later version each get their own sentence."""
    with pytest.raises(RecordingError, match="No such file"):
        RecordingReader(tmp_path / "none.stream")
    with pytest.raises(RecordingError, match="Is a directory"):
        RecordingReader(tmp_path)
    text = tmp_path / "a.txt"
    text.write_text("user_id,item_id\n")
    with pytest.raises(NotARecordingError, match="is not a recording"):
        RecordingReader(text)
    later = tmp_path / "later.stream"
    write(later, [])
    data = bytearray(later.read_bytes())
    data[len(MAGIC)] = 9
    later.write_bytes(data)
    with pytest.raises(NotARecordingError, match="version 9"):
        RecordingReader(later)
