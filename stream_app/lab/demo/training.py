"""The demo's model: trained on the history, evaluated on its last part, kept for the next demo."""

import shutil
import time
from typing import Any

import msgspec
import xxhash

from model.serving.api import ModelError, Runtime
from model.training.api import TrainingProgress as Epoch
from model.training.api import evaluate, export, split_time, threads, train
from model.training.settings import TrainSettings
from stream_app.lab.demo.plan import Data, DemoError, Plan
from stream_app.lab.demo.steps import Step
from stream_app.lab.demo.traffic import write_history
from stream_app.recordings.offline.training_table import tabulate
from stream_app.settings import HORIZON_MS, Settings

#: Share of the history that is held out to evaluate the model: its latest part.
HELD_OUT = 0.1
#: Number of items of the popularity baseline.
_POPULAR = 10


class Learned(msgspec.Struct, frozen=True):
    """What is stored with the model (`learned.json`)."""

    key: str  #: what the model depends on, `cache_key`
    history: str  #: hash of the recording it was trained on, 16 hex digits
    label: str
    report: dict[str, dict[str, Any]]  #: of `model.evaluation.evaluate`, on events the model has never seen
    popular: list[str]  #: the most popular items of the history, best first


def kept(plan: Plan, settings: Settings) -> Learned | None:
    """Return the model of an earlier demo, or None if it is incomplete or from another plan or recording."""
    try:
        learned = msgspec.json.decode((plan.folder / "learned.json").read_bytes(), type=Learned)
        same = learned.key == cache_key(plan, settings) and learned.history == _hash(plan)
        return learned if same and Runtime.load(plan.model, "cpu").label == learned.label else None
    except (FileNotFoundError, msgspec.DecodeError, ModelError):
        return None  # in all these cases the demo trains again


def make_history(plan: Plan, now_ms: int, step: Step) -> None:
    """Generate the history, and say how fast that was."""
    start = time.perf_counter()
    write_history(plan, now_ms, lambda done: step.progress(done, plan.events, "generating"))
    rate = plan.events / (time.perf_counter() - start)
    size = plan.history.stat().st_size / 1e6
    whose = "of the Complete Journey" if plan.data is Data.COMPLETE_JOURNEY else f"of {plan.users:,} users"
    step.note(f"{plan.events:,} events {whose} at {rate:,.0f} events/s, {size:.0f} MB")


def learn(plan: Plan, settings: Settings, step: Step) -> Learned:
    """Train on all but the last part of the history, evaluate on that part, and store the result."""
    whole = tabulate(plan.history, settings, lambda n, of: step.progress(n, of, "reading the history"))
    table, cut = whole.events, split_time(whole.events, HELD_OUT)
    history = whole.until(cut)

    def report(at: Epoch) -> None:
        step.progress(at.epoch - 1 + at.share, at.epochs, f"training, epoch {at.epoch}, loss {at.loss:.2f}")
        if at.mrr is not None:
            step.detail(f"epoch {at.epoch} of {at.epochs}: loss {at.loss:.2f}, MRR@20 {at.mrr:.3f}")

    with threads(1):
        try:
            trained = train(
                history.events,
                _learning(plan, settings),
                report,
                skipped=history.skipped,
                late=int(history.late.sum()),
            )
        except ValueError as error:
            raise DemoError(f"{error} Give a higher --events") from error
        step.progress(None, None, "evaluating on events it has not seen")
        label = export(trained, plan.model, "demo")
        runtime = Runtime.load(plan.model, "cpu")
        judged = evaluate(runtime, table, cut, exact=False)
    learned = Learned(
        cache_key(plan, settings), _hash(plan), label, judged, list(runtime.item_ids[:_POPULAR])
    )
    (plan.folder / "learned.json").write_bytes(msgspec.json.encode(learned))
    return learned


def cache_key(plan: Plan, settings: Settings) -> str:
    """Text that differs whenever the model would: traffic, training and feature settings."""
    shop = msgspec.to_builtins(plan.shop(0))
    parts: dict[str, object] = {
        "events": plan.events,
        # Not these two: a longer live part may need other values of them.
        "shop": {name: value for name, value in shop.items() if name not in ("events", "span_s")},
        "training": msgspec.to_builtins(_learning(plan, settings)),
        "features": [settings.lateness_ms, settings.max_future_ms, settings.user_ttl_ms],
        "held_out": HELD_OUT,
    }
    if plan.data is not Data.GENERATED:
        parts |= {"shop": str(plan.data), "live": plan.live}  # the history is what comes before the live part
    return msgspec.json.encode(parts, order="deterministic").decode()


def _learning(plan: Plan, settings: Settings) -> TrainSettings:
    # There is no refit, which would double the time; the live part follows directly after the history.
    horizon_ms = settings.horizon_ms or HORIZON_MS
    return TrainSettings(epochs=plan.epochs, refit=False, horizon_ms=horizon_ms, seed=plan.seed)


def forget(plan: Plan) -> None:
    """Delete the model and the history."""
    shutil.rmtree(plan.model, ignore_errors=True)
    for path in (plan.history, plan.folder / "learned.json"):
        path.unlink(missing_ok=True)


def _hash(plan: Plan) -> str:
    return xxhash.xxh3_64_hexdigest(plan.history.read_bytes())
