"""The container files agree with the code: names of settings, commands, ports, files. No engine is needed."""

import re
import runpy
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream_app.cli import COMMANDS
from stream_app.settings import fields, load_settings
from stream_app.settings_sources import OTHER_VARIABLES

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
ENV_NAMES = {field.env for field in fields()} | set(OTHER_VARIABLES)


def ours() -> dict[str, dict[str, Any]]:
    return {name: each for name, each in COMPOSE["services"].items() if each["image"] == "foreclick"}


def filled(value: str) -> str:
    """A compose value where no variable is set: `${NAME:-default}` becomes its default."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def test_compose_sets_only_settings_that_exist() -> None:
    """Every FORECLICK_ variable of our services is read by the code, and its value is valid."""
    assert set(ours()) == {"topics", "worker"}
    for service in ours().values():
        env = {name: filled(value) for name, value in service["environment"].items()}
        assert set(env) <= ENV_NAMES
        settings = load_settings(env=env)
        assert settings.brokers == ("kafka:9092",)


def test_compose_runs_commands_that_exist() -> None:
    """The first word of each command is one of ours."""
    assert {service["command"][0] for service in ours().values()} <= set(COMMANDS)


def test_compose_starts_in_order() -> None:
    """Topics wait for a healthy broker, the worker for its topics."""
    services = COMPOSE["services"]
    assert services["topics"]["depends_on"]["kafka"]["condition"] == "service_healthy"
    assert services["worker"]["depends_on"]["topics"]["condition"] == "service_completed_successfully"
    assert "healthcheck" in services["kafka"]


def test_compose_uses_volumes_that_it_declares() -> None:
    """Each named volume is declared, and each declared one is used."""
    mounts = [
        each.split(":")[0] for service in COMPOSE["services"].values() for each in service.get("volumes", [])
    ]
    assert {each for each in mounts if not each.startswith(".")} == set(COMPOSE["volumes"])


def test_compose_publishes_on_loopback_only() -> None:
    """Nothing is opened to the network unless somebody decides so."""
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


def test_the_hosts_port_is_the_default_broker() -> None:
    """Commands on the host reach the broker without any setting."""
    default = load_settings(env={}).bootstrap
    kafka = COMPOSE["services"]["kafka"]
    advertised = dict(
        each.split("://") for each in kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    )
    listeners = dict(each.split("://") for each in kafka["environment"]["KAFKA_LISTENERS"].split(","))
    assert advertised["HOST"] == default
    assert kafka["ports"] == [f"{default}{listeners['HOST']}"]


def test_read_only_services_can_write_where_they_must() -> None:
    """With a read-only file system the worker's data and numba's cache lie on volumes, `/tmp` in memory."""
    worker = COMPOSE["services"]["worker"]
    assert worker["read_only"] and "/tmp" in worker["tmpfs"]
    targets = [each.split(":")[1] for each in worker["volumes"]]
    env = dict(re.findall(r"(\w+)=(\S+)", DOCKERFILE))
    assert env["FORECLICK_DATA_DIR"] in targets
    assert str(Path(env["NUMBA_CACHE_DIR"]).parent) in targets


def test_dockerfile_sets_only_settings_that_exist() -> None:
    """The image's own variables are read by the code."""
    env = dict(re.findall(r"(FORECLICK_\w+)=(\S+)", DOCKERFILE))
    assert env and set(env) <= ENV_NAMES
    assert load_settings(env=env).web_address == ("0.0.0.0", 6066)


def test_dockerfile_copies_files_that_exist_and_are_not_ignored() -> None:
    """What the image copies from the repository is there and reaches the builder."""
    ignored = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored


def test_the_container_is_no_root_and_stops_by_signal() -> None:
    """A user of its own, forms without a shell (which would swallow SIGTERM), a health check."""
    users = re.findall(r"^USER (\w+)$", DOCKERFILE, re.MULTILINE)
    assert users == ["foreclick"]
    assert 'ENTRYPOINT ["foreclick"]' in DOCKERFILE and 'CMD ["worker"]' in DOCKERFILE
    assert "STOPSIGNAL SIGTERM" in DOCKERFILE
    assert '"/health/live"]' in DOCKERFILE


class Answer(BaseHTTPRequestHandler):
    """A worker's web port that is alive and not ready."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health/live" else 503)
        self.end_headers()
        self.wfile.write(b'{"checks": {}}')

    def log_message(self, *args: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join(10)


def check(monkeypatch: pytest.MonkeyPatch, web: str, path: str) -> int:
    monkeypatch.setenv("FORECLICK_WEB", web)
    monkeypatch.setattr("sys.argv", ["healthcheck.py", path])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "docker" / "healthcheck.py"), run_name="__main__")
    return int(caught.value.code or 0)


def test_the_health_check_tells_what_the_worker_says(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """200 is healthy, 503 is not, and the worker's own words are kept; a proxy in the way is not asked."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert check(monkeypatch, f"0.0.0.0:{port}", "/health/live") == 0
    assert check(monkeypatch, f"0.0.0.0:{port}", "/health/ready") == 1
    assert capsys.readouterr().out == '{"checks": {}}' * 2


def test_the_health_check_without_a_worker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody listens: unhealthy, with a sentence. Web turned off: nothing to ask."""
    assert check(monkeypatch, "0.0.0.0:1", "/health/live") == 1
    assert "no answer from http://127.0.0.1:1/health/live" in capsys.readouterr().out
    assert check(monkeypatch, "", "/health/live") == 0
