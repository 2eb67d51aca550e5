"""Predictions of a micro-batch as messages.

A compiled kernel writes JSON, the default, into one buffer. It decodes to the `Prediction` objects from which the
general encoder makes msgpack (tested).
"""

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from model.serving.api import Runtime, StepResult
from stream_app.contract.event_columns import Events, text_bytes
from stream_app.contract.message_columns import MessageColumns
from stream_app.contract.outputs import ItemScore, NextEvent, Prediction, encoder, output_id
from stream_app.contract.records import INPUT_TOPICS
from stream_app.processing import prediction_json_kernel as json_kernel
from stream_app.processing.prediction_json_kernel import DIGITS, ESCAPED, FIXED_BYTES, NUMBER_BYTES, literal


class PredictionEncoder:
    """Encodes predictions of one model, or of none."""

    def __init__(self, runtime: Runtime | None, output_format: str, topic_prefix: str) -> None:
        self.runtime = runtime
        self.label = runtime.label if runtime else "none"
        self.output_format = output_format
        self.topic_prefix = topic_prefix
        text = msgspec.json.Encoder().encode
        model = ',"model":' + text(self.label).decode()
        self._model = literal(model + f',"horizon_ms":{runtime.horizon_ms}' if runtime else model)
        self._degraded = literal(model + ',"degraded":true')
        ids = runtime.item_ids if runtime else []
        names = [b'{"item_id":' + text(name) + b',"score":' for name in ids]
        self._names = np.frombuffer(b"".join(names) or b"\0", np.uint8)
        self._ends = np.cumsum([0, *map(len, names)])

    def ids(self, events: Events) -> list[str]:
        """`<topic>-<partition>-<offset>` of each event's source record."""
        prefixes, code = self._prefixes(events)
        offsets = events.data["offset"].tolist()
        return [f"{prefixes[c]}{o}" for c, o in zip(code.tolist(), offsets, strict=True)]

    def encode(
        self,
        events: Events,
        result: StepResult | None,
        wanted: npt.NDArray[np.int64],
        *,
        degraded: bool = False,
    ) -> MessageColumns:
        """The predictions of the events at the positions `wanted`, their user_id as the key.

        `degraded`: there is no result because the model failed.
        """
        d = events.data[wanted]
        if self.output_format == "json":
            values, ends = self._json(events, result, wanted, self._degraded if degraded else self._model)
            sizes = np.diff(ends).astype(np.int32)
            return MessageColumns(events.text, d["text_at"], d["user_bytes"], values, ends[:-1], sizes)
        encode = encoder(self.output_format)
        said = predictions(self.label, self.runtime, self.ids(events), events, result, degraded=degraded)
        bodies = MessageColumns.of([(None, encode(said[i])) for i in wanted.tolist()])
        return MessageColumns(
            events.text, d["text_at"], d["user_bytes"], bodies.values, bodies.value_at, bodies.value_bytes
        )

    def _prefixes(self, events: Events) -> tuple[list[str], npt.NDArray[np.int64]]:
        """Prefixes of ids, before the offset, and the index of each event's prefix."""
        code = events.data["partition"] * len(INPUT_TOPICS) + events.data["event_type"]
        places = [divmod(c, len(INPUT_TOPICS)) for c in range(int(code.max(initial=0)) + 1)]
        return [
            output_id(self.topic_prefix, topic_index, partition) for partition, topic_index in places
        ], code

    def _json(
        self,
        events: Events,
        result: StepResult | None,
        wanted: npt.NDArray[np.int64],
        model: npt.NDArray[np.uint8],
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """A buffer with the predictions, and where (wanted + 1,) each ends; the first entry is 0."""
        prefixes, code = self._prefixes(events)
        if result is None:
            heads = np.empty((0, 4), np.float32)
            items, scores = np.empty((0, 0), np.int32), np.empty((0, 0), np.float32)
        else:
            heads = np.column_stack((result.next_event, result.purchase))
            items, scores = result.items, result.scores
        # Topic names hold nothing that JSON would escape.
        sizes = list(map(len, prefixes))
        most = len(wanted) * (FIXED_BYTES + len(model) + max(sizes))
        most += ESCAPED * int(text_bytes(events.data).sum())
        named = items[items >= 0]
        most += int((self._ends[named + 1] - self._ends[named] + NUMBER_BYTES + 2).sum())
        out = np.empty(most, np.uint8)  # the kernel checks no bounds, so `most` must be enough for any events
        ends = np.zeros(len(wanted) + 1, np.int64)
        json_kernel.predictions(
            events.data,
            events.text,
            wanted,
            code,
            literal("".join(prefixes)),
            np.cumsum([0, *sizes]),
            model,
            heads,
            items,
            scores,
            self._names,
            self._ends,
            out,
            ends,
        )
        assert ends[-1] <= most
        return out[: ends[-1]], ends


def predictions(
    label: str,
    runtime: Runtime | None,
    ids: Sequence[str],
    events: Events,
    result: StepResult | None,
    *,
    degraded: bool = False,
) -> list[Prediction]:
    """The predictions as objects."""
    users, event_ids, times = events.user.tolist(), events.event_id.tolist(), events.data["ts"].tolist()
    if result is None or runtime is None:
        return [
            Prediction(i, u, t, e, label, None, None, [], degraded)
            for i, u, t, e in zip(ids, users, times, event_ids, strict=True)
        ]
    heads, purchase, scores = (rounded(x) for x in (result.next_event, result.purchase, result.scores))
    items = result.items.tolist()
    return [
        Prediction(
            ids[i], users[i], times[i], event_ids[i], label, NextEvent(*heads[i]), purchase[i],
            scored(items[i], scores[i], runtime.item_ids), horizon_ms=runtime.horizon_ms,
        )
        for i in range(len(ids))
    ]  # fmt: skip


def rounded(x: npt.NDArray[np.floating]) -> list:  # type: ignore[type-arg]
    """Numbers with the digits that are published."""
    return np.round(x.astype(np.float64), DIGITS).tolist()


def scored(numbers: list[int], scores: list[float], ids: list[str]) -> list[ItemScore]:
    """Items by name; a negative number means no item."""
    return [ItemScore(ids[i], s) for i, s in zip(numbers, scores, strict=True) if i >= 0]
