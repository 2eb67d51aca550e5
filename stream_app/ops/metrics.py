"""Prometheus metrics of one worker, cheap enough to be updated once per micro-batch.

Each instance has its own registry, so two workers in one process, or two tests, share no values.
"""

import threading
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from stream_app.contract.records import EVENT_TYPES
from stream_app.ops.bad_records import BadRecordLog

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

disable_created_metrics()  # extra lines per counter with a start time, which another metric shows already

STAGES = ("decode", "state", "model", "encode", "publish", "commit")
BATCH_BUCKETS = tuple(float(2**power) for power in range(17))  # 1 to 65,536 events
#: Bucket bounds within a decade. Each is at most 1.5 times the previous one, so a quantile is off by at most a third.
_STEPS = ("1", "1.5", "2", "3", "4", "6", "8")


def _decades(first: int, last: int) -> tuple[float, ...]:
    return tuple(float(f"{step}e{power}") for power in range(first, last + 1) for step in _STEPS)


STAGE_BUCKETS = _decades(-5, 0)  # s: 10 us to 8 s
LATENCY_BUCKETS = (*_decades(-3, 0), 10.0, 15.0, 20.0, 30.0, 40.0, 60.0)  # s: 1 ms to 60 s

Values = npt.ArrayLike


class Histogram(Collector):
    """A histogram that takes whole arrays: one call sorts any number of values into the buckets."""

    def __init__(
        self,
        name: str,
        doc: str,
        buckets: Sequence[float],
        *,
        label: str = "",
        label_values: Sequence[str] = ("",),
        registry: CollectorRegistry | None = None,
    ) -> None:
        """`buckets` are upper bounds, inclusive as in Prometheus, in ascending order, without infinity."""
        self.name, self.doc, self.label = name, doc, label
        self._bounds = np.asarray(buckets, np.float64)
        self._rows = {value: row for row, value in enumerate(label_values)}
        self._counts = np.zeros((len(label_values), len(buckets) + 1), np.int64)
        self._sums = np.zeros(len(label_values), np.float64)
        self._lock = threading.Lock()  # the model's thread observes while the web server reads
        if registry is not None:
            registry.register(self)

    def observe(self, values: Values, label_value: str = "") -> None:
        """Counts one value or an array of values; ignores NaN."""
        column = np.atleast_1d(np.asarray(values, np.float64)).ravel()
        column = column[~np.isnan(column)]
        places = np.searchsorted(self._bounds, column, side="left")
        counts = np.bincount(places, minlength=len(self._bounds) + 1)
        row = self._rows[label_value]
        with self._lock:
            self._counts[row] += counts
            self._sums[row] += column.sum()

    def quantile(self, q: float, label_value: str = "") -> float:
        """The quantile `q` of the observations, interpolated within a bucket; NaN without observations.

        Values above the last bound count as the last bound, as in Prometheus' histogram_quantile.
        """
        with self._lock:
            cumulative = self._counts[self._rows[label_value]].cumsum()
        total = int(cumulative[-1])
        if total == 0:
            return float("nan")
        rank = q * total
        bucket = int(np.searchsorted(cumulative, rank, side="left"))
        if bucket >= len(self._bounds):
            return float(self._bounds[-1])
        below = int(cumulative[bucket - 1]) if bucket else 0
        low = float(self._bounds[bucket - 1]) if bucket else 0.0
        inside = int(cumulative[bucket]) - below
        return low + (float(self._bounds[bucket]) - low) * ((rank - below) / inside if inside else 0.0)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """The histogram as the registry needs it for each scrape."""
        family = HistogramMetricFamily(self.name, self.doc, labels=[self.label] if self.label else [])
        with self._lock:
            counts, sums = self._counts.cumsum(axis=1), self._sums.copy()
        bounds = [*(f"{bound:.6g}" for bound in self._bounds), "+Inf"]
        for value, row in self._rows.items():
            pairs = [(bound, float(count)) for bound, count in zip(bounds, counts[row], strict=True)]
            family.add_metric([value] if self.label else [], buckets=pairs, sum_value=float(sums[row]))
        yield family


