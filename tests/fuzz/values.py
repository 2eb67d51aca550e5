"""Values of input records: events, almost valid events and damaged ones, in JSON and msgpack."""

import json
import random
import struct
from collections.abc import Iterator

import msgspec

from stream_app.contract.events import MAX_PRICE, MAX_QUANTITY, MAX_TS_MS, MAX_VALUE_BYTES, MIN_TS_MS, Event
from stream_app.contract.received import RECEIVED_HEADER
from stream_app.contract.records import Headers
from tests.fuzz.mutate import mutate

T0 = 1_767_225_660_000
FIELDS = [f.name for f in msgspec.structs.fields(Event)]

_TEXTS = ["", "u", "i", "7", "-0", "ü", "€", "😀", "a" * 31, "a" * 127, "a" * 128, "a" * 129, "ü" * 64, "ü" * 65,
          "€" * 43, "😀" * 32, "😀" * 33, "null", "\x7f", "a" * 256, "a" * 257, "ü" * 128, "ü" * 129]  # fmt: skip
_RAW_TEXTS = [rb'"a\nb"', rb'"\u00e9"', rb'"\ud83d\ude00"', rb'"\ud800"', rb'"\udc00\ud800"', rb'"\/"', rb'"\x"',
              b'"\x01"', b'"\xff"', b'"\xc3"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xc0\x80"', b'"open',
              b'"\xe2\x82\xac\xe2"', b'"' + b"\xf0\x9f\x98\x80" * 32 + b'"']  # fmt: skip
_LIMITS = sorted({x + d for x in (0, 2**31, 2**32, 2**53, 2**63, 2**64, 10**17, 10**18, 10**19, MIN_TS_MS, MAX_TS_MS,
                                  MAX_QUANTITY, int(MAX_PRICE), T0, T0 + 300_000) for d in (-1, 0, 1)})  # fmt: skip
_NUMBERS = [b"-0", b"-0.0", b"00", b"01", b"1.", b".5", b"1e5", b"1E+5", b"1e-5", b"1e22", b"1e23", b"1e-22",
            b"1e-23", b"1e308", b"1e309", b"-1e400", b"1e-400", b"1e", b"1e+", b"+1", b"1_0", b"0x1", b"NaN",
            b"Infinity", b"9007199254740993", b"0.1", b"1.10", b"1000000000000000.1", b"0.30000000000000004",
            b"123456789012345678901234567890", b"1.7976931348623157e308", b"5e-324", b"--1", b"2.0", b"2e0", b"20e-1",
            b"1767225660000.0", b"1.76722566e12", b"1767225660000.5", b"1767225660.25", b"99999999999.0", b"-2.0",
            b"2147483647.0", b"2147483648.0", b"9007199254740992.0", b"253402300799999.0"]  # fmt: skip
_OTHERS = [b"true", b"false", b"null", b"nul", b"tru", b"True", b"[]", b"{}", b"[1]", b'{"a":1}', b'{"a":null}',
           b'{"a":{}}', b'{"a":[]}', b'{"a":"b","c":true,"d":-1.5}', b'{"a":1,}', b'{"a":1,"a":2}', b'{a:1}',
           b'{"a" : "\xc3\xbc" }', b'{1:2}', b"", b" ", b'{"b":1e999}', b'{"b":184467440737095516160}',
           b"[" * 40 + b"]" * 40, b'{"a":' * 30 + b"1" + b"}" * 30]  # fmt: skip
_SPACES = [b" ", b"\n", b"\t\r ", b"\x0b", b"\xc2\xa0", b"\xef\xbb\xbf"]
_NAMES = [b'"%b"' % name.encode() for name in FIELDS] + [
    b'"other"', b'"user"', b'"user_idx"', b'""', b'"user\\u005fid"', b'"ts\\u0000"', b'"\xff"', b"ts",
]  # fmt: skip

_USERS = ["u", "u", "u17", "ü", "a" * 128, "a" * 129, "😀" * 32]
_JSON_USERS = [(b'"user_id":"%b"' % u.encode(), u.encode()) for u in _USERS] + [
    (b'"user_id":"\\u0075"', b"u"), (b'"user_id":7', b"7"), (b'"user_id":""', b""), (b'"user_id":null', b"u"),
    (b'"user_id":-0', b"0"), (b'"user_id":-0', b"-0"), (b'"user_id":-7', b"-7"), (b'"user_id":7.0', b"7"),
    (b'"user_id":18446744073709551616', b"18446744073709551616"), (b'"user_id":true', b"true"),
]  # fmt: skip
_JSON_VALUES = (
    [json.dumps(t, ensure_ascii=False).encode() for t in _TEXTS]
    + _RAW_TEXTS
    + [b"%d" % x for x in _LIMITS]
    + [b"-%d" % x for x in _LIMITS]
    + _NUMBERS
    + _OTHERS
)


