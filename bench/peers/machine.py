"""What a figure depends on besides the system: the machine, its speed at the moment, all versions."""

import os
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from bench.peers import environments, java
from stream_app.lab.broker.installation import KAFKA_VERSION

CALIBRATION_LOOPS = 3_000_000
#: The packages of each environment that the report names.
NAMED = {
    "faust": ("faust-streaming", "uvloop"),
    "quix": ("quixstreams",),
    "bytewax": ("bytewax",),
    "pathway": ("pathway",),
    "loops": ("aiokafka", "confluent-kafka", "orjson"),
}


def calibration_ms() -> float:
    """Return how long a fixed loop takes at the moment: the speed of a shared machine varies."""
    start = time.perf_counter()
    for _ in range(CALIBRATION_LOOPS):
        pass
    return round((time.perf_counter() - start) * 1000, 1)


def busy_s() -> float:
    """Return the CPU seconds that the whole machine has worked since its start."""
    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice + times.irq + times.softirq)


def description() -> dict[str, str | int]:
    """Return date and hardware, without anything that identifies the machine."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": platform.system(),
    }


def versions(with_java: bool) -> dict[str, str]:
    """Return the versions of all software involved."""
    found = {
        "Python": platform.python_version(),
        "Apache Kafka (broker)": KAFKA_VERSION,
        "foreclick": version("foreclick"),
    }
    for environment, names in NAMED.items():
        pins = environments.pinned(environment)
        found |= {name: pins[name] for name in names}
    found |= {
        "kafka-streams": java.KAFKA_STREAMS,
        "flink": java.FLINK,
        "flink-connector-kafka": java.FLINK_KAFKA,
    }
    if with_java:
        found["Java"] = java.java_version()
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
