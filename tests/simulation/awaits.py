"""Repeats the same short life of a worker, which dies at its first step, then at its second, and so on."""

import asyncio
from collections.abc import Iterator

from tests.simulation.schedule import Schedule
from tests.simulation.world import Report, World

RECORDS = 8


def _world(guarantee: str, implicit: bool) -> World:
    return World(Schedule(b""), guarantee, implicit=implicit, records=RECORDS, tail_s=0.5)


async def _one_life(world: World, dies_at: int | None) -> None:
    """Send the records in two parts, so that the second checkpoint directly follows the first."""
    worker = world.start()
    worker.process.dies_at = dies_at
    world.source.send(RECORDS // 2)
    await asyncio.sleep(0.45)
    world.source.send(RECORDS - RECORDS // 2)
    await asyncio.sleep(0.55)


def steps_of_a_life(guarantee: str, *, implicit: bool) -> int:
    """Return the number of steps of a worker that does not die; a step goes from one await to the next."""
    world, steps = _world(guarantee, implicit), 0

    async def life(world: World) -> None:
        nonlocal steps
        await _one_life(world, None)
        steps = world.workers[0].process.steps

    report = world.run(life)
    assert not report.problems, report.problems
    return steps


def deaths(guarantee: str, steps: range, *, implicit: bool) -> Iterator[tuple[int, Report]]:
    """Yield the report of a death at each of some steps."""
    for at in steps:

        async def life(world: World, at: int = at) -> None:
            await _one_life(world, at)

        yield at, _world(guarantee, implicit).run(life)
