"""Alerts, dashboard, compose and Kubernetes files agree with the code and each other; these tests need no cluster."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import pytest
import yaml

from stream_app.cli import COMMANDS
from stream_app.commands.worker import STOP_LIMIT_S
from stream_app.contract.topics import SHOP
from stream_app.ops.access import HEALTH_PAGES, METRICS_PAGE
from stream_app.ops.metrics import Metrics
from stream_app.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
KUBERNETES = DOCKER / "kubernetes"
ALERTS_FILE = DOCKER / "prometheus" / "alerts.yml"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS_FILE.read_text())["groups"] for rule in group["rules"]
]
SCRAPE = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
DASHBOARD = json.loads((DOCKER / "grafana" / "dashboards" / "foreclick.json").read_text())
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
#: Names that Prometheus itself writes, or adds to every series of a scrape.
PROMETHEUS_SERIES = {"up"}
SCRAPE_LABELS = {"job", "instance", "__name__", "le"}


@cache
def series() -> dict[str, set[str]]:
    """Return every series of a worker by the name that Prometheus shows, with its labels."""
    metrics = Metrics()
    metrics.set_model("name", "version", "device")
    labels = {
        each._name: set(each._labelnames) for each in vars(metrics).values() if hasattr(each, "_labelnames")
    }
    suffixes = {"counter": ("_total",), "info": ("_info",), "histogram": ("_bucket", "_sum", "_count")}
    found: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        own = {label for sample in family.samples for label in sample.labels} | labels.get(family.name, set())
        for suffix in suffixes.get(family.type, ("",)):
            found[family.name + suffix] = own
    return found


def selectors(query: str) -> list[tuple[str, dict[str, str]]]:
    """Return the series that a query selects: name and required labels. Raises ValueError for invalid PromQL."""
    found = []

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append((node.name, {m.name: m.value for m in node.matchers.matchers}))

    promql_parser.walk(promql_parser.parse(query), visit)
    return found


def unknown(query: str) -> list[str]:
    """Return series and labels of a query that no worker has."""
    wrong = []
    for name, labels in selectors(query):
        if name in PROMETHEUS_SERIES:
            continue
        if name not in series():
            wrong.append(name)
        else:
            wrong += [f"{name}.{label}" for label in labels if label not in series()[name] | SCRAPE_LABELS]
    return wrong


def panels() -> list[dict[str, Any]]:
    return list(DASHBOARD["panels"])


def queries() -> Iterator[tuple[str, str]]:
    """Return every query of the alerts and the dashboard, with its place."""
    for alert in ALERTS:
        yield alert["alert"], alert["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$job", ".*")


def test_every_query_asks_for_what_a_worker_shows() -> None:
    """Each query is valid PromQL, and `ops/metrics.py` has each series and label in it."""
    assert {place: unknown(query) for place, query in queries() if unknown(query)} == {}
    assert all(selectors(query) for _, query in queries())


def test_the_check_of_queries_can_fail() -> None:
    """A wrong name, a label that a series does not have and invalid PromQL are noticed, even deep within a query."""
    assert unknown("sum(rate(foreclick_event_total[5m])) > 1") == ["foreclick_event_total"]
    assert unknown('1 + absent(up or foreclick_commits_total{reslut="ok"})') == [
        "foreclick_commits_total.reslut"
    ]
    assert unknown("increase(foreclick_outputs_total[5m] offset 5m) unless foreclick_ready") == []
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        unknown("sum(rate(foreclick_events_total[5m])")


def test_every_metric_is_on_the_dashboard() -> None:
    """Each of our metrics is in the dashboard."""
    shown = {name for panel in panels() for t in panel["targets"] for name, _ in selectors(t["expr"])}
    ours = {name for name in series() if name.startswith("foreclick_")}
    roots = {re.sub(r"_(bucket|sum|count)$", "", name) for name in ours}
    assert roots - {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown} == set()


def test_the_dashboard_is_whole() -> None:
    """Ids are unique, panels do not overlap, and each panel queries the provisioned source."""
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids)) > 10
    cells = [
        (x, y)
        for at in (panel["gridPos"] for panel in panels())
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    source = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yml").read_text())
    uid = source["datasources"][0]["uid"]
    assert {t["datasource"]["uid"] for panel in panels() for t in panel["targets"]} == {uid}


def test_every_alert_says_what_to_do() -> None:
    """Each alert has a severity, a sentence, and its own section in the operations page; no section is left over."""
    headings = set(
        re.findall(r"^#+ (Foreclick\w+)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    )
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("critical", "warning", "info")
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"
    assert {alert["alert"] for alert in ALERTS} == headings


def test_every_alert_has_a_test() -> None:
    """`alerts_test.yml` shows each alert firing."""
    text = (DOCKER / "prometheus" / "alerts_test.yml").read_text()
    missing = [alert["alert"] for alert in ALERTS if f'alertname="{alert["alert"]}"' not in text]
    assert missing == []


@pytest.mark.skipif(
    not (os.environ.get("FORECLICK_TEST_PROMTOOL") or shutil.which("promtool")), reason="no promtool here"
)
def test_promtool_agrees(tmp_path: Path) -> None:
    """Prometheus' own tool accepts the rules and the configuration, and the unit tests of the alerts pass."""
    tool = os.environ.get("FORECLICK_TEST_PROMTOOL") or "promtool"
    folder = Path(shutil.copytree(DOCKER / "prometheus", tmp_path / "prometheus"))
    config = folder / "prometheus.yml"
    config.write_text(config.read_text().replace("/etc/prometheus/", f"{folder}/"))
    for call in (
        ["check", "config", str(config)],
        ["check", "rules", str(folder / "alerts.yml")],
        ["test", "rules", str(folder / "alerts_test.yml")],
    ):
        done = subprocess.run([tool, *call], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_compose_scrapes_and_shows_the_workers() -> None:
    """Prometheus finds the workers by the service's name and port, under the job that the alerts name."""
    job = next(each for each in SCRAPE["scrape_configs"] if each["job_name"] == "foreclick")
    names = job["dns_sd_configs"][0]
    services = COMPOSE["services"]
    assert names["names"] == ["worker"] and "worker" in services
    assert services["worker"]["environment"]["FORECLICK_WEB"].endswith(f":{names['port']}")
    mounted = {mount.split(":")[1]: mount.split(":")[0] for mount in services["prometheus"]["volumes"]}
    for rules in SCRAPE["rule_files"]:
        assert (ROOT / mounted[str(Path(rules).parent)] / Path(rules).name).is_file()
    mounted = {mount.split(":")[1]: mount.split(":")[0] for mount in services["grafana"]["volumes"]}
    provider = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/foreclick.yml").read_text())
    shown = mounted[provider["providers"][0]["options"]["path"]]
    assert (ROOT / shown / "foreclick.json").is_file()


# --- Kubernetes


def resources(kind: str = "") -> list[dict[str, Any]]:
    """Return all resources of the folder, or those of a kind."""
    files = [file for file in sorted(KUBERNETES.glob("*.yaml")) if file.name != "kustomization.yaml"]
    found = [each for file in files for each in yaml.safe_load_all(file.read_text())]
    return [each for each in found if not kind or each["kind"] == kind]


def one(kind: str) -> dict[str, Any]:
    found = resources(kind)
    assert len(found) == 1, kind
    return found[0]


def pods() -> dict[str, dict[str, Any]]:
    """Return the pod templates by the name of their resource."""
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in resources()
        if each["kind"] in ("Deployment", "Job")
    }


