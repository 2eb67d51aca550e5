"""Taobao's UserBehavior.csv: user, item, category, behaviour, Unix seconds, without a header.

| behaviour | becomes | why |
|---|---|---|
| pv | click on the item | the page of an item was opened |
| cart, fav | browse with the item, `props.action` = "cart" or "fav" | interest, but no new item page |
| buy | purchase | the data set has neither price nor quantity |
"""

from stream_app.contract.events import MAX_ID_BYTES
from stream_app.recordings.importers.lines import Row, in_range, number_id, shown

_BEHAVIOURS = {
    b"pv": ("clicks", b""),
    b"cart": ("browses", b',"props":{"action":"cart"}'),
    b"fav": ("browses", b',"props":{"action":"fav"}'),
    b"buy": ("purchases", b""),
}


def row(line: bytes) -> Row:
    """Return the event of a line. Raises ValueError for a line that does not describe one."""
    fields = line.split(b",")
    if len(fields) != 5:
        raise ValueError(f"expected user,item,category,behaviour,seconds, not {shown(line)}")
    user, item, category, behaviour, seconds = fields
    if behaviour not in _BEHAVIOURS:
        raise ValueError(f"the behaviour must be pv, cart, fav or buy, not {shown(behaviour)}")
    topic, props = _BEHAVIOURS[behaviour]
    digits = b"".join((user, item, category, seconds))
    if not (digits.isdigit() and len(line) < MAX_ID_BYTES and all(fields)):
        # This is rare: find the field that is wrong, or accept a line that is long but valid.
        for name, field in (("user", user), ("item", item), ("category", category), ("time", seconds)):
            number_id(field, f"the {name}")
    ts = in_range(int(seconds) * 1000)
    value = b'{"user_id":"%b","ts":%d,"item_id":"%b","category_id":"%b"%b}' % (
        user,
        ts,
        item,
        category,
        props,
    )
    return Row(ts, topic, user, value)
