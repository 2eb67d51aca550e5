"""Converts public data sets to recordings: one small module per format, which turns lines or tables into our events.

`lines` reads files and counts bad lines; `assemble` sorts by time, assigns partitions and writes. An importer invents
nothing: a field that the data set does not have is left out.
"""

from stream_app.recordings.errors import ImportFailed
from stream_app.recordings.importers.assemble import (
    FORMATS,
    PACKAGES,
    ImportStats,
    check_source,
    import_files,
)
from stream_app.recordings.importers.shop import SHOP_FORMATS, ShopRows

__all__ = [
    "FORMATS",
    "PACKAGES",
    "SHOP_FORMATS",
    "ImportFailed",
    "ImportStats",
    "ShopRows",
    "check_source",
    "import_files",
]
