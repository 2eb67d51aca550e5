"""Metrics: arrays are counted like their values one by one, and Prometheus can read our text."""

import threading
from bisect import bisect_left

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from stream_app.ops.metrics import LATENCY_BUCKETS, Histogram, Metrics

BOUNDS = (0.001, 0.01, 0.1, 1.0)


def scraped(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample of a scrape by name and labels, read by Prometheus' own parser."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_no_counter_says_when_it_was_made() -> None:
    """A scrape has no `_created` lines; `process_start_time_seconds` gives the start of all counters."""
    assert [name for name, _ in scraped(Metrics()) if name.endswith("_created")] == []


@given(st.lists(st.floats(0, 10) | st.sampled_from(BOUNDS) | st.just(float("nan")), max_size=200))
def test_an_array_counts_as_its_values_one_by_one(values: list[float]) -> None:
    """Bulk buckets equal a plain loop with inclusive upper bounds; NaN is not an observation."""
    bulk, single = Histogram("h", "doc", BOUNDS), Histogram("h", "doc", BOUNDS)
    bulk.observe(np.array(values))
    expected = [0] * (len(BOUNDS) + 1)
    for value in values:
        single.observe(value)
        if value == value:
            expected[bisect_left(BOUNDS, value)] += 1
    (family,) = bulk.collect()
    counts = [sample.value for sample in family.samples if sample.name == "h_bucket"]
    assert counts == np.cumsum(expected).tolist()
    (other,) = single.collect()
    assert [sample.value for sample in other.samples[:-1]] == [sample.value for sample in family.samples[:-1]]
    assert family.samples[-1].value == pytest.approx(np.nansum(values))


@given(st.lists(st.floats(0.001, 60), min_size=1, max_size=300), st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], q: float) -> None:
    """The estimate is in the bucket that contains the value of that rank."""
    histogram = Histogram("h", "doc", LATENCY_BUCKETS)
    histogram.observe(np.array(values))
    true = sorted(values)[max(int(np.ceil(q * len(values) - 1e-9)) - 1, 0)]
    bucket = bisect_left(LATENCY_BUCKETS, true)
    low = LATENCY_BUCKETS[bucket - 1] if bucket else 0.0
    assert low - 1e-9 <= histogram.quantile(q) <= LATENCY_BUCKETS[bucket] + 1e-9


def test_quantile_at_the_edges() -> None:
    """Without observations there is no quantile; beyond the last bound it is the last bound."""
    histogram = Histogram("h", "doc", BOUNDS)
    assert np.isnan(histogram.quantile(0.5))
    histogram.observe([100.0])
    assert histogram.quantile(0.5) == 1.0


def test_latency_buckets_are_fine_from_1_ms_to_60_s() -> None:
    """Neighbouring bounds differ by at most a half, from 1 ms to 60 s."""
    bounds = np.array(LATENCY_BUCKETS)
    assert (bounds[0], bounds[-1]) == (0.001, 60.0)
    assert (bounds[1:] / bounds[:-1]).max() <= 1.5 + 1e-9
    assert (np.diff(bounds) > 0).all()


