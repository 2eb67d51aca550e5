"""The faults, each a function that causes it and returns whether work was in flight at that moment."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from tests.faults.cluster import SESSION_S, Cluster, Slot
from tests.faults.proxy import Trap
from tests.faults.steps import Step
from tests.integration.harness import wait_for

STRIKE_LIMIT_S = 90.0
BROKER_LIMIT_S = 60.0
#: Seconds of a black hole shorter than a session, so that workers keep their partitions.
SHORT_HOLE_S = (0.5, 0.6 * SESSION_S)
#: Seconds of one longer than a session: the group gives the worker's partitions to others meanwhile.
LONG_HOLE_S = (SESSION_S + 1.0, SESSION_S + 4.0)


#: Number of events to wait for before the workers come back, if they should have much to do.
PILE = 12_000
PILE_LIMIT_S = 30.0


class MissedError(Exception):
    """No worker reached the step at which the fault should strike."""


@dataclass
class Hands:
    """What a fault needs."""

    cluster: Cluster
    rng: random.Random
    keep: Callable[[], None]  #: replaces ended workers while a fault waits for something
    open: Callable[[], int]  #: number of events sent and not answered


Fault = Callable[[Hands], bool]


def kill_at(step: Step) -> Fault:
    """SIGKILL of a worker at a step of its commit."""

    def fault(hands: Hands) -> bool:
        wait_s = 0.0
        if step is Step.UNANSWERED:
            wait_s = hands.rng.uniform(0.2, 1.0)
        elif step is Step.ANSWERED:
            wait_s = hands.rng.uniform(0.0, 0.03)
        _at(hands, step, signal.SIGKILL, wait_s, cut=True)
        return True

    fault.__name__ = f"kill {step.value}"
    return fault


def kill_within_changelog(hands: Hands) -> bool:
    """All workers die; those that replace them have so much to do that their first state fills several requests.

    One of them dies between two of these requests. This needs many users: otherwise one request holds all.
    """
    _busy(hands)
    for slot in hands.cluster.alive():
        slot.signal(signal.SIGKILL)
    try:
        wait_for("events to pile up", lambda: hands.open() > PILE, PILE_LIMIT_S)
    except AssertionError as error:
        raise MissedError(str(error)) from error
    hands.keep()
    traps = []
    for slot in hands.cluster.alive():
        traps.append(Trap(Step.WITHIN, lambda slot=slot: slot.signal(signal.SIGKILL)))
        slot.gate.arm(traps[-1])
    try:
        wait_for("a kill within the changelog", lambda: any(t.sprung.is_set() for t in traps), PILE_LIMIT_S)
    except AssertionError as error:
        raise MissedError(str(error)) from error
    finally:
        for slot in hands.cluster.slots:
            slot.gate.disarm()
    return True


def freeze_at(step: Step) -> Fault:
    """SIGSTOP of a worker at a step of its commit; it continues when others have its partitions."""

    def fault(hands: Hands) -> bool:
        slot = _at(hands, step, signal.SIGSTOP, 0.0, cut=False)
        _sleep_and_wake(hands, slot)
        return True

    fault.__name__ = f"freeze {step.value}"
    return fault


def hole_at(step: Step) -> Fault:
    """A long black hole that begins with a request of a commit, which arrives when others have the partitions."""

    def fault(hands: Hands) -> bool:
        slot = _trap(hands, step, lambda slot: slot.gate.hold)
        _pause(hands, hands.rng.uniform(*LONG_HOLE_S))
        slot.gate.release()
        return True

    fault.__name__ = f"long hole {step.value}"
    return fault


def kill(hands: Hands) -> bool:
    """SIGKILL of a worker at any moment."""
    slot = _busy(hands)
    in_flight = slot.at_work
    slot.signal(signal.SIGKILL)
    return in_flight


def freeze(hands: Hands) -> bool:
    """SIGSTOP of a worker at any moment."""
    slot = _busy(hands)
    in_flight = slot.at_work
    slot.signal(signal.SIGSTOP)
    _sleep_and_wake(hands, slot)
    return in_flight


def restart_broker(hands: Hands) -> bool:
    """The broker stops and starts again."""
    in_flight = _busy(hands).at_work
    hands.cluster.broker.stop()
    _pause(hands, hands.rng.uniform(0.0, 2.0))
    hands.cluster.broker.start(BROKER_LIMIT_S)
    return in_flight


def kill_broker(hands: Hands) -> bool:
    """The broker is killed and starts again."""
    in_flight = _busy(hands).at_work
    hands.cluster.broker.kill()
    _pause(hands, hands.rng.uniform(0.0, 2.0))
    hands.cluster.broker.start(BROKER_LIMIT_S)
    return in_flight


def reset(hands: Hands) -> bool:
    """All connections of a worker are reset."""
    slot = _busy(hands)
    in_flight = slot.at_work
    slot.gate.reset()
    return in_flight


def reset_all(hands: Hands) -> bool:
    """All connections of all workers are reset."""
    in_flight = _busy(hands).at_work
    for slot in hands.cluster.thawed():
        slot.gate.reset()
    return in_flight


def short_hole(hands: Hands) -> bool:
    """Worker and broker are cut off for less than a session; requests sent meanwhile arrive late."""
    return _hole(hands, SHORT_HOLE_S, lost=False)


def short_hole_lost(hands: Hands) -> bool:
    """Worker and broker are cut off for less than a session; requests sent meanwhile are lost."""
    return _hole(hands, SHORT_HOLE_S, lost=True)


def long_hole(hands: Hands) -> bool:
    """A black hole longer than a session: the worker's requests arrive when others have its partitions."""
    return _hole(hands, LONG_HOLE_S, lost=False)


