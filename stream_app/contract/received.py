"""The received time: when a record was first stored. An event's own time counts only up to this time.

It is the record's Kafka timestamp, or the time in the header `foreclick.received` if that is earlier. Commands that
copy records, such as `replay`, attach the header, so that a copy counts at the time of its original. A header can
only lower the time, so a producer gains nothing by it. A Kafka timestamp of -1 or 0 means that there is none.
"""

from stream_app.contract.records import Headers, Record

#: Unix milliseconds as decimal text, 1 to 15 digits; anything else is ignored.
RECEIVED_HEADER = "foreclick.received"
#: The time if it is not known when a record was stored.
UNKNOWN = 0
#: The most digits of a time.
DIGITS = 15


def received_of(record: Record) -> int:
    """Unix ms at which the record was first stored, UNKNOWN if neither its timestamp nor a header says so."""
    known = max(record.timestamp, UNKNOWN)
    for name, value in record.headers:
        if name == RECEIVED_HEADER and value and len(value) <= DIGITS and value.isdigit():
            known = lower(known, int(value))
    return known


def with_received(record: Record) -> Headers:
    """The record's headers with one that says when it was first stored; unchanged if that is not known."""
    received = received_of(record)
    if received == UNKNOWN:
        return record.headers
    others = tuple(each for each in record.headers if each[0] != RECEIVED_HEADER)
    return (*others, (RECEIVED_HEADER, str(received).encode()))


def lower(known: int, carried: int) -> int:
    """The earlier of two times, each of which may be UNKNOWN."""
    return carried if carried > UNKNOWN and (known == UNKNOWN or carried < known) else known
