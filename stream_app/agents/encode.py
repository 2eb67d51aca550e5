"""Predictions of a micro-batch as bytes.

JSON, the default, is written by hand: the part of a prediction that is all numbers and known item names by a
compiled kernel into one buffer, the rest by one format string. It decodes to the same `Prediction` that the general
encoder, which serves msgpack, is given (tested), at a tenth of its cost.
"""

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numba
import numpy as np
import numpy.typing as npt

from model.runtime import Runtime, StepResult
from stream_app.events import Events
from stream_app.outputs import ItemScore, NextEvent, Prediction, encoder, output_id
from stream_app.records import INPUT_TOPICS

#: Digits behind the point. Five: shorter messages, and none that depends on how micro-batches were cut.
DIGITS = 5
_SCALE = 10**DIGITS

_NEXT = [
    np.frombuffer(text, np.uint8) for text in (b',"next_event":{"click":', b',"browse":', b',"purchase":')
]
_BUY = np.frombuffer(b'},"purchase_probability":', np.uint8)
_LIST = np.frombuffer(b',"items":[', np.uint8)
_NUMBER_BYTES = DIGITS + 2
#: Bytes of a tail beside its items.
_FIXED_BYTES = sum(map(len, (*_NEXT, _BUY, _LIST))) + 4 * _NUMBER_BYTES + 2
_NO_MODEL = b',"next_event":null,"purchase_probability":null,"items":[]}'

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@_jit
def _put(out, at, text):  # type: ignore[no-untyped-def]
    for i in range(len(text)):
        out[at + i] = text[i]
    return at + len(text)


@_jit
def _put_number(out, at, x):  # type: ignore[no-untyped-def]
    """A number from 0 to 1 with `DIGITS` digits; what lies outside is cut to the nearest end."""
    n = min(max(int(np.float64(x) * _SCALE + 0.5), 0), _SCALE)
    out[at] = 48 + n // _SCALE
    out[at + 1] = 46
    for d in range(DIGITS):
        out[at + 1 + DIGITS - d] = 48 + n % 10
        n //= 10
    return at + _NUMBER_BYTES


@_jit
def _tails(  # type: ignore[no-untyped-def]
    heads,  # (n, 4) probabilities of the next types, and of a purchase
    items,  # (n, k) int32, -1 where there are fewer
    scores,  # (n, k)
    names,  # bytes of `{"item_id":"…","score":` of all items
    ends,  # (items + 1,) where each ends in `names`, 0 first
    click,
    browse,
    purchase,
    buy,
    list_,
    out,  # bytes
    out_ends,  # (n + 1,) where each tail ends, 0 first
):
    at = 0
    for i in range(len(items)):
        at = _put_number(out, _put(out, at, click), heads[i, 0])
        at = _put_number(out, _put(out, at, browse), heads[i, 1])
        at = _put_number(out, _put(out, at, purchase), heads[i, 2])
        at = _put_number(out, _put(out, at, buy), heads[i, 3])
        at = _put(out, at, list_)
        first = True
        for j in range(items.shape[1]):
            item = items[i, j]
            if item < 0:
                continue
            if not first:
                out[at] = 44  # a comma
                at += 1
            first = False
            at = _put(out, at, names[ends[item] : ends[item + 1]])
            at = _put_number(out, at, scores[i, j])
            out[at] = 125  # }
            at += 1
        out[at] = 93  # ]
        out[at + 1] = 125  # }
        at += 2
        out_ends[i + 1] = at


