import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from local.kafka_jars import KAFKA_VERSION
from tidegate.cli import app
from tidegate.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
METRICS_PORT: int = Settings.model_fields["metrics_port"].default

OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("tidegate")}
every_service = pytest.mark.parametrize("name", sorted(SERVICES))
every_command = pytest.mark.parametrize("arguments", [service["command"] for service in OURS.values()], ids=" ".join)


def with_defaults(text: str) -> str:
    """`${NAME:-default}` as compose reads it where nothing is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def parse(arguments: list[str]) -> None:
    """Parse a command line as the CLI would, without running it."""
    command: Any = typer.main.get_command(app)
    name, words = "tidegate", [with_defaults(word) for word in arguments]
    while hasattr(command, "commands"):
        name, *words = words
        if name not in command.commands:
            raise LookupError(f"no such command: {name}")
        command = command.commands[name]
    command.make_context(name, words)


def dockerfile(instruction: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.split(None, 1)[1] for line in joined.splitlines() if line.startswith(f"{instruction} ")]


@every_service
def test_image_is_pinned(name: str) -> None:
    image = SERVICES[name]["image"]
    assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+", image), image


def test_images_are_the_versions_the_project_speaks_of() -> None:
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"
    images = {name: service["image"] for name, service in OURS.items()}
    assert images.pop("traffic") == f"tidegate-traffic:{VERSION}"
    assert set(images.values()) == {f"tidegate:{VERSION}"}
    build, gate, traffic, last = dockerfile("FROM")
    run = gate.removesuffix(" AS gate")
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", run)
    assert (traffic, last) == ("gate AS traffic", "gate"), "what a build without a target makes has no local package"
    assert build == f"{run.replace('-slim', '')} AS build", "what is compiled has to fit the interpreter it runs on"


@every_service
def test_mounted_files_exist_and_volumes_are_declared(name: str) -> None:
    for volume in SERVICES[name].get("volumes", ()):
        source, target = volume.split(":")[:2]
        assert target.startswith("/")
        if source.startswith("."):
            assert (ROOT / source).exists(), volume
            assert volume.endswith(":ro"), volume
        else:
            assert source in COMPOSE["volumes"], volume


def test_no_volume_is_declared_in_vain() -> None:
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    assert set(COMPOSE["volumes"]) <= used


@every_service
def test_what_is_waited_for_can_come_true(name: str) -> None:
    for other, wait in SERVICES[name].get("depends_on", {}).items():
        service = SERVICES[other]
        if wait["condition"] == "service_healthy":
            own = service.get("healthcheck", {})
            assert own.get("test") or (other in OURS and not own.get("disable")), f"{other} has no health check"
        else:
            assert wait["condition"] == "service_completed_successfully"
            assert service["restart"] in {"no", "on-failure"}, f"{other} would never be complete"


@every_command
def test_command_is_a_real_one(arguments: list[str]) -> None:
    parse(arguments)


@pytest.mark.parametrize("arguments", [["wroker"], ["topics", "destroy"], ["worker", "--nonsense"]], ids=" ".join)
def test_a_command_that_does_not_exist_would_be_noticed(arguments: list[str]) -> None:
    with pytest.raises(Exception, match=r"(?i)no such"):
        parse(arguments)


def test_default_command_of_the_image_is_a_real_one() -> None:
    (entrypoint,), (command,) = dockerfile("ENTRYPOINT"), dockerfile("CMD")
    assert yaml.safe_load(entrypoint) == ["tidegate"]
    parse(yaml.safe_load(command))


def test_every_variable_is_a_setting_with_a_valid_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    in_image = dict(pair.split("=", 1) for line in dockerfile("ENV") for pair in shlex.split(line))
    for service in OURS.values():
        variables = {**in_image, **service["environment"]}
        named = {name: value for name, value in variables.items() if name.startswith(ENV_PREFIX)}
        told = {name.removeprefix(ENV_PREFIX).lower(): with_defaults(value) for name, value in named.items()}
        settings = {name: value for name, value in told.items() if value}  # an empty one counts as unset
        assert settings.keys() <= Settings.model_fields.keys()
        Settings.model_validate(settings)


def test_the_metrics_port_is_the_same_everywhere() -> None:
    config = yaml.safe_load((ROOT / "grafana" / "prometheus.yml").read_text())
    (discovery,) = config["scrape_configs"][0]["dns_sd_configs"]
    assert discovery["names"] == ["worker"]
    assert "worker" in SERVICES
    assert discovery["port"] == METRICS_PORT
    assert dockerfile("EXPOSE") == [str(METRICS_PORT)]
    assert SERVICES["worker"]["expose"] == [str(METRICS_PORT)]
    assert f"{ENV_PREFIX}METRICS_PORT={METRICS_PORT}" in DOCKERFILE


def test_services_reach_each_other_under_the_names_and_ports_they_use() -> None:
    (source,) = yaml.safe_load((ROOT / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in SERVICES
    host, port = OURS["worker"]["environment"]["TIDEGATE_BOOTSTRAP_SERVERS"].split(":")
    kafka = SERVICES[host]
    assert f"INTERNAL://{host}:{port}" in kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert f"INTERNAL://:{port}" in kafka["environment"]["KAFKA_LISTENERS"].split(",")


def test_published_ports_are_for_this_machine_only_and_free_of_clashes() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published)


def test_kafka_advertises_the_port_that_is_published() -> None:
    (port,) = SERVICES["kafka"]["ports"]
    address, outside, inside = port.split(":")
    assert f"HOST://{address}:{outside}" in SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert f"HOST://:{inside}" in SERVICES["kafka"]["environment"]["KAFKA_LISTENERS"].split(",")


def test_dashboards_are_where_the_provider_looks() -> None:
    (provider,) = yaml.safe_load((ROOT / "grafana/provisioning/dashboards/tidegate.yml").read_text())["providers"]
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "grafana/dashboards" / Path(home).name).is_file()
    assert str(Path(home).parent) == provider["options"]["path"]


def test_prometheus_finds_its_rules_where_they_are_mounted() -> None:
    targets = [volume.split(":")[1] for volume in SERVICES["prometheus"]["volumes"]]
    assert "--config.file=/etc/prometheus/prometheus.yml" in SERVICES["prometheus"]["command"]
    assert {"/etc/prometheus/prometheus.yml", "/etc/prometheus/alerts.yml"} <= set(targets)


def test_image_copies_what_exists_and_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word for line in dockerfile("COPY") if "--from" not in line for word in line.split()[:-1]}
    assert copied == kept
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "packages"
    ]
    assert copied == {"requirements.lock", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE", *packages}
    assert all((ROOT / name).exists() for name in copied)


def test_image_runs_unprivileged_and_installs_from_the_lock_alone() -> None:
    assert [user for user in dockerfile("USER") if user not in {"root", "0"}]
    assert "--require-hashes" in DOCKERFILE
    assert "--no-index" in DOCKERFILE


def test_image_has_the_compiled_core() -> None:
    assert "COMPILE_TIDEGATE=1" in DOCKERFILE
    assert "COMPILE_TIDEGATE" in (ROOT / "hatch_build.py").read_text()


def test_health_check_asks_the_health_endpoint() -> None:
    (check,) = dockerfile("HEALTHCHECK")
    command = yaml.safe_load(check[check.index("[") :])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "healthcheck", "exec")
    assert "/healthz" in command[2]