class Metrics:
    """All metrics of one worker; the attributes are the series that `/metrics` shows."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, CPU and open files of the process
        self.bad_records = BadRecordLog()  # logs details that the dead-letter counter lacks

        def counter(name: str, doc: str, *labels: str) -> Counter:
            return Counter(f"foreclick_{name}", doc, labels, registry=registry)

        def gauge(name: str, doc: str, *labels: str) -> Gauge:
            return Gauge(f"foreclick_{name}", doc, labels, registry=registry)

        self.events = counter("events", "Valid events applied to the state.", "type")
        self.outputs = counter("outputs", "Records acknowledged by the broker.", "topic")
        self.dead_letters = counter(
            "dead_letters", "Invalid records written to the dead-letter topic.", "reason"
        )
        self.cut_outputs = counter(
            "cut_outputs", "Dead letters and predictions shortened to the size limit of their topic.", "topic"
        )
        self.duplicates = counter(
            "duplicates", "Events dropped: one of the user's last 20 has the same event_id, type and item."
        )
        self.late = counter("late_events", "Events more than lateness_ms behind their user's newest event.")
        self.out_of_order = counter(
            "out_of_order_events", "Events that arrived after the merge had passed their time."
        )
        self.degraded = counter(
            "degraded_events", "Events answered without the model (circuit breaker open)."
        )
        self.hidden_resets = counter(
            "hidden_resets", "Hidden states reset because they contained NaN or infinity."
        )
        self.model_failures = counter("model_failures", "Model steps and probes that failed.")
        self.model_trouble = gauge("model_trouble", "1 while the circuit breaker of the model is open.")
        self.model_older = gauge(
            "model_older_than_state", "1 while the model is older than the model that wrote the state."
        )
        self.standby = gauge("standby_partitions", "Partitions of other workers with a standby here.")
        self.commits = counter("commits", "Offset commits.", "result")
        self.evictions = counter("evictions", "Users removed from memory.", "reason")
        self.rebalances = counter("rebalances", "Rebalances of the consumer group.")
        self.recovered_records = counter("recovered_records", "State records read back.")
        self.damaged_state = counter(
            "damaged_state", "State records skipped because they are damaged (skip_damaged_state)."
        )
        self.recovery_seconds = counter("recovery_seconds", "Time spent reading state back.")
        self.lag = gauge(
            "consumer_lag_records", "Records of the input not yet processed.", "topic", "partition"
        )
        self.behind_open_transaction = gauge(
            "behind_open_transaction_records",
            "Records that cannot be read yet, because a transaction of another producer is open.",
            "topic",
            "partition",
        )
        self.watermark_delay = gauge(
            "watermark_delay_seconds", "How far the watermark is behind the clock.", "partition"
        )
        self.resident_users = gauge("resident_users", "Users held in memory.")
        self.split_users = counter(
            "split_users", "Users found in a second partition, because producers use different partitioners."
        )
        self.ready = gauge("ready", "1 while the worker is ready.")
        self.model = Info("foreclick_model", "The model in use.", registry=registry)
        self.model_created = Gauge(
            "foreclick_model_created_timestamp_seconds",
            "When the model in use was exported, 0 if unknown; it falls when an older one is loaded.",
            registry=registry,
        )
        self.batch_size = Histogram(
            "foreclick_batch_events", "Events in a micro-batch.", BATCH_BUCKETS, registry=registry
        )
        self.stage_seconds = Histogram(
            "foreclick_stage_seconds",
            "Time of one stage of a micro-batch.",
            STAGE_BUCKETS,
            label="stage",
            label_values=STAGES,
            registry=registry,
        )
        self.latency = Histogram(
            "foreclick_latency_seconds",
            "Time from the broker's append of an event to the acknowledgement of its prediction.",
            LATENCY_BUCKETS,
            registry=registry,
        )
        for event_type in EVENT_TYPES:  # Prometheus needs a series that begins at zero for its rate
            self.events.labels(event_type)
        for result in ("ok", "failed"):
            self.commits.labels(result)
        for reason in ("age", "count"):
            self.evictions.labels(reason)

    def count_events(self, event_types: npt.NDArray[np.integer]) -> None:
        """Counts a micro-batch: its size, and its events by type, (n,) indices into `records.EVENT_TYPES`."""
        if len(event_types) == 0:
            return
        for event_type, count in enumerate(np.bincount(event_types, minlength=len(EVENT_TYPES)).tolist()):
            if count:
                self.events.labels(EVENT_TYPES[event_type]).inc(count)
        self.batch_size.observe(len(event_types))

    def observe_latency(self, append_ms: npt.NDArray[np.int64], acked_ms: float) -> None:
        """Counts the latency of a micro-batch: from `append_ms`, (n,) broker times, to `acked_ms`; Unix ms.

        A negative latency, which occurs if the two clocks differ, counts as zero.
        """
        self.latency.observe(np.maximum((acked_ms - np.asarray(append_ms)) / 1000.0, 0.0))

    def set_model(self, name: str, version: str, device: str, created_ms: int = 0) -> None:
        """Sets the model that answers from now on; `created_ms` is the Unix time of its export, 0 if unknown."""
        self.model_created.set(created_ms / 1000)
        self.model.info({"name": name, "version": version, "device": device})

    def forget_partition(self, topics: Sequence[str], partition: int) -> None:
        """Removes the gauges of a partition that another worker has now, which reports them."""
        self.watermark_delay.remove_by_labels({"partition": str(partition)})
        for topic in topics:
            self.lag.remove_by_labels({"topic": topic, "partition": str(partition)})
            self.behind_open_transaction.remove_by_labels({"topic": topic, "partition": str(partition)})

    def render(self) -> bytes:
        """The answer to a scrape, in Prometheus' text format (`CONTENT_TYPE`)."""
        return generate_latest(self.registry)