class PredictionEncoder:
    """Encodes predictions of one model, or of none."""

    def __init__(self, runtime: Runtime | None, output_format: str, topic_prefix: str) -> None:
        self.runtime = runtime
        self.label = runtime.label if runtime else "none"
        self.output_format = output_format
        self.topic_prefix = topic_prefix
        self._text = msgspec.json.Encoder().encode
        self._model = b',"model":' + self._text(self.label)
        ids = runtime.item_ids if runtime else []
        prefixes = [b'{"item_id":' + self._text(name) + b',"score":' for name in ids]
        self._names = np.frombuffer(b"".join(prefixes) or b"\0", np.uint8)
        self._ends = np.zeros(len(prefixes) + 1, np.int64)
        np.cumsum([len(p) for p in prefixes], out=self._ends[1:])
        self._longest = max(map(len, prefixes), default=0)

    def ids(self, events: Events) -> list[str]:
        """`<topic>-<partition>-<offset>` of each event's source record."""
        prefix, code = self._prefixes(events)
        return [f"{prefix[c]}{o}" for c, o in zip(code, events.data["offset"].tolist(), strict=True)]

    def encode(self, events: Events, result: StepResult | None) -> list[bytes]:
        """The prediction of each event."""
        if self.output_format == "json":
            return self._encode_json(events, result)
        encode = encoder(self.output_format)
        return [encode(p) for p in predictions(self.label, self.runtime, self.ids(events), events, result)]

    def _prefixes(self, events: Events) -> tuple[list[str], list[int]]:
        """Ids without their offset, and which of them each event has."""
        code = events.data["partition"] * len(INPUT_TOPICS) + events.data["kind"]
        codes, which = np.unique(code, return_inverse=True)
        places = [divmod(c, len(INPUT_TOPICS)) for c in codes.tolist()]
        return [output_id(self.topic_prefix, kind, partition) for partition, kind in places], which.tolist()

    def _encode_json(self, events: Events, result: StepResult | None) -> list[bytes]:
        tails = [_NO_MODEL] * len(events) if result is None else self._json_tails(result)
        text, model = self._text, self._model
        prefixes, code = self._prefixes(events)
        # Topic names hold nothing that JSON would escape.
        start = [b'{"id":"' + prefix.encode() for prefix in prefixes]
        return [
            b'%b%d","user_id":%b,"ts":%d,"event_id":%b%b%b' % (start[c], o, text(u), t, text(e), model, tail)
            for c, o, u, t, e, tail in zip(
                code,
                events.data["offset"].tolist(),
                events.user.tolist(),
                events.data["ts"].tolist(),
                events.event_id.tolist(),
                tails,
                strict=True,
            )
        ]

    def _json_tails(self, result: StepResult) -> list[bytes]:
        n, k = result.items.shape
        heads = np.column_stack((result.next_event, result.purchase))
        out = np.empty(n * (_FIXED_BYTES + k * (self._longest + _NUMBER_BYTES + 2)), np.uint8)
        ends = np.zeros(n + 1, np.int64)
        _tails(heads, result.items, result.scores, self._names, self._ends, *_NEXT, _BUY, _LIST, out, ends)
        whole = out[: ends[-1]].tobytes()
        at = ends.tolist()
        return [whole[a:b] for a, b in pairwise(at)]


def predictions(
    label: str, runtime: Runtime | None, ids: Sequence[str], events: Events, result: StepResult | None
) -> list[Prediction]:
    """The predictions as objects."""
    users, event_ids, times = events.user.tolist(), events.event_id.tolist(), events.data["ts"].tolist()
    if result is None or runtime is None:
        return [
            Prediction(i, u, t, e, label, None, None, [])
            for i, u, t, e in zip(ids, users, times, event_ids, strict=True)
        ]
    heads, purchase, scores = (rounded(x) for x in (result.next_event, result.purchase, result.scores))
    items = result.items.tolist()
    return [
        Prediction(
            ids[i], users[i], times[i], event_ids[i], label, NextEvent(*heads[i]), purchase[i],
            scored(items[i], scores[i], runtime.item_ids),
        )
        for i in range(len(ids))
    ]  # fmt: skip


def rounded(x: npt.NDArray[np.floating]) -> list:  # type: ignore[type-arg]
    """Numbers as they are published."""
    return np.round(x.astype(np.float64), DIGITS).tolist()


def scored(numbers: list[int], scores: list[float], ids: list[str]) -> list[ItemScore]:
    """Items by name; a negative number stands for none."""
    return [ItemScore(ids[i], s) for i, s in zip(numbers, scores, strict=True) if i >= 0]