#: A valid value for each field.
_GOOD: dict[str, list[object]] = {
    "user_id": ["u"], "ts": [T0, T0 + 1, 0], "item_id": ["i", "ü", 7, -7, 2**63],
    "category_id": ["c", "", 7, -7, None], "event_id": ["e", "", "a" * 128, 5, None],
    "position": [0, 2**40, None, "x"],
    "sent_at": [T0, T0 + 5, T0 - 70_000, float(T0), None],
    "price": [0, 19.9, 1e15, 0.1, 5e-324, None], "quantity": [1, 2.0, MAX_QUANTITY, None], "currency": ["EUR", 5],
    "props": [{"a": 1, "b": True, "c": "d", "e": 0.5, "f": None}, {"a": [1, {}]}, [], {}, None],
}  # fmt: skip
_GOOD_PAIRS = [
    (name, value) for name in FIELDS[1:] for value in _GOOD.get(name, ["text", "ü", "", None]) if name != "ts"
]
_GOOD_JSON = [b'"%b":%b' % (name.encode(), msgspec.json.encode(value)) for name, value in _GOOD_PAIRS]


_HEADER_NAMES = [
    RECEIVED_HEADER,
    RECEIVED_HEADER,
    RECEIVED_HEADER[:-1] + "e",
    RECEIVED_HEADER + " ",
    "",
    "x" * 200,
]
_HEADER_VALUES = [
    *(b"%d" % x for x in (T0, T0 + 99_999, T0 + 100_001, T0 - 299_999, 1, 0, 10**15 - 1, 10**15, 2**63)),
    *(b"", b"-1", b"+5", b"1.0", b" 1", b"0" * 15, b"0" * 16, b"1_0", b"\xb9", b"\xd9\xa1", b"x" * 300),
    None,
]  # fmt: skip


