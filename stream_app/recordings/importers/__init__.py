"""Public data sets to recordings: one small module a format, which turns lines into events of the contract.

`lines` reads and counts what is bad, `assemble` sorts by time, partitions and writes. An importer invents
nothing: a field that the data set lacks stays away.
"""

from stream_app.recordings.errors import ImportFailed
from stream_app.recordings.importers.assemble import FORMATS, ImportStats, import_files

__all__ = ["FORMATS", "ImportFailed", "ImportStats", "import_files"]
