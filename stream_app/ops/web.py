"""Pages of the worker's port: metrics, health, look-ups."""

from typing import Any

import faust
import msgspec
from faust.web import Request, Response, View

from stream_app.ops.health import Verdict
from stream_app.ops.metrics import CONTENT_TYPE

_JSON = "application/json"


def add_pages(app: faust.App, pipeline: Any) -> None:
    """Serves `/metrics`, `/health/live`, `/health/ready` and `/users/ID/`."""

    @app.page("/metrics")
    async def metrics(view: View, request: Request) -> Response:
        """Prometheus' text format."""
        return view.bytes(pipeline.metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    @app.page("/health/live")
    async def live(view: View, request: Request) -> Response:
        """200 unless only a restart would help, else 503."""
        return _verdict(view, pipeline.health.live())

    @app.page("/health/ready")
    async def ready(view: View, request: Request) -> Response:
        """200 while a new event would be answered in time, else 503."""
        return _verdict(view, pipeline.health.ready())

    @app.page("/users/{user_id}/")
    async def user(view: View, request: Request, user_id: str) -> Response:
        """Windows, last events and last prediction of a user; 404 where this worker does not hold them."""
        found = await pipeline.look_up(user_id)
        if found is None:
            return _json(view, {"error": f"this worker holds no user {user_id!r}"}, 404)
        return _json(view, found)


def _verdict(view: View, verdict: Verdict) -> Response:
    ok, checks = verdict
    return _json(view, {"ok": ok, "checks": checks}, 200 if ok else 503)


def _json(view: View, value: Any, status: int = 200) -> Response:
    return view.bytes(msgspec.json.encode(value), content_type=_JSON, status=status)
