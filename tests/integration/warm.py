"""Loads modules and compiles code before workers are forked. Only the forking process imports this."""

import contextlib
import gc
import importlib
import io

from stream_app.cli import main
from stream_app.settings import load_settings
from stream_app.worker.warm_up import warm_up

#: Modules that otherwise only a starting worker loads.
for name in (
    "faust.app.router",
    "faust.assignor.partition_assignor",
    "faust.fixups.django",
    "faust.tables.objects",
    "faust.tables.sets",
    "faust.topics",
    "faust.web.apps.production_index",
    "faust.web.cache.backends.memory",
    "faust.web.drivers.aiohttp",
    "faust.worker",
    "stream_app.worker.transport",
):
    importlib.import_module(name)
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(["worker", "--help"])  # building the command's options takes half a second
warm_up(load_settings(env={}, options={}), None)
gc.collect()
gc.freeze()  # so that the collection at a worker's start has little to scan