def _packed(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def _packed_numbers() -> Iterator[bytes]:
    for x in _LIMITS:
        if 0 <= x < 2**64:
            yield b"\xcf" + struct.pack(">Q", x)
            yield _packed(x)
        if x <= 2**63:
            yield b"\xd3" + struct.pack(">q", -x)
    for double in (0.0, -0.0, 0.1, 1e15, 1e15 + 1, 1e308, float("inf"), float("nan"), -1.0, 1.0, 5e-324):
        yield b"\xcb" + struct.pack(">d", double)
    for single in (0.0, 0.5, float("inf"), float("nan")):
        yield b"\xca" + struct.pack(">f", single)


_GOOD_PACKED = [_packed(name) + _packed(value) for name, value in _GOOD_PAIRS]
_PACKED_TEXTS = [_packed(t) for t in _TEXTS] + [
    b"\xd9\x01u", b"\xda\x00\x01u", b"\xdb\x00\x00\x00\x01u", b"\xdb\xff\xff\xff\xffu", b"\xc4\x01u", b"\xa1\xff",
    b"\xa3\xed\xa0\x80", b"\xda\xff\xffu",
]  # fmt: skip
_PACKED_VALUES = [
    *_PACKED_TEXTS, *_packed_numbers(), b"\xc0", b"\xc1", b"\xc2", b"\xc3", b"\x80", b"\x90", b"\x81\xa1a\x01",
    b"\x81\xa1a\xc0", b"\x81\xa1a\x80", b"\x81\x01\x02", b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff",
    b"\xd6\xff" + bytes(4), b"\xc7\xff\x01", b"\x91" * 40 + b"\x01", b"\x81\xa1a" * 30 + b"\x01", b"",
]  # fmt: skip
_PACKED_NAMES = [_packed(name) for name in FIELDS] + [
    _packed("other"),
    b"\xa0",
    b"\x07",
    b"\xa2\xff\xff",
    b"\xc0",
]
_PACKED_USERS = [(_packed("user_id") + _packed(u), u.encode()) for u in _USERS] + [
    (_packed("user_id") + b"\x07", b"7"), (b"\xc4\x07user_id\xa1u", b"u"), (b"\xd9\x07user_id\xa1u", b"u"),
]  # fmt: skip


class Values:
    """An endless, seeded stream of (key, value) of input records."""

    def __init__(self, seed: str) -> None:
        self._draw = random.Random(seed)
        self._last = b'{"user_id":"u","ts":1}'

    def some(self, n: int) -> list[tuple[bytes | None, bytes | None]]:
        """Return the next n."""
        return [self._one() for _ in range(n)]

    def times(self, n: int) -> list[int]:
        """Return append times (n,): most of them close to the events' own times, some at the limits."""
        far = (0, -1, T0 - 300_000, 2**63 - 1, 2**63 - 300_000, -(2**63), -(2**63) + 300_000)
        return self._draw.choices((T0 + 100_000,) * 60 + far, k=n)

    def headers(self, n: int) -> list[Headers]:
        """Return headers (n,) of records: mostly none, otherwise valid or almost valid received times."""
        draw = self._draw
        return [
            tuple(
                (draw.choice(_HEADER_NAMES), draw.choice(_HEADER_VALUES)) for _ in range(draw.randrange(1, 4))
            )
            if draw.random() < 0.2
            else ()
            for _ in range(n)
        ]

    def _one(self) -> tuple[bytes | None, bytes | None]:
        draw = self._draw
        key, value = self._json() if draw.random() < 0.7 else self._msgpack()
        kept: bytes | None = key
        while draw.random() < 0.25:
            value = mutate(value, draw, self._last)
        rare = draw.random()
        if rare < 0.0002:
            return self._rare(value)
        if rare > 0.97:
            kept = draw.choice((None, b"", b"other", mutate(key, draw)))
        self._last = value
        return kept, value

    def _json(self) -> tuple[bytes, bytes]:
        draw = self._draw
        user, key = draw.choice(_JSON_USERS) if draw.random() < 0.3 else _JSON_USERS[0]
        pieces = [
            user,
            b'"ts":%d' % (T0 + draw.randrange(-9, 400_000)),
            b'"item_id":"i%d"' % draw.randrange(99),
        ]
        if draw.random() < 0.1:
            del pieces[draw.randrange(3)]
        pieces += draw.sample(_GOOD_JSON, draw.randrange(4))
        if draw.random() < 0.4:
            pieces.append(b"%b:%b" % (draw.choice(_NAMES), draw.choice(_JSON_VALUES)))
        if draw.random() < 0.1:
            pieces.append(b'"price":' + self._number())
        if draw.random() < 0.3:
            draw.shuffle(pieces)
        if draw.random() < 0.2:
            space = draw.choice(_SPACES)
            return key, space + b"{" + (b"," + space).join(pieces).replace(
                b":", b":" + space, 2
            ) + b"}" + space
        return key, b"{%b}" % b",".join(pieces)

    def _number(self) -> bytes:
        """Return a number of any length, with any point and exponent."""
        draw = self._draw
        digits = b"%d" % draw.getrandbits(draw.randrange(1, 66))
        point = draw.randrange(len(digits) + 3)
        if 0 < point < len(digits):
            digits = digits[:point] + b"." + digits[point:]
        return digits + b"e%d" % draw.randrange(-25, 25) if draw.random() < 0.3 else digits

    def _msgpack(self) -> tuple[bytes, bytes]:
        draw = self._draw
        user, key = draw.choice(_PACKED_USERS) if draw.random() < 0.3 else _PACKED_USERS[0]
        time = b"\xcf" + struct.pack(">Q", T0 + draw.randrange(-9, 400_000))
        pieces = [user, b"\xa2ts" + time, b"\xa7item_id\xa2i%d" % draw.randrange(10)]
        if draw.random() < 0.1:
            del pieces[draw.randrange(3)]
        pieces += draw.sample(_GOOD_PACKED, draw.randrange(4))
        if draw.random() < 0.4:
            pieces.append(draw.choice(_PACKED_NAMES) + draw.choice(_PACKED_VALUES))
        if draw.random() < 0.3:
            draw.shuffle(pieces)
        count = len(pieces) + (draw.randrange(-1, 2) if draw.random() < 0.05 else 0)
        heads = b"%c" % (0x80 | count), struct.pack(">BH", 0xDE, count), struct.pack(">BI", 0xDF, count)
        return key, draw.choice(heads) + b"".join(pieces)

    def _rare(self, value: bytes) -> tuple[bytes | None, bytes | None]:
        """Return a costly value: none, one at the limit of sizes, deep nesting, or thousands of digits."""
        draw = self._draw
        pad = MAX_VALUE_BYTES - len(value) - 7 + draw.randrange(-2, 3)
        depth = draw.randrange(1, 30_000)
        return b"u", draw.choice(
            (
                None,
                b"",
                b"{%b" % (b'"q":"%b",' % (b"q" * pad)) + value[1:],
                b'{"user_id":"u","ts":1,"x":%b%b}' % (b"[" * depth, b"]" * depth),
                b'{"user_id":"u","ts":1,"props":%b1%b}' % (b'{"a":' * (depth // 3), b"}" * (depth // 3)),
                b"\x83\xa7user_id\xa1u\xa2ts\x01\xa1x%b\x01" % (b"\x91" * depth),
                b'{"user_id":"u","ts":%b}' % (b"9" * draw.randrange(17, 6000)),
                draw.randbytes(draw.randrange(1, 200)),
            )
        )
