"""What can be wrong with a recording, each as one sentence that says what to do."""

from pathlib import Path

from stream_app.errors import ForeclickError


class RecordingError(ForeclickError):
    """A recorded stream cannot be read or written."""


class PaceError(ForeclickError):
    """The pace that was asked for cannot be."""


class TargetError(ForeclickError):
    """The output's path holds something that must stay."""


class ImportFailed(ForeclickError):  # noqa: N818 - reads as what happened
    """The files cannot be read, or are not of the format that was named."""


class ReplayError(ForeclickError):
    """A recording that the processor cannot be fed from."""


class NotARecordingError(RecordingError):
    """The file is something else, or of a version that this program does not know."""


class BrokenRecordingError(RecordingError):
    """A recording ends early or holds changed bytes; `records` whole records come before that place."""

    def __init__(self, path: Path, what: str, records: int) -> None:
        super().__init__(f"{path} {what}: {records} records before that place are good")
        self.path = path
        self.what = what
        self.records = records


class TruncatedRecording(BrokenRecordingError):  # noqa: N818 - the name says what the file is
    """The file stops before its end mark: cut off, or still being written."""


class DamagedRecording(BrokenRecordingError):  # noqa: N818 - the name says what the file is
    """A checksum does not fit: the bytes are not those that were written."""
