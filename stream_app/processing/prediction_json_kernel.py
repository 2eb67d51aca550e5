"""Compiled code that writes predictions as JSON into one buffer. The small functions take pointers."""

import numpy as np

from stream_app.kernels.jit import jit
from stream_app.kernels.memory import copy_bytes, pointer_to

#: Digits after the decimal point. Five keep messages short, and hide rounding that depends on the micro-batches.
DIGITS = 5
_SCALE = 10**DIGITS
NUMBER_BYTES = DIGITS + 2
#: The most digits of a 64-bit integer, including its sign.
INTEGER_BYTES = 20
#: The most bytes that one byte of text can become.
ESCAPED = 6

_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
#: The letter after the backslash for characters that have one, 0 for those that need \\u, 1 for plain ones.
_ESCAPES = np.ones(256, np.uint8)
_ESCAPES[:0x20] = 0
for _plain, _letter in ((8, "b"), (9, "t"), (10, "n"), (12, "f"), (13, "r"), (34, '"'), (92, "\\")):
    _ESCAPES[_plain] = ord(_letter)


def literal(text: str) -> np.ndarray:
    """The bytes of a text, for compiled code."""
    return np.frombuffer(text.encode(), np.uint8)


_ID, _USER = literal('{"id":"'), literal('","user_id":"')
_TS, _EVENT, _NULL = literal('","ts":'), literal(',"event_id":'), literal("null")
_CLICK, _BROWSE, _PURCHASE = (
    literal(',"next_event":{"click":'),
    literal(',"browse":'),
    literal(',"purchase":'),
)
_BUY, _ITEMS, _END = literal('},"purchase_probability":'), literal(',"items":['), literal("]}")
_NO_MODEL = literal(',"next_event":null,"purchase_probability":null,"items":[]}')
#: Bytes of a prediction without its texts and items.
FIXED_BYTES = (
    sum(map(len, (_ID, _USER, _TS, _EVENT, _NULL, _CLICK, _BROWSE, _PURCHASE, _BUY, _ITEMS, _END, _NO_MODEL)))
    + 4 * NUMBER_BYTES
    + 2 * INTEGER_BYTES
    + 2
)


@jit
def put(out, at, text):  # type: ignore[no-untyped-def]
    """Copies a whole array to a pointer; returns the position after it."""
    return copy_bytes(pointer_to(text), 0, len(text), out, at)


@jit
def put_integer(out, at, value):  # type: ignore[no-untyped-def]
    """Writes a 64-bit integer in decimal."""
    if value < 0:
        out[at] = 45
        at += 1
        value = -value
    digits = 1
    rest = value
    while rest >= 10:
        rest //= 10
        digits += 1
    for d in range(digits):
        out[at + digits - 1 - d] = 48 + value % 10
        value //= 10
    return at + digits


@jit
def put_number(out, at, x):  # type: ignore[no-untyped-def]
    """Writes a number from 0 to 1 with `DIGITS` digits; other numbers are clipped to this range."""
    n = min(max(int(np.float64(x) * _SCALE + 0.5), 0), _SCALE)
    out[at] = 48 + n // _SCALE
    out[at + 1] = 46
    for d in range(DIGITS):
        out[at + 1 + DIGITS - d] = 48 + n % 10
        n //= 10
    return at + NUMBER_BYTES


@jit
def put_text(out, at, text, start, size):  # type: ignore[no-untyped-def]
    """Writes UTF-8 text with the escapes of JSON, without the quotes around it."""
    for i in range(start, start + size):
        b = text[i]
        letter = _ESCAPES[b]
        if letter == 1:
            out[at] = b
            at += 1
            continue
        out[at] = 92
        if letter != 0:
            out[at + 1] = letter
            at += 2
            continue
        out[at + 1] = 117  # \u00xx
        out[at + 2] = 48
        out[at + 3] = 48
        out[at + 4] = _HEX[b >> 4]
        out[at + 5] = _HEX[b & 15]
        at += 6
    return at


@jit
def predictions(  # type: ignore[no-untyped-def]
    events,  # (n,) EVENT
    text,
    wanted,  # (m,) positions of the events to encode
    code,  # (n,) which prefix an event's id has
    prefixes,  # bytes of all prefixes
    prefix_ends,  # (prefixes + 1,) 0 first
    model,  # `,"model":"…"`
    heads,  # (n, 4) probabilities of the next types, and of a purchase; (0, 4) without a model
    items,  # (n, k) int32, -1 where there are fewer
    scores,  # (n, k)
    names,  # bytes of `{"item_id":"…","score":` of all items
    ends,  # (items + 1,) where each ends in `names`, 0 first
    out,  # bytes, enough for all
    out_ends,  # (m + 1,) where each prediction ends, 0 first
):
    """Writes the predictions of the wanted events one after the other."""
    target, texts = pointer_to(out), pointer_to(text)
    starts, items_of = pointer_to(prefixes), pointer_to(names)
    at = 0
    for m in range(len(wanted)):
        i = wanted[m]
        e = events[i]
        at = put(target, at, _ID)
        start = prefix_ends[code[i]]
        at = copy_bytes(starts, start, prefix_ends[code[i] + 1] - start, target, at)
        at = put_integer(target, at, e.offset)
        at = put(target, at, _USER)
        at = put_text(target, at, texts, e.text_at, e.user_bytes)
        at = put(target, at, _TS)
        at = put_integer(target, at, e.ts)
        at = put(target, at, _EVENT)
        if e.event_bytes < 0:
            at = put(target, at, _NULL)
        else:
            target[at] = 34
            at = put_text(target, at + 1, texts, e.text_at + e.user_bytes, e.event_bytes)
            target[at] = 34
            at += 1
        at = put(target, at, model)
        if len(heads) == 0:
            at = put(target, at, _NO_MODEL)
            out_ends[m + 1] = at
            continue
        at = put_number(target, put(target, at, _CLICK), heads[i, 0])
        at = put_number(target, put(target, at, _BROWSE), heads[i, 1])
        at = put_number(target, put(target, at, _PURCHASE), heads[i, 2])
        at = put_number(target, put(target, at, _BUY), heads[i, 3])
        at = put(target, at, _ITEMS)
        first = True
        for j in range(items.shape[1]):
            item = items[i, j]
            if item < 0:
                continue
            if not first:
                target[at] = 44  # a comma
                at += 1
            first = False
            at = copy_bytes(items_of, ends[item], ends[item + 1] - ends[item], target, at)
            at = put_number(target, at, scores[i, j])
            target[at] = 125  # }
            at += 1
        at = put(target, at, _END)
        out_ends[m + 1] = at