def long_hole_lost(hands: Hands) -> bool:
    """A black hole longer than a session that loses the requests; the worker sends its queued ones afterwards."""
    return _hole(hands, LONG_HOLE_S, lost=True)


def slow(hands: Hands) -> bool:
    """Each request of a worker, and each answer, takes longer."""
    slot = _busy(hands)
    in_flight = slot.at_work
    slot.gate.slow(hands.rng.uniform(0.02, 0.2))
    _pause(hands, hands.rng.uniform(2.0, 5.0))
    slot.gate.release()
    return in_flight


def join(hands: Hands) -> bool:
    """One more worker starts; without a free slot, a worker is stopped."""
    empty = hands.cluster.empty()
    if not empty:
        return leave(hands)
    in_flight = _busy(hands).at_work
    hands.cluster.start(hands.rng.choice(empty))
    return in_flight


def leave(hands: Hands) -> bool:
    """A worker gets SIGTERM."""
    slot = _busy(hands)
    in_flight = slot.at_work
    slot.ending = True
    slot.signal(signal.SIGTERM)
    return in_flight


KILLS = tuple(kill_at(step) for step in Step if step is not Step.WITHIN)
FREEZES = tuple(freeze_at(step) for step in (Step.OUTPUTS, Step.CHANGELOG, Step.OFFSETS))
OTHERS: tuple[Fault, ...] = (
    kill, kill_within_changelog, freeze, restart_broker, kill_broker, reset, reset_all, short_hole, short_hole_lost,
    slow, join, leave,
)  # fmt: skip
#: Late writes of a worker that the group considers dead.
LONG_HOLES = (
    long_hole,
    long_hole_lost,
    *(hole_at(step) for step in (Step.OUTPUTS, Step.CHANGELOG, Step.OFFSETS)),
)
#: Each kill at a step twice, each other fault once.
DECK = (*KILLS, *KILLS, *FREEZES, *LONG_HOLES, *OTHERS)


def name_of(fault: Fault) -> str:
    """Return the fault's name for a report."""
    return fault.__name__.replace("_", " ")


def deal(rng: random.Random, deck: tuple[Fault, ...], first: tuple[Fault, ...] = ()) -> Iterator[Fault]:
    """Yield faults without end: `first`, then the whole deck in seeded order, again and again."""
    yield from first
    yield from chain.from_iterable(iter(lambda: rng.sample(deck, len(deck)), None))


# --- shared by the faults


def _busy(hands: Hands) -> Slot:
    """Return a worker that has sent outputs that no commit covers yet."""

    def found() -> list[Slot]:
        hands.keep()
        return [slot for slot in hands.cluster.thawed() if slot.at_work]

    try:
        return hands.rng.choice(wait_for("a worker to be at work", found, STRIKE_LIMIT_S, 0.005))
    except AssertionError as error:
        raise MissedError(str(error)) from error


def _at(hands: Hands, step: Step, number: signal.Signals, wait_s: float, *, cut: bool) -> Slot:
    """Send a signal to a worker at a step of its commit."""
    return _trap(hands, step, lambda slot: lambda: slot.signal(number), wait_s, cut)


def _trap(
    hands: Hands,
    step: Step,
    strike: Callable[[Slot], Callable[[], None]],
    wait_s: float = 0.0,
    cut: bool = False,
) -> Slot:
    """Strike a worker at a step of its commit; if it reaches none in time, strike another worker."""
    end = time.monotonic() + STRIKE_LIMIT_S
    while time.monotonic() < end:
        slot = _busy(hands)
        trap = Trap(step, strike(slot), wait_s, cut)
        slot.gate.arm(trap)
        if trap.sprung.wait(5.0):
            return slot
        slot.gate.disarm()
    raise MissedError(f"no worker reached {step.value} within {STRIKE_LIMIT_S:.0f} s")


def _sleep_and_wake(hands: Hands, slot: Slot) -> None:
    slot.frozen = True
    try:
        _pause(hands, SESSION_S + hands.rng.uniform(1.0, 4.0))
    finally:
        slot.signal(signal.SIGCONT)
        slot.frozen = False


def _hole(hands: Hands, seconds: tuple[float, float], *, lost: bool) -> bool:
    slot = _busy(hands)
    in_flight = slot.at_work
    slot.gate.hold()
    _pause(hands, hands.rng.uniform(*seconds))
    if lost:
        slot.gate.reset()
    slot.gate.release()
    return in_flight


def _pause(hands: Hands, seconds: float) -> None:
    """Wait, and replace workers that have ended."""
    end = time.monotonic() + seconds
    wait_for("a pause to end", lambda: hands.keep() or time.monotonic() >= end, seconds + 30.0)
