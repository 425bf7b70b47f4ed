"""docker-compose.yml follows the compose schema, checks each service's health, and is reachable from this host only."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cli.processes import SERVICES
from db.logins import ROLE_OF_LOGIN, read_logins
from ops.embedded.cache import KAFKA, KAFKA_EXPORTER
from ops.embedded.registry_part import API_PATH
from runtime.key_files import read_key, read_public_keys
from runtime.release import VERSION
from runtime.settings import REPOSITORY_ROOT, Settings

COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY_ROOT / "docker-compose.yml").read_text())
CONTAINERS: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"prepare"}
DOCKER = REPOSITORY_ROOT / "ops" / "docker"
SECRETS = DOCKER / "secrets.example"
BUILT_HERE = {"ledgerline:local", "ledgerline-kafka:local"}
REFERENCE = re.compile(r"\$\{(?P<name>[A-Z_]+)(?P<rest>[^}]*)\}")


def compose_schema() -> dict[str, Any]:
    """Return check-jsonschema's copy of the compose schema. Find it without importing that tool's command line."""
    package = importlib.util.find_spec("check_jsonschema")
    assert package is not None
    assert package.submodule_search_locations
    folder = Path(package.submodule_search_locations[0])
    schema: dict[str, Any] = json.loads((folder / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())
    return schema


def example_settings() -> dict[str, str]:
    """Return the settings in .env.example."""
    lines = (REPOSITORY_ROOT / ".env.example").read_text().splitlines()
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name: value for name, _, value in pairs}


def test_the_file_follows_the_compose_schema() -> None:
    jsonschema.validate(COMPOSE, compose_schema())


def test_every_service_of_the_table_has_a_container() -> None:
    ours = {name: container for name, container in CONTAINERS.items() if container.get("image") == "ledgerline:local"}
    assert set(ours) == {service.name for service in SERVICES} | ONE_SHOT
    for service in SERVICES:
        assert ours[service.name]["command"] == ["service", service.name]
    assert ours["prepare"]["command"] == ["prepare", "--logins", "/run/secrets/logins"]


@pytest.mark.parametrize("name", sorted(set(CONTAINERS) - ONE_SHOT))
def test_every_lasting_container_has_a_health_check_and_comes_back(name: str) -> None:
    container = CONTAINERS[name]
    assert container["healthcheck"]["test"][0] == "CMD"
    assert container["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", sorted(CONTAINERS))
def test_every_published_port_is_on_loopback(name: str) -> None:
    for port in CONTAINERS[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\$\{LEDGERLINE_[A-Z]+_PORT:-\d+\}:\d+", port)


@pytest.mark.parametrize("name", sorted(CONTAINERS))
def test_every_container_bounds_its_logs(name: str) -> None:
    assert CONTAINERS[name]["logging"]["options"].keys() == {"max-size", "max-file"}


@pytest.mark.parametrize("name", sorted(service.name for service in SERVICES))
def test_services_wait_for_the_parts_and_for_prepare(name: str) -> None:
    conditions = {other: wanted["condition"] for other, wanted in CONTAINERS[name]["depends_on"].items()}
    assert conditions == {
        "prepare": "service_completed_successfully",
        "kafka": "service_healthy",
        "postgres": "service_healthy",
        "registry": "service_healthy",
    }


@pytest.mark.parametrize("name", sorted(service.name for service in SERVICES))
def test_what_services_are_told_are_settings(name: str) -> None:
    told = {variable.removeprefix("LEDGERLINE_").lower() for variable in CONTAINERS[name]["environment"]}
    fields = Settings.model_fields.keys()
    assert {field if field in fields else field.removesuffix("_file") for field in told} <= fields


def test_every_image_is_of_one_release() -> None:
    for name, container in CONTAINERS.items():
        image, _, tag = container["image"].partition("@")[0].rpartition(":")
        assert image, name
        assert tag == "local" if container["image"] in BUILT_HERE else re.search(r"\d+\.\d+", tag), name
    for path in DOCKER.glob("*Dockerfile"):
        for image in re.findall(r"^FROM (\S+?)(?: AS \w+)?$", path.read_text(), re.MULTILINE):
            assert re.search(r":\d+\.\d+|:\$\{PYTHON\}|^build$", image), f"{path.name}: {image}"
    assert f'org.opencontainers.image.version="{VERSION}"' in (DOCKER / "Dockerfile").read_text()


def test_what_is_mounted_is_there() -> None:
    named = set(COMPOSE["volumes"])
    for name, container in CONTAINERS.items():
        for volume in container.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./secrets/"):
                assert (SECRETS / source.removeprefix("./secrets/")).exists(), name
            elif source.startswith("./"):
                assert (REPOSITORY_ROOT / source).exists(), name
                assert volume.endswith(":ro"), name
            else:
                assert source in named or volume == "/:/host:ro,rslave", name


def test_secrets_are_files_that_the_example_has() -> None:
    given = {name: secret["file"] for name, secret in COMPOSE["secrets"].items()}
    for file in given.values():
        assert "development-only" in (SECRETS / file.removeprefix("./secrets/")).read_text()
    used = {
        entry if isinstance(entry, str) else entry["source"]
        for container in CONTAINERS.values()
        for entry in container.get("secrets", [])
    }
    assert used == set(given)
    assert "/secrets/" in (REPOSITORY_ROOT / ".gitignore").read_text().splitlines()


def test_each_service_has_its_own_login_and_no_other() -> None:
    logins = {login.name: login.user for login in read_logins(SECRETS / "logins")}
    assert logins == {name: f"ledgerline_{name}_login" for name in ROLE_OF_LOGIN}
    for service in SERVICES:
        container = CONTAINERS[service.name]
        more = {"posting": ["posting-key"], "audit": ["posting-public-key"]}.get(service.name, [])
        assert container["secrets"] == [{"source": f"{service.name}-dsn", "target": "postgres-dsn"}, *more]
        assert COMPOSE["secrets"][f"{service.name}-dsn"]["file"] == f"./secrets/logins/{service.name}"
        assert container["environment"]["LEDGERLINE_POSTGRES_DSN_FILE"] == "/run/secrets/postgres-dsn"
    owner = (SECRETS / "owner-dsn").read_text()
    assert f"ledgerline:{example_settings()['LEDGERLINE_POSTGRES_PASSWORD']}@postgres:5432/ledgerline" in owner


def test_audit_judges_posting_by_the_public_half_of_its_key() -> None:
    (public,) = read_public_keys(SECRETS / "posting-key.pub.pem")
    assert read_key(SECRETS / "posting-key.pem").public_raw == public.public_bytes_raw()
    names = {"posting": "LEDGERLINE_POSTING_KEY_FILE", "audit": "LEDGERLINE_POSTING_PUBLIC_KEYS_FILE"}
    for name, variable in names.items():
        path = CONTAINERS[name]["environment"][variable]
        assert path.removeprefix("/run/secrets/") in CONTAINERS[name]["secrets"]


def test_passwords_have_no_default_in_the_file() -> None:
    text = (REPOSITORY_ROOT / "docker-compose.yml").read_text()
    passwords = [reference for reference in REFERENCE.finditer(text) if reference["name"].endswith("_PASSWORD")]
    assert passwords
    assert all(reference["rest"].startswith(":?") for reference in passwords)
    assert "development-only" not in text
    assert not re.search(r"://[^/\s]+:[^/\s]+@", text), "a DSN with its password is written out"
    for name, container in CONTAINERS.items():
        for variable, value in dict(container.get("environment", {})).items():
            if "PASSWORD" in variable:
                assert REFERENCE.fullmatch(value) or value.startswith("/run/secrets/"), f"{name}: {variable}"


def test_the_example_sets_every_variable_that_the_file_reads() -> None:
    text = (REPOSITORY_ROOT / "docker-compose.yml").read_text()
    read = {reference["name"] for reference in REFERENCE.finditer(text)}
    assert read == set(example_settings())
    assert all("development" in value for name, value in example_settings().items() if name.endswith("_PASSWORD"))


def test_prometheus_finds_each_container_that_tells_of_itself() -> None:
    """The names and ports that Prometheus looks for are those at which containers listen."""
    scraped = yaml.safe_load((REPOSITORY_ROOT / "ops" / "prometheus" / "prometheus-compose.yml").read_text())
    looked_for = {
        name: found["port"]
        for job in scraped["scrape_configs"]
        for found in job.get("dns_sd_configs", [])
        for name in found["names"]
    }
    services = {service.name: 8080 if service.name == "api" else 9100 for service in SERVICES}
    assert looked_for == services | {"kafka": 9404, "postgres-exporter": 9187, "node-exporter": 9100}
    assert "=9404:" in CONTAINERS["kafka"]["environment"]["KAFKA_OPTS"]
    assert looked_for.keys() <= CONTAINERS.keys()


def test_the_brokers_agent_is_the_embedded_ones() -> None:
    """The compose broker's JMX agent comes from the same pom.xml and uses the same rules as the embedded broker's."""
    dockerfile = (DOCKER / "kafka.Dockerfile").read_text()
    assert "COPY ops/embedded/kafka_exporter/pom.xml" in dockerfile
    assert "jmx_prometheus_javaagent" in KAFKA_EXPORTER.pom.read_text()
    assert "./ops/prometheus/kafka-jmx.yml:/opt/jmx-exporter/kafka-jmx.yml:ro" in CONTAINERS["kafka"]["volumes"]


@pytest.mark.parametrize("path", sorted(DOCKER.glob("*Dockerfile")), ids=lambda path: path.name)
def test_hadolint_has_nothing_to_say(path: Path) -> None:
    judged = subprocess.run(
        [Path(sys.executable).parent / "hadolint", "--no-color", path], capture_output=True, text=True, check=False
    )
    assert (judged.stdout, judged.stderr, judged.returncode) == ("", "", 0)


def test_the_parts_are_those_of_the_embedded_stack() -> None:
    """Compose runs the same Kafka and Postgres versions and serves the registry's API under the same path."""
    version = re.search(r"<kafka\.version>([^<]+)<", KAFKA.pom.read_text())
    assert version is not None
    assert f"FROM apache/kafka:{version[1]}@" in (DOCKER / "kafka.Dockerfile").read_text()
    assert CONTAINERS["postgres"]["image"].startswith("postgres:18.")
    assert CONTAINERS["api"]["environment"]["LEDGERLINE_REGISTRY_URL"].endswith(API_PATH)


def test_the_image_holds_no_secrets_and_runs_as_a_plain_user() -> None:
    dockerfile = (REPOSITORY_ROOT / "ops" / "docker" / "Dockerfile").read_text()
    ignored = (REPOSITORY_ROOT / ".dockerignore").read_text().splitlines()
    assert re.search(r"^USER (?!root)", dockerfile, re.MULTILINE)
    assert not re.search(r"PASSWORD|SECRET|TOKEN", dockerfile)
    assert "*" in ignored
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        name
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
        for name in sources.split()
    }
    assert {name.split("/")[0] for name in copied} == allowed
    assert not re.search(r"--editable \S*\[", dockerfile), "no extra is for the image"
