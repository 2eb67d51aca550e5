"""Pages of the worker's port: metrics, health, look-ups. `access` decides who may see them."""

from typing import Any

import faust
import msgspec
from faust.web import Request, Response, View

from stream_app.ops.access import access_of, guard, tls_of
from stream_app.ops.connections import Connections, Port
from stream_app.ops.health import Verdict
from stream_app.ops.metrics import CONTENT_TYPE
from stream_app.settings import Settings

_JSON = "application/json"


def web_options(settings: Settings) -> dict[str, Any]:
    """Faust's settings for the port. Raises SettingsError if the TLS files cannot be used."""
    host, port = settings.web_address or ("127.0.0.1", 6066)  # Faust needs a port even if it opens none
    return {
        "web_enabled": bool(settings.web),
        "web_host": f"[{host}]" if ":" in host else host,  # part of a URL
        "web_bind": host,
        "web_port": port,
        "web_ssl_context": tls_of(settings),
        # Faust's own pages would show the contents of tables.
        "web_router_enabled": False,
        "web_tables_enabled": False,
    }


def add_pages(app: faust.App, pipeline: Any, settings: Settings) -> None:
    """Serves `/metrics`, `/health/live`, `/health/ready` and `/users/ID/`, with access control."""
    access = access_of(settings)
    limits = Connections()
    app.web.web_app.middlewares.append(limits.watch)
    guard(app.web.web_app, access)
    # Faust has no setting for the listening site, but calls this handler when the server starts.
    app.web._transport_handlers = {"tcp": lambda: _port(app, limits)}

    def verdict(view: View, request: Any, found: Verdict) -> Response:
        ok, checks = found
        details = {"checks": checks} if access.details(request.headers.get("Authorization", "")) else {}
        return _json(view, {"ok": ok, **details}, 200 if ok else 503)

    @app.page("/metrics")
    async def metrics(view: View, request: Request) -> Response:
        """Prometheus' text format."""
        return view.bytes(pipeline.metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    @app.page("/health/live")
    async def live(view: View, request: Request) -> Response:
        """200 unless only a restart would help, else 503."""
        return verdict(view, request, pipeline.health.live())

    @app.page("/health/ready")
    async def ready(view: View, request: Request) -> Response:
        """200 while the worker would answer a new event in time, else 503."""
        return verdict(view, request, pipeline.health.ready())

    @app.page("/users/{user_id}/")
    async def user(view: View, request: Request, user_id: str) -> Response:
        """Windows, last events and last prediction of a user; 404 where this worker does not hold them."""
        found = await pipeline.look_up(user_id)
        if found is None:
            return _json(view, {"error": f"this worker holds no user {user_id!r}"}, 404)
        return _json(view, found)


def _port(app: faust.App, limits: Connections) -> Port:
    conf = app.conf
    return Port(app.web._runner, limits, conf.web_bind, conf.web_port, conf.web_ssl_context)


def _json(view: View, value: Any, status: int = 200) -> Response:
    return view.bytes(msgspec.json.encode(value), content_type=_JSON, status=status)
