"""A compiled scanner of JSON objects: it finds the values of some fields, for a whole batch of records.

It accepts only what it understands completely: objects without escapes, whose fields of interest are not inside other
values. All other records go to the general decoder, one by one. So the scanner may be simple, but it must never be
lenient. A record that it accepts is valid JSON in valid UTF-8, contains no field of interest twice, and has no number
of more than 64 bits.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stream_app.contract.record_columns import RecordColumns
from stream_app.kernels.jit import jit
from stream_app.kernels.memory import contiguous, pointer_to, same_bytes

#: The value of a field. Positions are counted from the start of the record's value.
TOKEN = np.dtype([("at", "i4"), ("size", "i4"), ("token_type", "i4")], align=True)
ABSENT, STRING, INTEGER, NUMBER, NULL, BOOLEAN, NESTED = range(7)

#: How deep a value may be nested; deeper ones go to the general decoder.
MAX_DEPTH = 60
#: The most digits of a number: so many always fit 64 bits.
MAX_DIGITS = 18
_MAX_EXPONENT = 22
#: How many fields of a record are remembered, to guess the order of the next record's fields.
_PLACES = 32

# Classes of bytes inside a string.
_PLAIN, _QUOTE, _HIGH, _STOP = range(4)
_CLASS = np.zeros(256, np.uint8)
_CLASS[:0x20] = _STOP
_CLASS[ord("\\")] = _STOP
_CLASS[ord('"')] = _QUOTE
_CLASS[0x80:] = _HIGH


class FieldNames:
    """Names of the fields of interest, in the form that the scanner needs."""

    def __init__(self, names: Sequence[str]) -> None:
        packed = [name.encode() for name in names]
        self.count = len(packed)
        # Eight bytes more, so that names can be compared a word at a time.
        self.names = np.frombuffer(b"".join(packed) + bytes(8), np.uint8)
        self.ends = np.cumsum([0, *map(len, packed)])


def scan(records: RecordColumns, fields: FieldNames) -> tuple[npt.NDArray[np.void], npt.NDArray[np.bool_]]:
    """Tokens (n, fields) of each record, and which records (n,) the scanner accepts."""
    n = len(records)
    tokens = np.empty((n, fields.count), TOKEN)
    good = np.empty(n, np.bool_)
    spans = records.spans
    # Allocated here: compiled code would free its own array too early, since a pointer does not count as a use.
    order = np.zeros(_PLACES, np.int64)
    at, size = contiguous(spans["value_at"], spans["value_bytes"])
    _scan(records.data, at, size, fields.names, fields.ends, tokens, good, order)
    return tokens, good


@jit
def _space(data, i, end):  # type: ignore[no-untyped-def]
    while i < end and (data[i] == 32 or data[i] == 10 or data[i] == 13 or data[i] == 9):
        i += 1
    return i


@jit
def _is_utf8(data, i, end):  # type: ignore[no-untyped-def]
    """Whether the bytes are well-formed UTF-8. Source: the Unicode standard, table 3-7."""
    while i < end:
        b = data[i]
        i += 1
        if b < 0x80:
            continue
        if b < 0xC2 or b > 0xF4:
            return False
        more = 1 if b < 0xE0 else (2 if b < 0xF0 else 3)
        if i + more > end:
            return False
        low, high = 0x80, 0xBF
        if b == 0xE0:
            low = 0xA0
        elif b == 0xED:
            high = 0x9F
        elif b == 0xF0:
            low = 0x90
        elif b == 0xF4:
            high = 0x8F
        if data[i] < low or data[i] > high:
            return False
        for j in range(i + 1, i + more):
            if data[j] < 0x80 or data[j] > 0xBF:
                return False
        i += more
    return True


@jit
def _string(data, i, end):  # type: ignore[no-untyped-def]
    """The position of the closing quote of a string whose first byte is at i; -1 if it is not accepted."""
    start = i
    high = False
    while i < end:
        c = _CLASS[data[i]]
        if c == _PLAIN:
            i += 1
        elif c == _QUOTE:
            return -1 if high and not _is_utf8(data, start, i) else i
        elif c == _HIGH:
            high = True
            i += 1
        else:
            return -1
    return -1


@jit
def _number(data, i, end):  # type: ignore[no-untyped-def]
    """(position after a number, its token type), or (-1, 0). Grammar: RFC 8259, section 6."""
    if data[i] == 45:
        i += 1
    first = i
    while i < end and 48 <= data[i] <= 57:
        i += 1
    digits = i - first
    if digits == 0 or (digits > 1 and data[first] == 48):
        return -1, ABSENT
    token_type = INTEGER
    if i < end and data[i] == 46:
        token_type = NUMBER
        i += 1
        point = i
        while i < end and 48 <= data[i] <= 57:
            i += 1
        if i == point:
            return -1, ABSENT
        digits += i - point
    if i < end and (data[i] == 69 or data[i] == 101):
        token_type = NUMBER
        i += 1
        if i < end and (data[i] == 43 or data[i] == 45):
            i += 1
        point = i
        exponent = 0
        while i < end and 48 <= data[i] <= 57 and i - point < 4:
            exponent = exponent * 10 + (data[i] - 48)
            i += 1
        if i == point or exponent > _MAX_EXPONENT:
            return -1, ABSENT
    if digits > MAX_DIGITS:
        return -1, ABSENT
    return i, token_type


@jit
def _word(data, i, end):  # type: ignore[no-untyped-def]
    """(position after true, false or null, its token type), or (-1, 0)."""
    if i + 4 <= end and data[i] == 116 and data[i + 1] == 114 and data[i + 2] == 117 and data[i + 3] == 101:
        return i + 4, BOOLEAN
    if i + 4 <= end and data[i] == 110 and data[i + 1] == 117 and data[i + 2] == 108 and data[i + 3] == 108:
        return i + 4, NULL
    if (
        i + 5 <= end
        and data[i] == 102
        and data[i + 1] == 97
        and data[i + 2] == 108
        and data[i + 3] == 115
        and data[i + 4] == 101
    ):
        return i + 5, BOOLEAN
    return -1, ABSENT


@jit
def _scalar(data, i, end):  # type: ignore[no-untyped-def]
    """(position after a string, number or word, its token type), or (-1, 0)."""
    if i >= end:
        return -1, ABSENT
    b = data[i]
    if b == 34:
        close = _string(data, i + 1, end)
        return (-1, ABSENT) if close < 0 else (close + 1, STRING)
    if b == 45 or 48 <= b <= 57:
        return _number(data, i, end)
    return _word(data, i, end)


@jit
def _name(data, i, end):  # type: ignore[no-untyped-def]
    """The position of the value after a name and its colon; the name begins at i. -1 if this is not accepted."""
    if i >= end or data[i] != 34:
        return -1
    i = _string(data, i + 1, end)
    if i < 0:
        return -1
    i = _space(data, i + 1, end)
    if i >= end or data[i] != 58:
        return -1
    return _space(data, i + 1, end)


@jit
def _nested(data, i, end):  # type: ignore[no-untyped-def]
    """The position after an object or an array that begins at i, or -1."""
    levels = np.uint64(0)  # a bit for each level, the innermost last: 1 for an object
    depth = 0
    while True:
        # A value begins at i.
        if i >= end:
            return -1
        opening = data[i]
        if opening == 123 or opening == 91:
            if depth == MAX_DEPTH:
                return -1
            depth += 1
            levels = levels << np.uint64(1) | np.uint64(opening == 123)
            i = _space(data, i + 1, end)
            closes = i < end and data[i] == opening + 2
            if not closes:
                if opening == 123:
                    i = _name(data, i, end)
                    if i < 0:
                        return -1
                continue
        else:
            i, _ = _scalar(data, i, end)
            if i < 0:
                return -1
            i = _space(data, i, end)
        # At i there is a comma, or what closes one or more levels.
        while i < end and data[i] == (125 if levels & np.uint64(1) else 93):
            depth -= 1
            levels >>= np.uint64(1)
            if depth == 0:
                return i + 1
            i = _space(data, i + 1, end)
        if i >= end or data[i] != 44:
            return -1
        i = _space(data, i + 1, end)
        if levels & np.uint64(1):
            i = _name(data, i, end)
            if i < 0:
                return -1


@jit
def _field(data, at, size, names, ends, fields, guess):  # type: ignore[no-untyped-def]
    """The field with this name, -1 for none; `guess` is tried first."""
    for j in range(fields):
        f = guess + j
        if f >= fields:
            f -= fields
        if ends[f + 1] - ends[f] == size and same_bytes(data, at, names, ends[f], size):
            return f
    return -1


@jit
def _object(data, start, end, names, ends, fields, order, tokens):  # type: ignore[no-untyped-def]
    """Fills the tokens of one record; returns whether the scanner accepts it.

    `order`: the field at each place of the record before, as a first guess.
    """
    for f in range(fields):
        tokens[f].token_type = ABSENT
        tokens[f].size = 0
    i = _space(data, start, end)
    if i >= end or data[i] != 123:
        return False
    i = _space(data, i + 1, end)
    place = 0
    while True:
        if i >= end or data[i] != 34:
            return False
        name = i + 1
        i = _string(data, name, end)
        if i < 0:
            return False
        guess = order[place] if place < _PLACES else 0
        f = _field(data, name, i - name, names, ends, fields, guess)
        if f >= 0 and place < _PLACES:
            order[place] = f
        place += 1
        # The colon is not shared with `_name`: a common function made the scanner a tenth slower.
        i = _space(data, i + 1, end)
        if i >= end or data[i] != 58:
            return False
        at = _space(data, i + 1, end)
        if at < end and (data[at] == 123 or data[at] == 91):
            i, token_type = _nested(data, at, end), NESTED
        else:
            i, token_type = _scalar(data, at, end)
        if i < 0:
            return False
        if f >= 0:
            token = tokens[f]
            if token.token_type != ABSENT:
                return False
            token.token_type = token_type
            token.at = at - start + (1 if token_type == STRING else 0)
            token.size = i - at - (2 if token_type == STRING else 0)
        i = _space(data, i, end)
        if i >= end:
            return False
        if data[i] == 125:
            return _space(data, i + 1, end) == end
        if data[i] != 44:
            return False
        i = _space(data, i + 1, end)


@jit
def _scan(data, at, size, names, ends, tokens, good, order):  # type: ignore[no-untyped-def]
    bytes_, texts, borders, guesses = pointer_to(data), pointer_to(names), pointer_to(ends), pointer_to(order)
    fields = len(ends) - 1
    for n in range(len(at)):
        good[n] = size[n] > 0 and _object(
            bytes_, at[n], at[n] + size[n], texts, borders, fields, guesses, tokens[n]
        )


@jit
def integer(data, at, size):  # type: ignore[no-untyped-def]
    """The value of an INTEGER token; `data` is a pointer."""
    i = at + 1 if data[at] == 45 else at
    value = np.int64(0)
    while i < at + size:
        value = value * 10 + (np.int64(data[i]) - 48)
        i += 1
    return -value if data[at] == 45 else value


@jit
def number(data, at, size):  # type: ignore[no-untyped-def]
    """(the value of an INTEGER or NUMBER token, whether it is exactly what a correct parser returns).

    `data` is a pointer. The digits as an integer below 2^53 and a power of ten up to 1e22 are both exact, so one
    multiplication or division rounds correctly. Source: Clinger, "How to read floating point numbers accurately"
    (1990), the fast path.
    """
    i = at
    end = at + size
    negative = data[i] == 45
    if negative:
        i += 1
    digits = np.int64(0)
    scale = np.int64(0)
    while i < end and 48 <= data[i] <= 57:
        digits = digits * 10 + (np.int64(data[i]) - 48)
        i += 1
    if i < end and data[i] == 46:
        i += 1
        while i < end and 48 <= data[i] <= 57:
            digits = digits * 10 + (np.int64(data[i]) - 48)
            scale -= 1
            i += 1
    if i < end:  # the exponent
        i += 1
        sign = 1
        if data[i] == 45:
            sign = -1
            i += 1
        elif data[i] == 43:
            i += 1
        exponent = np.int64(0)
        while i < end:
            exponent = exponent * 10 + (np.int64(data[i]) - 48)
            i += 1
        scale += sign * exponent
    value = np.float64(digits)
    exact = digits < 9007199254740992 and -_MAX_EXPONENT <= scale <= _MAX_EXPONENT
    power = 1.0
    left = min(abs(int(scale)), _MAX_EXPONENT)
    while left > 0:
        power *= 10.0
        left -= 1
    value = value * power if scale >= 0 else value / power
    return (-value if negative else value), exact
