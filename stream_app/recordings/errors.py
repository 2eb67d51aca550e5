"""Errors of recordings; the text of each is one sentence that says what to do."""

from pathlib import Path

from stream_app.errors import ForeclickError


class RecordingError(ForeclickError):
    """A recording cannot be read or written."""


class PaceError(ForeclickError):
    """The requested pace of a replay is impossible."""


class TargetError(ForeclickError):
    """The path of an output has a file that must not be replaced."""


class ImportFailed(ForeclickError):  # noqa: N818 - reads as what happened
    """The files cannot be read, or are not in the given format."""


class RecordingMismatchError(ForeclickError):
    """A recording lacks something that the processor needs."""


class NotARecordingError(RecordingError):
    """The file is not a recording, or its version is unknown to this program."""


class BrokenRecordingError(RecordingError):
    """A recording ends early or has changed bytes; `records` complete records precede the damage."""

    def __init__(self, path: Path, what: str, records: int) -> None:
        super().__init__(f"{path} {what}: {records} records before that place are good")
        self.path = path
        self.what = what
        self.records = records


class TruncatedRecording(BrokenRecordingError):  # noqa: N818 - the name says what the file is
    """The file has no end mark: it is truncated, or still being written."""


class DamagedRecording(BrokenRecordingError):  # noqa: N818 - the name says what the file is
    """A checksum does not match: the bytes were changed after they were written."""
