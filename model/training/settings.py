"""The settings of training, each with its description and limits.

They are the `[train]` table of a settings file, the variables `FORECLICK_TRAIN_...` and the options of `foreclick
train`.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta


def _doc(text: str, unit: str = "", **limits: Any) -> Meta:
    return Meta(description=text, extra={"unit": unit}, **limits)


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to train; the defaults suit a recording of 50,000 to a few million events."""

    hidden: Annotated[int, _doc("width of the hidden state", ge=8, le=2048)] = 128
    epochs: Annotated[
        int, _doc("largest number of epochs; validation may stop the training earlier", ge=1, le=1000)
    ] = 12
    patience: Annotated[
        int,
        _doc(
            "epochs without a better validation MRR@20 after which the training stops",
            "epochs",
            ge=1,
            le=1000,
        ),
    ] = 2
    batch_events: Annotated[int, _doc("events per training batch", "events", ge=1, le=1_000_000)] = 768
    learning_rate: Annotated[
        float, _doc("initial learning rate; it falls linearly to a twentieth", gt=0, le=1)
    ] = 0.01
    weight_decay: Annotated[float, _doc("weight decay of AdamW", ge=0, le=1)] = 0.01
    dropout: Annotated[float, _doc("dropout of the inputs and of the readout", ge=0, le=0.95)] = 0.4
    clip: Annotated[float, _doc("largest norm of the gradient", gt=0, le=1e6)] = 5.0
    valid_share: Annotated[
        float,
        _doc(
            "share of the latest events that is held out, to choose the epoch and to calibrate",
            gt=0,
            le=0.9,
        ),
    ] = 0.15
    refit: Annotated[
        bool,
        _doc("after validation, train again on all events, for the number of epochs that validation chose"),
    ] = True
    chunk: Annotated[int, _doc("events per training sequence", "events", ge=1, le=4096)] = 64
    context: Annotated[
        int, _doc("earlier events that only warm up the hidden state of a sequence", "events", ge=0, le=4096)
    ] = 16
    min_events: Annotated[
        int,
        _doc(
            "smallest number of training events, counting only events that their user follows with another",
            "events",
            ge=1,
            le=10**9,
        ),
    ] = 200
    min_item_count: Annotated[
        int, _doc("events that an item needs to get an embedding row of its own", "events", ge=1, le=10**9)
    ] = 1
    max_items: Annotated[
        int,
        _doc(
            "largest number of items with an embedding row of their own; the most frequent items get one",
            "items",
            ge=1,
            le=10_000_000,
        ),
    ] = 200_000
    buckets: Annotated[
        int,
        _doc(
            "embedding rows that unknown items share, and as many for unknown categories",
            "rows",
            ge=1,
            le=1_000_000,
        ),
    ] = 256
    unknown_rate: Annotated[
        float,
        _doc(
            "share of the items that training replaces by their shared row, so that shared rows learn too",
            ge=0,
            le=1,
        ),
    ] = 0.02
    full_softmax_items: Annotated[
        int,
        _doc(
            "up to this many items, training scores all of them; above that, a sample",
            "items",
            ge=0,
            le=10**9,
        ),
    ] = 20_000
    negatives: Annotated[int, _doc("items in that sample, per batch", "items", ge=1, le=1_000_000)] = 2048
    purchase_weight: Annotated[float, _doc("weight of the purchase in the loss", ge=0, le=1000)] = 0.3
    kind_weight: Annotated[float, _doc("weight of the next event's type in the loss", ge=0, le=1000)] = 0.3
    seed: Annotated[
        int,
        _doc(
            "random seed; the same data, settings and number of threads give the same model",
            ge=0,
            le=2**63 - 1,
        ),
    ] = 0
    horizon_ms: int = 30 * 60_000  # not documented: it is the worker's setting of this name
