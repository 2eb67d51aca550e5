"""What the trackers of vendors send is read by the presets: their packages run here and send to a server of ours."""

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stream_app.decoding.mapped import Invalid, MappedEvent, Skipped, map_value
from stream_app.settings.shop_file import load_preset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: They need other versions of packages than the tests do, so each gets an environment of its own.
TRACKERS = {
    "segment": ("segment-analytics-python==2.4.0", "import segment.analytics as analytics"),
    "rudder": ("rudder-sdk-python==2.1.9", "import rudderstack.analytics as analytics"),
}
SENDING = """
import sys
address, calls = sys.argv[1], sys.argv[2]
analytics.write_key = "key"
analytics.host = analytics.dataPlaneUrl = address
analytics.sync_mode = True
analytics.max_retries = 0
def failed(error, items):
    raise SystemExit(f"not sent: {error}")
analytics.on_error = failed
import json
for method, words in json.loads(calls):
    getattr(analytics, method)(**words)
"""
LINES = [
    {"product_id": "p1", "price": 19.5, "quantity": 2},
    {"product_id": "p2", "category": "Games", "price": 5},
]
CALLS = [
    ("identify", {"user_id": "u1", "traits": {"plan": "free"}}),
    ("page", {"user_id": "u1", "category": "Docs", "name": "Start"}),
    ("track", {"user_id": "u1", "event": "Products Searched", "properties": {"query": "blue shoes"}}),
    (
        "track",
        {"user_id": "u1", "event": "Product List Viewed", "properties": {"list_id": "l", "products": LINES}},
    ),
    ("track", {"user_id": "u1", "event": "Product Viewed", "properties": {**LINES[0], "currency": "EUR"}}),
    ("track", {"user_id": "u1", "event": "Product Added", "properties": {"sku": "p1"}}),
    (
        "track",
        {"user_id": "u1", "event": "Order Completed", "properties": {"order_id": "o", "products": LINES}},
    ),
    ("track", {"anonymous_id": "a1", "event": "Product Viewed", "properties": {"product_id": "p3"}}),
]


class Collector(ThreadingHTTPServer):
    """A server on this machine that keeps the messages of all requests."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> str:
        """Where a tracker sends to."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.messages += json.loads(body)["batch"]
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: Any) -> None:
        """Nothing to the terminal."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A server that runs while the test does."""
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


@pytest.mark.parametrize("name", TRACKERS)
def test_what_a_tracker_sends_is_read(name: str, collector: Collector, tmp_path: Path) -> None:
    """Each call becomes the event that the page of the preset names, with the tracker's own ids and times."""
    package, imports = TRACKERS[name]
    uv, python = [sys.executable, "-m", "uv"], tmp_path / "venv" / "bin" / "python"
    for command in (
        [*uv, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv")],
        [*uv, "pip", "install", "--quiet", "--python", str(python), package],
        [str(python), "-c", f"{imports}\n{SENDING}", collector.address, json.dumps(CALLS)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    mapping = load_preset("segment").topic(None)
    found = [each for message in collector.messages for each in map_value(message, mapping)]
    assert [each for each in found if isinstance(each, Invalid)] == []
    assert [each.name for each in found if isinstance(each, Skipped)] == [
        "identify", "Product List Viewed", "Product List Viewed",
    ]  # fmt: skip
    events = [each for each in found if isinstance(each, MappedEvent)]
    assert [(e.event_type, e.event.user_id, e.event.item_id) for e in events] == [
        ("browse", "u1", None), ("browse", "u1", None), ("click", "u1", "p1"), ("browse", "u1", "p1"),
        ("purchase", "u1", "p1"), ("purchase", "u1", "p2"), ("click", "a1", "p3"),
    ]  # fmt: skip
    assert events[1].event.query == "blue shoes"
    assert (events[2].event.price, events[2].event.quantity, events[2].event.currency) == (19.5, 2, "EUR")
    assert (events[5].event.category_id, events[5].event.order_id) == ("Games", "o")
    ids = [e.event.event_id for e in events]
    assert len(set(ids)) == len(ids)
    assert None not in ids
    times = [e.event.ts for e in events]
    assert times == sorted(times)
    assert times[0] > 1_700_000_000_000
