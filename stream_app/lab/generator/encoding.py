"""Encodes events as bytes: keys and values that follow the wire contract, and values that break it."""

import msgspec
import numpy as np

from stream_app.contract.events import MAX_VALUE_BYTES
from stream_app.contract.partitioner import partitions_of
from stream_app.contract.records import PURCHASE
from stream_app.lab.generator.columns import LISTINGS, EventRows
from stream_app.lab.generator.people import COUNTRIES, DEVICES, People
from stream_app.lab.generator.settings import GeneratorSettings
from stream_app.lab.generator.trouble import FAULTS

#: Added to the time of an event from the future, so that it is invalid at any time of replay.
CENTURIES_MS = 300 * 365 * 86_400_000
_NOUNS = ("shoes", "jacket", "lamp", "phone", "bag", "watch", "chair", "book", "tent", "bike", "pan", "game")
_KINDS = ("", "red ", "cheap ", "small ", "new ", "summer ", "gift ")


class Wire(msgspec.Struct, omit_defaults=True, gc=False):
    """An event as it is sent; fields with the value None are omitted."""

    event_id: str
    user_id: str
    ts: int
    item_id: str | None = None
    category_id: str | None = None
    session_id: str | None = None
    order_id: str | None = None
    list_id: str | None = None
    query: str | None = None
    position: int | None = None
    price: float | None = None
    currency: str | None = None
    quantity: int | None = None
    props: dict[str, str] | None = None


class EventEncoder:
    """Turns rows into keys and values; computes all names once."""

    def __init__(self, settings: GeneratorSettings, people: People) -> None:
        catalogue = people.catalogue
        everyone = people.users + people.bots
        categories = len(catalogue.border) - 1
        self._users = [f"u{i}" for i in range(everyone)]
        self._keys = [name.encode() for name in self._users]
        self.partition = partitions_of(self._keys, settings.partitions)  # (U + bots,)
        # Index -1 ("none") reads the last entry of each table.
        self._items = [*(f"i{i}" for i in range(len(catalogue.category))), None]
        self._categories = [f"c{i}" for i in range(categories)]
        self._prices = [*catalogue.price.tolist(), None]
        words = [kind + noun for kind in _KINDS for noun in _NOUNS]
        self._queries = [*(words[i % len(words)] for i in range(categories)), None]
        self._lists = [*LISTINGS, None]
        self._props = [{"device": device, "country": country} for device in DEVICES for country in COUNTRIES]
        self._seed = f"{settings.seed:x}"
        self._json = msgspec.json.Encoder()
        self._msgpack = msgspec.msgpack.Encoder()

    def event_ids(self, events: EventRows) -> list[str]:
        """Return ids (n,) that no other seed gives."""
        seed = self._seed
        return [f"e{seed}-{n:x}" for n in events["serial"].tolist()]

    def users(self, events: EventRows) -> list[str]:
        """Return user ids (n,)."""
        table = self._users
        return [table[i] for i in events["user"].tolist()]

    def encode(self, events: EventRows) -> tuple[list[bytes], list[bytes]]:
        """Return keys and values (n,), JSON or msgpack as each row says."""
        wires = self._wires(events)
        json, packed = self._json.encode, self._msgpack.encode
        values = [
            packed(wire) if pack else json(wire)
            for wire, pack in zip(wires, events["msgpack"].tolist(), strict=True)
        ]
        keys = [self._keys[i] for i in events["user"].tolist()]
        names = tuple(FAULTS)
        for i in np.flatnonzero(events["fault"] >= 0).tolist():
            keys[i], values[i] = self._spoil(names[events["fault"][i]], keys[i], wires[i])
        return keys, values

    def _wires(self, events: EventRows) -> list[Wire]:
        seed = self._seed
        items, categories, prices, props = self._items, self._categories, self._prices, self._props
        queries, lists = self._queries, self._lists
        look = (events["device"].astype(np.int32) * len(COUNTRIES) + events["country"]).tolist()
        columns = (
            self.event_ids(events),
            self.users(events),
            events["ts"].tolist(),
            events["item"].tolist(),
            events["category"].tolist(),
            events["session"].tolist(),
            events["listing"].tolist(),
            events["query"].tolist(),
            events["position"].tolist(),
            look,
        )
        wires = [
            Wire(
                event_id,
                user,
                ts,
                items[item],
                categories[category],
                f"s{seed}-{session:x}",
                None,
                lists[listing],
                queries[query],
                position if position >= 0 else None,
                prices[item],
                None,
                None,
                props[p],
            )
            for event_id, user, ts, item, category, session, listing, query, position, p in zip(
                *columns, strict=True
            )
        ]
        for i in np.flatnonzero(events["event_type"] == PURCHASE).tolist():
            wire = wires[i]
            wire.order_id = f"o{wire.session_id}-{events['order'][i]}"
            wire.currency = "EUR"
            wire.quantity = int(events["quantity"][i])
        return wires

    def _spoil(self, fault: str, key: bytes, wire: Wire) -> tuple[bytes, bytes]:
        """Return key and value of a record with the fault."""
        fields = {name: value for name, value in msgspec.structs.asdict(wire).items() if value is not None}
        match fault:
            case "broken_json":
                return key, self._json.encode(fields)[:-7]
            case "broken_msgpack":
                return key, self._msgpack.encode(fields)[:-3]
            case "invalid_utf8":
                return key, self._json.encode(fields).replace(b'"user_id":"', b'"user_id":"\xff\xfe', 1)
            case "empty":
                return key, b""
            case "missing_user":
                del fields["user_id"]
            case "missing_time":
                del fields["ts"]
            case "wrong_type":
                fields["ts"] = f"{wire.ts} ms"
            case "negative_price":
                fields["price"] = -(wire.price or 1.0)
            case "too_large":
                fields["props"] = {"note": "x" * MAX_VALUE_BYTES}
            case "future_time":
                fields["ts"] = wire.ts + CENTURIES_MS
            case "other_key":
                return b"not-" + key, self._json.encode(fields)
            case _:
                raise ValueError(f"no such fault: {fault}")
        return key, self._json.encode(fields)