def configured(folder: Path) -> Settings:
    """Return the settings of the pods, with secrets in a folder of the test."""
    data: dict[str, str] = one("ConfigMap")["data"]
    for name in ("web-token", "kafka-password"):
        (folder / name).write_text("0123456789abcdef")
    return load_settings(
        env={name: value.replace("/run/secrets/foreclick", str(folder)) for name, value in data.items()}
    )


#: Kinds of operators, for which no package has schemas: they were checked against the operators' own definitions.
OPERATORS = {"ScaledObject", "TriggerAuthentication", "PodMonitor", "PrometheusRule"}


def test_kubernetes_takes_every_resource() -> None:
    """Each resource of Kubernetes itself matches the schema of the release, without unknown fields."""
    own = [each for each in resources() if each["kind"] not in OPERATORS]
    assert len(own) >= 6
    for each in own:
        kubernetes_validate.validate(each, "1.37", strict=True)
    broken = json.loads(json.dumps(one("Deployment")))
    broken["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.37", strict=True)


def test_kustomize_names_every_file() -> None:
    """The kustomization lists every file."""
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    assert {*kustomization["resources"], "kustomization.yaml"} == {f.name for f in KUBERNETES.glob("*.yaml")}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
def test_kustomize_builds() -> None:
    """`kubectl kustomize` combines all files."""
    done = subprocess.run(
        ["kubectl", "kustomize", str(KUBERNETES)], capture_output=True, text=True, timeout=60, check=True
    )
    built = list(yaml.safe_load_all(done.stdout))
    assert sorted(each["kind"] for each in built) == sorted(each["kind"] for each in resources())
    assert {each["metadata"].get("namespace", "foreclick") for each in built} == {"foreclick"}


def test_the_settings_of_the_pods_are_valid(tmp_path: Path) -> None:
    """Each variable exists, each value is valid; the port requires a token, and Kafka is reached by TLS."""
    settings = configured(tmp_path)
    assert settings.web_token is not None and settings.model_key is not None
    assert settings.kafka.security_protocol == "SASL_SSL"
    assert settings.replication >= 2


