"""How to train."""

import msgspec


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to train; the defaults suit a recording of 50,000 to a few million events."""

    hidden: int = 128
    epochs: int = 10  # at most: validation stops earlier
    patience: int = 2  # epochs without a better validation MRR@20
    batch_events: int = 768
    learning_rate: float = 0.01  # falls linearly to a twentieth
    weight_decay: float = 0.01
    dropout: float = 0.4  # of the inputs and of the readout
    clip: float = 5.0  # largest norm of the gradient
    valid_share: float = 0.15  # of the events, the latest
    refit: bool = False  # train again on all data for the number of epochs that validation chose
    horizon_ms: int = 30 * 60_000
    chunk: int = 64  # events that learn in one sequence
    context: int = 16  # earlier events that warm its state up
    min_item_count: int = 1
    max_items: int = 200_000
    buckets: int = 256  # rows shared by unknown items, and by unknown categories
    unknown_rate: float = 0.02  # of the items replaced by their bucket, so that buckets learn
    full_softmax_items: int = 20_000  # above: sampled softmax
    negatives: int = 2048  # sampled items a batch
    purchase_weight: float = 0.3
    kind_weight: float = 0.3
    seed: int = 0
