"""What deployment files name is there: metrics and labels, commands and options, settings, ports, probes, users.

There is no container engine where the tests run, so no image is built here and no manifest applied.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
import yaml

from anlyt import cli
from anlyt.embedded import EmbeddedNats
from anlyt.settings import PREFIX, Settings
from anlyt.telemetry import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
OWN_VARIABLES = {"ANLYT_DB_PASSWORD", "ANLYT_NATS_PASSWORD"}  # of the compose file, for its servers


def load(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text("utf-8")))


def rules() -> list[dict[str, Any]]:
    return load("prometheus/alerts.yml")[0]["groups"][0]["rules"]


def panels() -> list[dict[str, Any]]:
    return json.loads((DEPLOY / "grafana/anlyt.json").read_text("utf-8"))["panels"]


def expressions() -> Iterator[tuple[str, str, str]]:
    """What is asked of Prometheus: where, the expression, the words shown beside it."""
    for rule in rules():
        yield rule["alert"], rule["expr"], " ".join(rule["annotations"].values())
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"], target["legendFormat"]


EXPRESSIONS = list(expressions())


def named_metrics(expression: str) -> set[str]:
    """The metrics of an expression, a histogram without its _bucket."""
    return {re.sub(r"_bucket$", "", name) for name in re.findall(r"\banlyt_\w+", expression)}


# ------------------------------------------------------------------------------------------------------------- metrics


@pytest.mark.parametrize(("where", "expression", "shown"), EXPRESSIONS, ids=[each[0] for each in EXPRESSIONS])
def test_every_metric_and_label_that_is_asked_for_exists(where: str, expression: str, shown: str) -> None:
    names = named_metrics(expression)
    labels = {label for name in names for label in METRICS[name].labels} | {"le"}
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
    chosen = set(re.findall(r"[{,]\s*(\w+)\s*[=!]~?", expression))
    told = set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", shown))

    assert names, where
    assert names <= set(METRICS)
    assert grouped | chosen | told <= labels


@pytest.mark.parametrize(("where", "expression", "shown"), EXPRESSIONS, ids=[each[0] for each in EXPRESSIONS])
def test_counters_are_asked_for_their_growth_and_histograms_for_their_buckets(
    where: str, expression: str, shown: str
) -> None:
    for name in re.findall(r"\banlyt_\w+", expression):
        kind = METRICS[re.sub(r"_bucket$", "", name)].kind
        grows = re.search(rf"(rate|increase)\({name}(\{{[^}}]*\}})?\[\d+[mh]\]\)", expression) is not None

        assert grows == (kind != "gauge"), (where, shown)
        assert name.endswith("_bucket") == (kind == "histogram")


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "action"}
        assert rule["labels"]["severity"] in {"critical", "warning"}


def test_the_alerts_watch_every_metric_that_can_be_wrong() -> None:
    """All gauges and counters but those that only describe."""
    watched = set().union(*(named_metrics(expression) for _, expression, _ in EXPRESSIONS))

    assert set(METRICS) - watched <= {
        "anlyt_batches_total",
        "anlyt_recorded_events",
        "anlyt_late_second_counts_total",
        "anlyt_job_runs_total",
        "anlyt_job_last_run_seconds",
        "anlyt_live_listeners",
    }


# ------------------------------------------------------------------------------------------------- commands, settings


def exists(words: list[str]) -> None:
    """AssertionError unless `anlyt WORDS` is a command with these options."""
    command: Any = typer.main.get_command(cli.app)
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    known = {option for parameter in command.params for option in parameter.opts}

    assert not hasattr(command, "commands")
    assert {word for word in words if word.startswith("--")} <= known


def settings_exist(names: set[str]) -> None:
    assert names - OWN_VARIABLES <= {PREFIX + name.upper() for name in Settings.model_fields}


def test_the_services_of_compose_run_commands_and_wait_for_what_they_need() -> None:
    services = load("docker/compose.yaml")[0]["services"]
    ours = {name: service for name, service in services.items() if service["image"] == "anlyt"}

    assert set(ours) == {"migrate", "worker", "jobs", "api"}
    for name, service in ours.items():
        exists(list(service["command"]))
        settings_exist(set(service["environment"]))
        wanted = {"postgres": "service_healthy", "nats": "service_healthy"}
        if name != "migrate":
            wanted = {"migrate": "service_completed_successfully"}
        assert {on: how["condition"] for on, how in service["depends_on"].items()} == wanted
    assert all("healthcheck" in services[name] for name in ("postgres", "nats", "api"))
    assert "/readyz" in " ".join(services["api"]["healthcheck"]["test"])
    assert services["postgres"]["image"] == "postgres:18"


def test_the_cluster_of_compose_is_told_of_every_server_and_runs_the_same_roles() -> None:
    (cluster,), (single,) = load("docker/cluster.yaml"), load("docker/compose.yaml")
    services = cluster["services"]
    ours = {name: service for name, service in services.items() if service["image"] == "anlyt"}
    nats = {name for name in services if name.startswith("nats-")}

    assert len(nats) == 3
    assert {name: service["command"] for name, service in ours.items()} == {
        name: service["command"] for name, service in single["services"].items() if service["image"] == "anlyt"
    }
    for service in ours.values():
        environment = service["environment"]
        settings_exist(set(environment))
        values = {
            name.removeprefix(PREFIX).lower(): re.sub(r"\$\{.*?\}", "secret", text)
            for name, text in environment.items()
        }
        given = Settings.model_validate(values)
        assert given.database_url is not None
        assert given.nats_url is not None
        assert set(re.findall(r"@([\w-]+):4222", given.nats_url.get_secret_value())) == nats
        assert given.database_url.get_secret_value().partition("@")[2].startswith("postgres:5432,standby:5432/")
        assert given.stream_replicas == len(nats)
    assert {on for on in services["migrate"]["depends_on"] if on.startswith("nats-")} == nats
    mounted = [each for service in services.values() for each in service.get("volumes", ()) if each.startswith("./")]
    assert all((DEPLOY / "docker" / each.partition(":")[0]).is_file() for each in mounted)
    used = {each.partition(":")[0] for service in services.values() for each in service.get("volumes", ())}
    assert {name for name in used if not name.startswith("./")} == set(cluster["volumes"])


@pytest.mark.parametrize("name", ["nats-1", "nats-2", "nats-3"])
def test_the_configuration_of_the_clusters_servers_is_one_that_nats_server_takes(name: str) -> None:
    services = load("docker/cluster.yaml")[0]["services"]
    environment = {key: re.sub(r"\$\{.*?\}", "secret", text) for key, text in services[name]["environment"].items()}
    server = shutil.which("nats-server", path=sysconfig.get_path("scripts"))

    assert server is not None
    assert environment["NATS_NAME"] == name
    assert set(re.findall(r"@([\w-]+):6222", environment["NATS_ROUTES"])) == {"nats-1", "nats-2", "nats-3"}
    done = subprocess.run(
        [server, "-t", "-c", str(DEPLOY / "docker/nats-cluster.conf")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "is valid" in done.stderr + done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize("script", ["allow-standby.sh", "follow.sh"])
def test_a_script_of_the_clusters_databases_is_one_that_sh_reads(script: str) -> None:
    done = subprocess.run(["/bin/sh", "-n", DEPLOY / "docker" / script], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_every_file_that_is_copied_or_mounted_is_there() -> None:
    dockerfile = (DEPLOY / "docker/Dockerfile").read_text("utf-8")
    copied = [
        name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE) for name in line.split()
    ]
    service = load("docker/compose.yaml")[0]["services"]

    assert copied
    assert all((ROOT / name).exists() for name in copied)
    assert (DEPLOY / "docker" / service["api"]["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["api"]["build"]["dockerfile"]).is_file()
    assert (DEPLOY / "docker/nats.conf").is_file()


def test_the_image_runs_as_nobody_special_and_its_settings_exist() -> None:
    dockerfile = (DEPLOY / "docker/Dockerfile").read_text("utf-8")
    user = re.search(r"^USER (\d+):\d+$", dockerfile, re.MULTILINE)
    command = json.loads(re.search(r"^CMD (.*)$", dockerfile, re.MULTILINE)[1])  # type: ignore[index] - it has one

    assert user is not None
    assert int(user[1]) > 0
    assert dockerfile.rindex("\nUSER ") < dockerfile.index("\nENTRYPOINT ")
    exists(command)
    settings_exist(set(re.findall(r"ANLYT_[A-Z_]+", dockerfile)))


def test_the_server_of_compose_is_set_as_the_embedded_one(tmp_path: Path) -> None:
    ours = (DEPLOY / "docker/nats.conf").read_text("utf-8")
    embedded = EmbeddedNats(tmp_path)._configuration
    source = inspect.getsource(embedded)

    for line in ("js_ack_fc_v2: false", "sync_interval"):
        assert line in ours
        assert line in source


def manifests() -> list[dict[str, Any]]:
    return [each for name in ("anlyt.yaml", "migrate.yaml") for each in load(f"kubernetes/{name}")]


def test_each_role_has_its_deployment_and_the_migration_is_a_job() -> None:
    pods = {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in manifests()
        if each["kind"] in {"Deployment", "Job"}
    }

    assert set(pods) == {"anlyt-worker", "anlyt-jobs", "anlyt-api", "anlyt-migrate"}
    for pod in pods.values():
        (container,) = pod["containers"]
        exists(list(container["args"]))
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert {next(iter(source)) for source in container["envFrom"]} == {"configMapRef", "secretRef"}


def test_settings_probes_and_ports_of_kubernetes_are_those_of_the_program() -> None:
    found = manifests()
    config = next(each for each in found if each["kind"] == "ConfigMap")
    settings_exist(set(config["data"]))
    Settings.model_validate({name.removeprefix(PREFIX).lower(): value for name, value in config["data"].items()})
    containers = {
        container["name"]: container
        for each in found
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    paths = {containers["api"][probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe")}

    assert paths == {"/readyz", "/livez"}
    assert containers["api"]["ports"] == [{"name": "http", "containerPort": Settings().http_port}]
    for name in ("worker", "jobs"):
        assert containers[name]["args"][-1] == str(containers[name]["ports"][0]["containerPort"])


def test_labels_and_selectors_agree() -> None:
    deployments = [each for each in manifests() if each["kind"] == "Deployment"]
    (service,) = [each for each in manifests() if each["kind"] == "Service"]

    for each in deployments:
        assert each["spec"]["selector"]["matchLabels"] == each["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] in [each["spec"]["selector"]["matchLabels"] for each in deployments]
