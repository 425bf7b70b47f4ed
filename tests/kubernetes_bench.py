"""Helpers for the tests of ops/kubernetes: workloads, pods, labels and variables of the rendered overlays."""

from functools import cache
from typing import Any, Final

import yaml

from cli.processes import SERVICES
from runtime.settings import REPOSITORY_ROOT
from tests.kustomize import Resource, build, pod_of

FOLDER: Final = REPOSITORY_ROOT / "ops" / "kubernetes"
OVERLAYS: Final = ("dev", "production")
# Custom resources of operators. No Python package that can be installed here has their schemas.
CUSTOM: Final = {"PodMonitor", "PrometheusRule", "ExternalSecret", "SecretStore", "ScaledObject"}
NAMES: Final = {service.name for service in SERVICES}
OURS: Final = NAMES | {"prepare"}
AGENTS: Final = {"posting", "worker", "reconciliation", "audit"}


@cache
def resources(overlay: str) -> list[Resource]:
    """Return all resources of an overlay."""
    return build(FOLDER / "overlays" / overlay)


def of_kind(overlay: str, kind: str) -> dict[str, Resource]:
    """Return the resources of a kind, by name."""
    return {each["metadata"]["name"]: each for each in resources(overlay) if each["kind"] == kind}


def workloads(overlay: str) -> dict[str, Resource]:
    """Return the resources that make pods, by name."""
    return {each["metadata"]["name"]: each for each in resources(overlay) if pod_of(each) is not None}


def pods(overlay: str) -> dict[str, Resource]:
    """Return the pods' specs, by the name of their workload."""
    return {name: workload["spec"]["template"]["spec"] for name, workload in workloads(overlay).items()}


def labels_of(overlay: str, name: str) -> dict[str, str]:
    """Return the labels of a workload's pods."""
    found: dict[str, str] = workloads(overlay)[name]["spec"]["template"]["metadata"]["labels"]
    return found


def configuration(overlay: str) -> dict[str, str]:
    """Return the configuration that all services get."""
    (found,) = (
        each["data"] for name, each in of_kind(overlay, "ConfigMap").items() if name.startswith("ledgerline-")
    )  # fmt: skip
    return dict(found)


def variables(overlay: str, name: str) -> dict[str, Any]:
    """Return the variables of a workload's one container: name -> value, or the entry that says where it comes from."""
    (container,) = pods(overlay)[name]["containers"]
    return configuration(overlay) | {each["name"]: each.get("value") or each for each in container["env"]}


def custom_resources() -> list[Resource]:
    """Return the custom resources of every file, even if no overlay uses the file."""
    return [
        each
        for path in sorted(FOLDER.rglob("*.yaml"))
        for each in yaml.safe_load_all(path.read_text())
        if each and each.get("kind") in CUSTOM
    ]


def picked(overlay: str, selector: Resource) -> set[str]:
    """Return the workloads that a pod selector matches; all of them if the selector is empty."""
    found = set()
    for name in workloads(overlay):
        labels = labels_of(overlay, name)
        expressions = selector.get("matchExpressions", [])
        assert all(expression["operator"] == "In" for expression in expressions)
        if selector.get("matchLabels", {}).items() <= labels.items() and all(
            labels.get(expression["key"]) in expression["values"] for expression in expressions
        ):
            found.add(name)
    return found