def test_pods_have_least_rights() -> None:
    """No root, no capability, no token of the cluster, and only dedicated volumes are writable."""
    for name, pod in pods().items():
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"] and container["resources"]["requests"], name
    dockerfile = (DOCKER / "Dockerfile").read_text()
    users = {pod["securityContext"]["runAsUser"] for pod in pods().values()}
    assert users == {int(uid) for uid in re.findall(r"useradd --uid (\d+)", dockerfile)}
    assert one("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_pods_run_commands_that_exist_and_mount_what_they_name(tmp_path: Path) -> None:
    """Commands are ours; every volume exists; the model, keys and written files are on mounts."""
    for name, pod in pods().items():
        volumes = {each["name"] for each in pod["volumes"]}
        for container in pod["containers"]:
            assert not COMMANDS[container["args"][0]].extra, name
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, name
    worker = pods()["foreclick-worker"]["containers"][0]
    writable = [mount["mountPath"] for mount in worker["volumeMounts"] if not mount.get("readOnly")]
    env = dict(re.findall(r"(\w+)=(\S+)", (DOCKER / "Dockerfile").read_text()))
    assert sorted(writable) == sorted([env["FORECLICK_DATA_DIR"], env["FORECLICK_CACHE_DIR"], "/tmp"])
    assert env["NUMBA_CACHE_DIR"].startswith(env["FORECLICK_CACHE_DIR"])
    assert str(configured(tmp_path).model).startswith("/models/")


def test_probes_ask_pages_that_are_open(tmp_path: Path) -> None:
    """Liveness probes live, readiness probes ready, at the port of the settings; both work without a token."""
    settings = configured(tmp_path)
    worker = pods()["foreclick-worker"]["containers"][0]
    port = next(each for each in worker["ports"] if each["name"] == "web")
    assert settings.web_address == ("0.0.0.0", port["containerPort"])
    asked = {
        probe: worker[probe]["httpGet"]["path"]
        for probe in ("livenessProbe", "startupProbe", "readinessProbe")
    }
    assert asked == {
        "livenessProbe": "/health/live", "startupProbe": "/health/live", "readinessProbe": "/health/ready",
    }  # fmt: skip
    assert set(asked.values()) <= HEALTH_PAGES
    assert {worker[probe]["httpGet"]["port"] for probe in asked} == {"web"}


def test_a_rollout_waits_for_no_worker_without_partitions(tmp_path: Path) -> None:
    """No surge and never more workers than partitions; the grace period covers the worker's own stop limit."""
    settings = configured(tmp_path)
    deployment, scaled = one("Deployment"), one("ScaledObject")["spec"]
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert "replicas" not in deployment["spec"], "it would conflict with the autoscaler"
    assert 2 <= scaled["minReplicaCount"] <= scaled["maxReplicaCount"] <= settings.partitions
    assert pods()["foreclick-worker"]["terminationGracePeriodSeconds"] > STOP_LIMIT_S


def test_scaling_follows_the_lag_of_every_input(tmp_path: Path) -> None:
    """The autoscaler has a trigger for each input topic of this group, with the brokers and login of the workers."""
    settings = configured(tmp_path)
    scaled = one("ScaledObject")["spec"]
    assert scaled["scaleTargetRef"]["name"] == one("Deployment")["metadata"]["name"]
    triggers = [each["metadata"] for each in scaled["triggers"]]
    assert tuple(each["topic"] for each in triggers) == SHOP.of(settings).inputs
    for each in triggers:
        assert (each["consumerGroup"], each["bootstrapServers"]) == (settings.group, settings.bootstrap)
        assert (each["tls"], each["sasl"]) == ("enable", "scram_sha512")
    names = {each["authenticationRef"]["name"] for each in scaled["triggers"]}
    assert names == {one("TriggerAuthentication")["metadata"]["name"]}


def test_selectors_select_the_workers() -> None:
    """Budget, spreading, network and monitoring select labels that the pods have."""
    labels = one("Deployment")["spec"]["template"]["metadata"]["labels"]
    chosen = {
        "Deployment": one("Deployment")["spec"]["selector"],
        "PodDisruptionBudget": one("PodDisruptionBudget")["spec"]["selector"],
        "NetworkPolicy": one("NetworkPolicy")["spec"]["podSelector"],
        "PodMonitor": one("PodMonitor")["spec"]["selector"],
        "spread": pods()["foreclick-worker"]["topologySpreadConstraints"][0]["labelSelector"],
    }
    for name, selector in chosen.items():
        assert selector["matchLabels"].items() <= labels.items(), name
    assert one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_the_network_lets_through_what_is_needed(tmp_path: Path) -> None:
    """The policy allows only the web port in, and DNS and the brokers' port out."""
    settings = configured(tmp_path)
    policy = one("NetworkPolicy")["spec"]
    assert settings.web_address is not None
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == [settings.web_address[1]]
    brokers = {int(broker.rpartition(":")[2]) for broker in settings.brokers}
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {53, *brokers}
    assert all(rule["from"] for rule in policy["ingress"]) and all(rule["to"] for rule in policy["egress"])


def test_the_operator_has_the_same_alerts() -> None:
    """The operator's rules equal those of the file, with the job that they name."""
    assert one("PrometheusRule")["spec"] == yaml.safe_load(ALERTS_FILE.read_text())
    monitor = one("PodMonitor")["spec"]
    labels = one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert labels[monitor["jobLabel"]] == "foreclick"
    assert [(each["port"], each["path"]) for each in monitor["podMetricsEndpoints"]] == [
        ("web", METRICS_PAGE)
    ]
