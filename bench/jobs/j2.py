"""J2: the product's own state, model, predictions and flags on the events of the comparison.

The model is an untrained GRU of width 128 over 40,000 items (weights do not change the cost), made at the first
start in the folder that MODEL names, by default under the user's cache.
"""

import os
from functools import cache
from pathlib import Path

import torch

from bench.jobs.environment import Job, run
from bench.jobs.events import JobDecoder
from bench.model_step import write_model
from model.serving.runtime import ModelError, Runtime
from stream_app.lab.broker.installation import cache_dir
from stream_app.processing.model_host import names_of
from stream_app.processing.shop_processor import ShopProcessor
from stream_app.settings import Settings
from stream_app.worker.warm_up import warm_up

ITEMS = 40_000


@cache
def runtime() -> Runtime:
    """Return the model; make it first if it does not exist yet."""
    folder = Path(os.environ.get("MODEL") or cache_dir() / "bench" / f"model-{ITEMS}")
    torch.set_num_threads(1)
    device = os.environ.get("DEVICE", "auto")
    try:
        return Runtime.load(folder, device)
    except ModelError:  # it does not exist yet, or has another version
        return Runtime.load(write_model(ITEMS, folder), device)


def processor(job: Job, partitions: int) -> ShopProcessor:
    """Return the product's processor, with the decoder of the comparison."""
    model = runtime()
    names = names_of(model)
    decoder = JobDecoder(names[0], model.none_category)
    return ShopProcessor(
        job.settings, model, partitions=partitions, names=names, decoder=decoder, topics=job.topics
    )


if __name__ == "__main__":
    run(processor, lambda job: warm_up(Settings(), runtime()))
