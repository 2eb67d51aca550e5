"""Health: each problem alone makes a worker not ready, and only a standstill makes it not live."""

from collections.abc import Callable

import pytest

from stream_app.ops.health import Health


class Clock:
    """Both clocks of a Health, moved by hand."""

    def __init__(self) -> None:
        self.s = 1000.0

    def monotonic(self) -> float:
        return self.s

    def wall_ms(self) -> float:
        return 1_700_000_000_000.0 + self.s * 1000.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    """A healthy worker."""
    health = Health(30_000, monotonic=clock.monotonic, wall_ms=clock.wall_ms)
    health.set_assigned(4)
    health.set_recovered()
    health.set_model(None)
    health.set_oldest(None)
    return health


def failing(health: Health) -> set[str]:
    ok, checks = health.ready()
    bad = {name for name, detail in checks.items() if not detail.startswith("ok")}
    assert ok == (not bad)
    return bad


def test_a_new_worker_is_live_but_not_ready() -> None:
    """Without any report a worker is live, and not ready for three reasons."""
    health = Health(30_000)
    assert health.live()[0]
    assert failing(health) == {"assigned", "recovered", "model"}


def test_all_facts_together_are_ready(health: Health) -> None:
    """A worker with partitions, recovered, warm and without old records is ready."""
    assert failing(health) == set()


@pytest.mark.parametrize(
    ("spoil", "check"),
    [
        (lambda health, clock: health.set_recovering(10, 2000), "recovered"),
        (lambda health, clock: health.set_model("damaged folder"), "model"),
        (lambda health, clock: health.set_oldest(clock.wall_ms() - 30_001), "age"),
    ],
)
def test_each_fact_alone_makes_it_unready(
    health: Health, clock: Clock, spoil: Callable[[Health, Clock], None], check: str
) -> None:
    """One problem is enough, and it is named."""
    spoil(health, clock)
    assert failing(health) == {check}


def test_details_are_for_a_person(health: Health, clock: Clock) -> None:
    """The answer has the progress of recovery and the age of the oldest record."""
    health.set_recovering(10, 2000)
    health.set_oldest(clock.wall_ms() - 45_000)
    checks = health.ready()[1]
    assert checks["recovered"] == "reading state back: 10 of 2,000 records"
    assert checks["age"] == "the oldest unprocessed record is 45,000 ms old, limit 30,000 ms"


def test_a_new_assignment_asks_for_recovery_again(health: Health) -> None:
    """After a rebalance the state of the old partitions proves nothing."""
    health.set_assigned(None)
    assert failing(health) == {"assigned", "recovered"}
    health.set_assigned(2)
    assert failing(health) == {"recovered"}
    health.set_recovered()
    assert failing(health) == set()


def test_a_worker_without_partitions_is_not_ready(health: Health) -> None:
    """With more workers than partitions, the spare one reports why it does nothing."""
    health.set_assigned(0)
    assert "more workers than partitions" in health.ready()[1]["assigned"]


def test_the_oldest_record_ages_by_the_clock(health: Health, clock: Clock) -> None:
    """A worker that stops reporting becomes unready by itself, and recovers when the record is done."""
    health.set_oldest(clock.wall_ms())
    clock.s += 30.0
    assert failing(health) == set()
    clock.s += 0.1
    assert failing(health) == {"age"}
    health.set_oldest(None)
    assert failing(health) == set()


def test_a_record_from_the_future_is_young(health: Health, clock: Clock) -> None:
    """A broker's clock ahead of ours gives no age."""
    health.set_oldest(clock.wall_ms() + 5000)
    assert health.ready()[1]["age"] == "ok, 0 ms"


def test_one_failed_commit_is_forgiven_a_row_is_not(health: Health, clock: Clock) -> None:
    """The first failure in a row counts from its own time; a success clears it."""
    health.commit_failed("rebalance")
    assert failing(health) == set()
    clock.s += 3.0
    health.commit_failed("no coordinator")
    clock.s += 3.0
    assert failing(health) == {"commits"}
    assert "failing for 6 s: no coordinator" in health.ready()[1]["commits"]
    health.commit_succeeded()
    assert failing(health) == set()


def test_a_commit_that_hangs_is_no_better_than_one_that_fails(health: Health, clock: Clock) -> None:
    """A broker that does not answer causes no error for a long time; the probe reports it after the grace period."""
    with health.waiting_for_broker():
        clock.s += 5.0
        assert failing(health) == set()
        clock.s += 7.0
        assert failing(health) == {"commits"}
        assert "waiting for the broker for 12 s" in health.ready()[1]["commits"]
        assert health.live()[0]
    assert failing(health) == set()
    with pytest.raises(OSError), health.waiting_for_broker():
        raise OSError
    clock.s += 60.0
    assert failing(health) == set()


def test_model_trouble_is_told_and_ends(health: Health) -> None:
    """While the model fails, readiness gives the reason; liveness stays good, since a restart would not help."""
    health.set_model("OutOfMemoryError: CUDA out of memory")
    assert failing(health) == {"model"}
    assert health.ready()[1]["model"] == "OutOfMemoryError: CUDA out of memory"
    assert health.live()[0]
    health.set_model(None)
    assert failing(health) == set()


@pytest.mark.parametrize("part", [Health.LOOP, Health.PROCESSING])
def test_only_a_part_stuck_in_its_work_is_dead(health: Health, clock: Clock, part: str) -> None:
    """No progress during work is a standstill; no progress without work is not."""
    health.beat(part)
    clock.s += 60.0
    assert health.live()[0]
    clock.s += 0.1
    ok, checks = health.live()
    assert not ok
    assert checks[part] == "silent for 60 s, limit 60 s"
    health.rest(part)
    clock.s += 3600.0
    assert health.live()[0]


def test_trouble_outside_is_no_reason_to_restart(health: Health, clock: Clock) -> None:
    """Without partitions or broker, or with a long backlog, a worker is not ready but live."""
    health.set_assigned(None)
    health.set_oldest(0.0)
    health.commit_failed("broker gone")
    clock.s += 600.0
    assert not health.ready()[0]
    assert health.live()[0]


def test_a_group_that_refuses(health: Health) -> None:
    """Readiness reports the group's refusal during retries; liveness fails when the retries have ended."""
    health.set_group_trouble("group shop is full")
    assert not health.ready()[0]
    assert health.ready()[1]["assigned"] == "group shop is full (tried again)"
    assert health.live()[0]
    health.set_group_trouble(None)
    assert health.ready()[0]
    health.end_group("another worker runs as instance a")
    assert health.ready()[1]["assigned"] == "another worker runs as instance a"
    ok, checks = health.live()
    assert not ok
    assert checks["group"] == "membership has ended: another worker runs as instance a"


def test_an_open_transaction(health: Health) -> None:
    """Records that wait for a foreign transaction are reported immediately, and make it unready after some time."""
    health.set_behind_open_transaction("clicks-0", 1200, 29.0)
    assert health.ready()[0]
    assert "holds back 1,200 records of clicks-0, 29 s" in health.ready()[1]["transactions"]
    health.set_behind_open_transaction("clicks-0", 1200, 31.0)
    assert failing(health) == {"transactions"}
    health.set_behind_open_transaction()
    assert failing(health) == set()
