"""docker-compose.yml follows the compose schema, checks every service's health, and is reached from here only."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from domain.settings import REPOSITORY_ROOT
from ops.embedded.cache import KAFKA
from ops.embedded.registry_part import API_PATH
from ops.services import SERVICES

COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY_ROOT / "docker-compose.yml").read_text())
CONTAINERS: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"prepare"}
REFERENCE = re.compile(r"\$\{(?P<name>[A-Z_]+)(?P<rest>[^}]*)\}")


def compose_schema() -> dict[str, Any]:
    """The compose schema that check-jsonschema carries, found without importing its command line."""
    package = importlib.util.find_spec("check_jsonschema")
    assert package is not None
    assert package.submodule_search_locations
    folder = Path(package.submodule_search_locations[0])
    schema: dict[str, Any] = json.loads((folder / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())
    return schema


def example_settings() -> dict[str, str]:
    """What .env.example sets."""
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
    assert ours["prepare"]["command"] == ["prepare"]


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


def test_passwords_have_no_default_in_the_file() -> None:
    references = list(REFERENCE.finditer((REPOSITORY_ROOT / "docker-compose.yml").read_text()))
    passwords = [reference for reference in references if reference["name"].endswith("_PASSWORD")]
    assert passwords
    assert all(reference["rest"].startswith(":?") for reference in passwords)
    for name, container in CONTAINERS.items():
        for variable, value in dict(container.get("environment", {})).items():
            if "PASSWORD" in variable:
                assert REFERENCE.fullmatch(value), f"{name}: {variable} is written out"


def test_the_example_sets_every_variable_that_the_file_reads() -> None:
    text = (REPOSITORY_ROOT / "docker-compose.yml").read_text()
    read = {reference["name"] for reference in REFERENCE.finditer(text)}
    assert read == set(example_settings())
    assert all("development" in value for name, value in example_settings().items() if name.endswith("_PASSWORD"))


def test_the_parts_are_those_of_the_embedded_stack() -> None:
    """The same Kafka, the same Postgres, and the registry's API under the same path."""
    version = re.search(r"<kafka\.version>([^<]+)<", KAFKA.pom.read_text())
    assert version is not None
    assert CONTAINERS["kafka"]["image"] == f"apache/kafka:{version[1]}"
    assert CONTAINERS["postgres"]["image"] == "postgres:18"
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
    assert copied == allowed
