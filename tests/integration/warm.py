"""What a forked worker finds done: modules loaded, code compiled. Only the process that forks imports this."""

import contextlib
import gc
import importlib
import io

from stream_app.cli import main
from stream_app.settings import load_settings
from stream_app.worker.warm_up import warm_up

#: What only a worker that starts would load.
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
    main(["worker", "--help"])  # the command's options, which take half a second
warm_up(load_settings(env={}, options={}), None)
gc.collect()
gc.freeze()  # so that a worker's own collection at its start has little to look through
