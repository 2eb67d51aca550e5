"""Rules for which files an output may replace: only an earlier output that can be made again, never an input."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from stream_app.recordings.errors import RecordingError, TargetError
from stream_app.recordings.recording import RecordingReader


def path_text(path: Path) -> str:
    """The path as text that UTF-8 can hold, whatever bytes the name has."""
    return os.fsencode(path).decode("utf-8", "replace")


def check_recording(
    out: Path, inputs: Iterable[Path] = (), *, force: bool = False, made_by: str | None = None
) -> None:
    """Check that a recording may be written to `out`. Raises TargetError otherwise.

    An existing file may be replaced if it is empty, if `force` is set, or if it is a recording that the same command
    makes again (`made_by`). An input, or anything but a plain file, is never replaced.
    """
    check_inputs(out, inputs)
    if not _is_filled(out) or force:
        return
    try:
        found = RecordingReader(out, strict=False).metadata.get("made_by")
    except RecordingError:
        raise TargetError(
            f"{out} exists and is not a recording: choose another path, or replace it with --force"
        ) from None
    if made_by is None or found != made_by:
        raise TargetError(f"{out} is a recording already: choose another path, or replace it with --force")


def check_outputs(outs: Iterable[Path], inputs: Iterable[Path], *, force: bool = False) -> None:
    """Check that the files of an output may be written: none exists, all exist (an earlier output), or `force`.

    Raises TargetError otherwise.
    """
    outs, inputs = list(outs), list(inputs)
    for out in outs:
        check_inputs(out, inputs)
    filled = [out for out in outs if _is_filled(out)]
    if filled and not force and not all(out.exists() for out in outs):
        raise TargetError(
            f"{filled[0]} exists and is not of an earlier run: choose another folder, or replace it with --force"
        )


def check_page(out: Path, inputs: Iterable[Path], beginning: str, *, force: bool = False) -> None:
    """Check that a page may be written: there is no file, one of ours that begins like this, or `force`.

    Raises TargetError otherwise.
    """
    check_inputs(out, inputs)
    if not _is_filled(out) or force:
        return
    with out.open("rb") as file:
        if file.read(len(beginning.encode())) != beginning.encode():
            raise TargetError(
                f"{out} exists and is not a report: choose another path, or replace it with --force"
            )


def check_inputs(out: Path, inputs: Iterable[Path]) -> None:
    """Raise TargetError if `out` is one of the inputs (under any name) or not a plain file."""
    try:
        found = out.stat()
    except OSError:
        return  # nothing to replace; other problems appear when the file is written
    if not stat.S_ISREG(found.st_mode):
        raise TargetError(f"{out} is not a plain file: choose another path")
    for each in inputs:
        if each.exists() and each.samefile(out):
            raise TargetError(f"{out} is read and would be written over: choose another path")


def _is_filled(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
