"""When the shop's record was first stored, which is what limits how far ahead an event's own time counts.

That is the record's Kafka timestamp, lowered by the header `foreclick.received`. Whatever passes records on, such as
`replay`, attaches the header, so that a copy counts at the time of its original. A header can only lower the time:
a producer gains nothing by it. A Kafka timestamp of -1 or 0 stands for none.
"""

from stream_app.contract.records import Headers, Record

#: Unix milliseconds as decimal text, 1 to 15 digits; anything else is ignored.
RECEIVED_HEADER = "foreclick.received"
#: Where nobody knows when a record was stored.
UNKNOWN = 0
#: Most digits of a time.
DIGITS = 15


def received_of(record: Record) -> int:
    """Unix ms at which the record was first stored, UNKNOWN where neither its timestamp nor a header says it."""
    known = max(record.timestamp, UNKNOWN)
    for name, value in record.headers:
        if name == RECEIVED_HEADER and value and len(value) <= DIGITS and value.isdigit():
            known = lower(known, int(value))
    return known


def with_received(record: Record) -> Headers:
    """The record's headers, with one that says when it was first stored; unchanged where that is not known."""
    received = received_of(record)
    if received == UNKNOWN:
        return record.headers
    others = tuple(each for each in record.headers if each[0] != RECEIVED_HEADER)
    return (*others, (RECEIVED_HEADER, str(received).encode()))


def lower(known: int, carried: int) -> int:
    """The earlier of two times of which each may be UNKNOWN."""
    return carried if carried > UNKNOWN and (known == UNKNOWN or carried < known) else known
