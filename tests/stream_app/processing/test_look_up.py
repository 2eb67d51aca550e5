"""Look-ups during the predict stage: a look-up in the state thread never sees parts of two predictions."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.serving.runtime import Runtime
from tests.model.tiny import tiny_model
from tests.stream_app.failing_shop import Shop, close

LIMIT_S = 30.0


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime.load(tiny_model(tmp_path / "tiny"), device="cpu")


class Stalling(np.ndarray):  # type: ignore[type-arg]
    """An array whose next write begins only when the test allows it."""

    begun: threading.Event
    free: threading.Event

    def __setitem__(self, key: Any, value: Any) -> None:
        self.begun.set()
        assert self.free.wait(LIMIT_S), f"the test did not release the write within {LIMIT_S} s"
        super().__setitem__(key, value)


def test_a_look_up_sees_one_prediction(runtime: Runtime) -> None:
    """While the predict stage is blocked amid its writes, a look-up gives the old prediction or the new one."""
    shop = Shop(runtime)
    shop.run(7)
    processor, last = shop.processor, shop.processor._last
    assert last is not None
    slot = processor.users.mapping(0)["u0-3"]
    before = processor.last_prediction(slot)
    shop.feed(7)
    applied = processor.apply_batch(0.0)
    assert applied is not None
    stalling = last.scores.view(Stalling)
    stalling.begun, stalling.free = threading.Event(), threading.Event()
    last.scores = stalling
    with ThreadPoolExecutor(2) as threads:
        predicting = threads.submit(processor.predict_batch, applied)
        assert stalling.begun.wait(LIMIT_S), f"nothing was written within {LIMIT_S} s"
        looking = threads.submit(processor.last_prediction, slot)
        done = threading.Event()
        looking.add_done_callback(lambda _: done.set())
        done.wait(0.5)  # it may wait for the write to end, and then comes back after it
        stalling.free.set()
        predicting.result(LIMIT_S)
        seen = looking.result(LIMIT_S)
    after = processor.last_prediction(slot)
    assert before is not None
    assert seen is not None
    assert after is not None
    assert not close(before, after), "the two predictions must differ for this test"
    assert (seen.next_event, seen.items) in (
        (before.next_event, before.items),
        (after.next_event, after.items),
    )
