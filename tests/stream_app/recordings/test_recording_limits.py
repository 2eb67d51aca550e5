"""Recordings that were made to use too much memory, and passwords in addresses in a log."""

import struct
from pathlib import Path

import pytest
import zstandard

from stream_app.ops.logging import redact
from stream_app.recordings import file_format as layout
from stream_app.recordings.errors import RecordingError
from stream_app.recordings.recording import RecordingReader, RecordingWriter


@pytest.mark.parametrize("partitions", [2**40, 2**31 - 1, -1])
def test_a_head_names_partitions_that_can_be(tmp_path: Path, partitions: int) -> None:
    """An impossible number of partitions gives one sentence when the file is opened."""
    path = tmp_path / "a.stream"
    path.write_bytes(layout.head({"clicks": partitions}, {}))
    with pytest.raises(RecordingError, match=f"{partitions} partitions of topic 'clicks'"):
        RecordingReader(path)


@pytest.mark.parametrize("said", [1, 3_000_000])
def test_a_small_block_does_not_become_millions_of_records(tmp_path: Path, said: int) -> None:
    """Three million records in some kB are refused before any is decoded, whatever the block's head says."""
    path = tmp_path / "a.stream"
    with RecordingWriter(path, {"clicks": 1}):
        pass
    row = b"\x97\xa6clicks\x00\x00\x00\xc0\xc0\x90"
    body = zstandard.ZstdCompressor(level=19).compress(
        b"\xdd" + struct.pack(">I", 3_000_000) + row * 3_000_000
    )
    assert len(body) < 20_000
    path.write_bytes(layout.head({"clicks": 1}, {}) + layout.block(layout.BLK, body, said))
    with pytest.raises(RecordingError, match="not of this format"):
        list(RecordingReader(path))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://u:p@ss@h/", "http://u:***@h/"),
        ("kafka://u:p/w@h", "kafka://u:***@h"),
        ("see http://host:80/path", "see http://host:80/path"),
    ],
)
def test_a_password_in_an_address_is_masked_whole(text: str, shown: str) -> None:
    """A password is masked even if it contains an @ or a slash."""
    assert redact(None, "info", {"event": text}) == {"event": shown}