def test_a_scrape_shows_what_was_counted() -> None:
    """Every promised metric is in the text that Prometheus' parser reads, with its value."""
    metrics = Metrics()
    metrics.count_events(np.array([0, 0, 1, 2, 0], np.int8))
    metrics.outputs.labels("predictions").inc(5)
    metrics.dead_letters.labels("bad_json").inc(2)
    metrics.duplicates.inc()
    metrics.late.inc(3)
    metrics.out_of_order.inc(4)
    metrics.commits.labels("ok").inc()
    metrics.lag.labels("clicks", "0").set(17)
    metrics.watermark_delay.labels("0").set(1.5)
    metrics.resident_users.set(9)
    metrics.recovery_seconds.inc(2.5)
    metrics.recovered_records.inc(100)
    metrics.evictions.labels("age").inc(6)
    metrics.rebalances.inc()
    metrics.ready.set(1)
    metrics.set_model("gru", "3", "cpu")
    metrics.observe_latency(np.array([1000, 1990]), 2000.0)
    metrics.stage_seconds.observe(0.001, "decode")
    found = scraped(metrics)
    expected = {
        ("foreclick_events_total", (("type", "click"),)): 3,
        ("foreclick_events_total", (("type", "browse"),)): 1,
        ("foreclick_events_total", (("type", "purchase"),)): 1,
        ("foreclick_outputs_total", (("topic", "predictions"),)): 5,
        ("foreclick_dead_letters_total", (("reason", "bad_json"),)): 2,
        ("foreclick_duplicates_total", ()): 1,
        ("foreclick_late_events_total", ()): 3,
        ("foreclick_out_of_order_events_total", ()): 4,
        ("foreclick_commits_total", (("result", "ok"),)): 1,
        ("foreclick_commits_total", (("result", "failed"),)): 0,
        ("foreclick_consumer_lag_records", (("partition", "0"), ("topic", "clicks"))): 17,
        ("foreclick_watermark_delay_seconds", (("partition", "0"),)): 1.5,
        ("foreclick_resident_users", ()): 9,
        ("foreclick_recovery_seconds_total", ()): 2.5,
        ("foreclick_recovered_records_total", ()): 100,
        ("foreclick_evictions_total", (("reason", "age"),)): 6,
        ("foreclick_rebalances_total", ()): 1,
        ("foreclick_ready", ()): 1,
        ("foreclick_model_info", (("device", "cpu"), ("name", "gru"), ("version", "3"))): 1,
        ("foreclick_batch_events_count", ()): 1,
        ("foreclick_batch_events_sum", ()): 5,
        ("foreclick_latency_seconds_bucket", (("le", "0.01"),)): 1,
        ("foreclick_latency_seconds_bucket", (("le", "1"),)): 2,
        ("foreclick_latency_seconds_count", ()): 2,
        ("foreclick_stage_seconds_count", (("stage", "decode"),)): 1,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert found[("process_resident_memory_bytes", ())] > 0


def test_clocks_that_differ_give_no_negative_latency() -> None:
    """A broker whose clock is ahead gives a latency of zero."""
    metrics = Metrics()
    metrics.observe_latency(np.array([5000]), 2000.0)
    assert scraped(metrics)[("foreclick_latency_seconds_sum", ())] == 0.0


def test_an_empty_batch_is_no_batch() -> None:
    """An empty read does not count as a micro-batch of size zero."""
    metrics = Metrics()
    metrics.count_events(np.array([], np.int8))
    assert scraped(metrics)[("foreclick_batch_events_count", ())] == 0


def test_a_partition_that_left_is_no_longer_reported() -> None:
    """After a rebalance only the new owner reports lag and watermark; forgetting twice is harmless."""
    metrics = Metrics()
    metrics.lag.labels("clicks", "1").set(5)
    metrics.lag.labels("clicks", "2").set(6)
    metrics.watermark_delay.labels("1").set(2)
    for _ in range(2):
        metrics.forget_partition(["clicks", "browses"], 1)
    lags = [key for key in scraped(metrics) if key[0] == "foreclick_consumer_lag_records"]
    assert lags == [("foreclick_consumer_lag_records", (("partition", "2"), ("topic", "clicks")))]


def test_two_workers_in_a_process_share_nothing() -> None:
    """Each `Metrics` has its own registry."""
    one, two = Metrics(), Metrics()
    one.duplicates.inc()
    assert scraped(two)[("foreclick_duplicates_total", ())] == 0


def test_threads_lose_no_observation() -> None:
    """Two threads that observe while a third scrapes are all counted."""
    metrics = Metrics()

    def observe() -> None:
        for _ in range(500):
            metrics.latency.observe(np.ones(10))

    threads = [threading.Thread(target=observe) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        metrics.render()
    for thread in threads:
        thread.join(10)
    assert scraped(metrics)[("foreclick_latency_seconds_count", ())] == 10_000
