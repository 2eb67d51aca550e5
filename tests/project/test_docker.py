"""The container files agree with the code: names of settings, commands, ports, files. No engine is needed."""

import contextlib
import re
import runpy
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream_app.cli import COMMANDS
from stream_app.settings import fields, load_settings
from stream_app.settings.sources import OTHER_VARIABLES
from tests.stream_app.certificates import self_signed

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
ENV_NAMES = {field.env for field in fields()} | set(OTHER_VARIABLES)


def ours() -> dict[str, dict[str, Any]]:
    return {name: each for name, each in COMPOSE["services"].items() if each["image"] == "foreclick"}


def filled(value: str) -> str:
    """Return a compose value without variables: `${NAME:-default}` becomes its default."""
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
    """Each named volume is declared, and each declared volume is used."""
    mounts = [
        each.split(":")[0] for service in COMPOSE["services"].values() for each in service.get("volumes", [])
    ]
    assert {each for each in mounts if not each.startswith((".", "/"))} == set(COMPOSE["volumes"])


def test_compose_publishes_on_loopback_only() -> None:
    """No port is open to the network by default."""
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


def test_workers_can_be_scaled() -> None:
    """For `--scale worker=N` the worker has no fixed name and no fixed port of the host."""
    worker = COMPOSE["services"]["worker"]
    assert "container_name" not in worker
    assert [port.split(":")[1] for port in worker["ports"]] == [""]


def test_each_worker_has_a_cache_of_its_own() -> None:
    """Compiled code is on an anonymous volume, which each container has for itself, and memory has a limit."""
    worker = COMPOSE["services"]["worker"]
    cache = dict(re.findall(r"(\w+)=(\S+)", DOCKERFILE))["FORECLICK_CACHE_DIR"]
    assert [mount for mount in worker["volumes"] if cache in mount] == [cache]
    assert re.fullmatch(r"\$\{FORECLICK_MEMORY:-\d+g\}", worker["mem_limit"])


def test_every_service_has_least_rights() -> None:
    """All containers lack capabilities and cannot gain any; all except the broker have a read-only file system."""
    for name, service in COMPOSE["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("read_only", False) is (name != "kafka"), name
        assert not {"privileged", "cap_add", "user", "pid", "network_mode"} & set(service), name
        for mount in service.get("volumes", []):
            assert not mount.startswith(".") or mount.endswith(":ro"), mount


def test_images_have_a_version() -> None:
    """Each image has a fixed version."""
    images = {each["image"] for each in COMPOSE["services"].values()} - {"foreclick"}
    assert images and all(re.search(r":v?\d+\.\d+\.\d+$", image) for image in images)


def test_files_that_are_mounted_exist() -> None:
    """Each mounted path exists: the engine would create a wrong one as an empty folder. `models` is the user's."""
    for service in COMPOSE["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert not source.startswith("./docker") or (ROOT / source).exists(), source


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
    """With a read-only file system, the worker's data and numba's cache are on volumes, `/tmp` is in memory."""
    worker = COMPOSE["services"]["worker"]
    assert worker["read_only"] and "/tmp" in worker["tmpfs"]
    targets = [
        each.split(":")[-1] if each.startswith("/") else each.split(":")[1] for each in worker["volumes"]
    ]
    env = dict(re.findall(r"(\w+)=(\S+)", DOCKERFILE))
    assert env["FORECLICK_DATA_DIR"] in targets
    assert str(Path(env["NUMBA_CACHE_DIR"]).parent) in targets


def test_dockerfile_sets_only_settings_that_exist() -> None:
    """The code reads the image's own variables."""
    env = dict(re.findall(r"(FORECLICK_\w+)=(\S+)", DOCKERFILE))
    assert env and set(env) <= ENV_NAMES
    assert load_settings(env=env).web_address == ("0.0.0.0", 6066)


def test_dockerfile_copies_files_that_exist_and_are_not_ignored() -> None:
    """The files that the image copies from the repository exist and reach the builder."""
    ignored = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    sources += re.findall(r"--mount=type=bind,source=([^, ]+)", DOCKERFILE)
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored


def test_the_container_is_no_root_and_stops_by_signal() -> None:
    """The image has its own user, commands without a shell (which would swallow SIGTERM), and a health check."""
    users = re.findall(r"^USER (\w+)$", DOCKERFILE, re.MULTILINE)
    assert users == ["foreclick", "foreclick"], "of the worker and of training"
    assert 'ENTRYPOINT ["foreclick"]' in DOCKERFILE and 'CMD ["worker"]' in DOCKERFILE
    assert "STOPSIGNAL SIGTERM" in DOCKERFILE
    assert '"/health/live"]' in DOCKERFILE


def test_the_image_runs_commands_that_it_has() -> None:
    """The commands of each target need only the extras that it installs."""
    stages = dict(re.findall(r"^FROM \S+ AS (\w+)\n(.*?)(?=^FROM )", DOCKERFILE, re.MULTILINE | re.DOTALL))
    warmed = re.findall(r"\bforeclick (\w+) ", stages["worker"])
    assert warmed and all(not COMMANDS[name].extra for name in warmed)
    started = {
        name: re.findall(r'^CMD \["(\w+)"', stages[name], re.MULTILINE) for name in ("worker", "train")
    }
    assert started == {"worker": ["worker"], "train": ["train"]}
    assert not COMMANDS["worker"].extra and COMMANDS["train"].extra == "train"
    assert all(not COMMANDS[service["command"][0]].extra for service in ours().values())


class Answer(BaseHTTPRequestHandler):
    """A worker's web port that is alive and not ready."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health/live" else 503)
        self.end_headers()
        self.wfile.write(b'{"checks": {}}')

    def log_message(self, *args: object) -> None:
        """Write nothing to stderr."""


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """The port at which `Answer` listens."""
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join(10)


@pytest.fixture
def port() -> Iterator[int]:
    with serving() as number:
        yield number


def check(monkeypatch: pytest.MonkeyPatch, web: str, path: str) -> int:
    monkeypatch.setenv("FORECLICK_WEB", web)
    monkeypatch.setattr("sys.argv", ["healthcheck.py", path])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "docker" / "healthcheck.py"), run_name="__main__")
    return int(caught.value.code or 0)


def test_the_health_check_tells_what_the_worker_says(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """200 is healthy, 503 is not; the worker's own text is kept, and a configured proxy is not used."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert check(monkeypatch, f"0.0.0.0:{port}", "/health/live") == 0
    assert check(monkeypatch, f"0.0.0.0:{port}", "/health/ready") == 1
    assert capsys.readouterr().out == '{"checks": {}}' * 2


def test_the_health_check_without_a_worker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a listener the check fails with a message; with the web port off there is nothing to check."""
    assert check(monkeypatch, "0.0.0.0:1", "/health/live") == 1
    assert "no answer from http://127.0.0.1:1/health/live" in capsys.readouterr().out
    assert check(monkeypatch, "", "/health/live") == 0


def test_the_health_check_of_a_port_with_tls(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With a certificate in the settings the check uses TLS, whoever signed it."""
    pair = self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    monkeypatch.setenv("FORECLICK_WEB_CERT", str(pair.cert))
    with serving(context) as port:
        assert check(monkeypatch, f"0.0.0.0:{port}", "/health/live") == 0
        assert check(monkeypatch, f"0.0.0.0:{port}", "/health/ready") == 1
    assert capsys.readouterr().out == '{"checks": {}}' * 2
