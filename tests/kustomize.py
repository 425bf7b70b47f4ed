"""The part of kustomize that ops/kubernetes uses, so that tests need no binary. It refuses everything else.

The results were compared with those of kustomize 5.7.1. The resources are the same, except for the suffixes of
generated names, which are other digests of the same contents. tests/unit/test_kubernetes.py says how to compare them
again.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

Resource = dict[str, Any]

KNOWN: Final = {
    "apiVersion", "kind", "namespace", "labels", "resources", "components", "images", "replicas", "configMapGenerator",
    "secretGenerator", "patches",
}  # fmt: skip
CLUSTER_WIDE: Final = {"Namespace", "PriorityClass"}
POD_OWNERS: Final = {"Deployment", "StatefulSet", "Job"}


def build(folder: Path) -> list[Resource]:
    """Return the resources of a folder with a kustomization.yaml, as `kustomize build` prints them, in any order."""
    return _transformed([], folder)


def pod_of(resource: Resource) -> Resource | None:
    """Return the pod's spec of a resource that makes pods; None for other resources."""
    if resource["kind"] not in POD_OWNERS:
        return None
    spec: Resource = resource["spec"]["template"]["spec"]
    return spec


def _transformed(before: list[Resource], folder: Path) -> list[Resource]:
    asked = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert asked.keys() <= KNOWN, f"{folder}: {asked.keys() - KNOWN} is not known here"
    found = list(before)
    for name in asked.get("resources", []):
        path = folder / name
        found += build(path) if path.is_dir() else [each for each in yaml.safe_load_all(path.read_text()) if each]
    made = {}
    for generator, kind in (("configMapGenerator", "ConfigMap"), ("secretGenerator", "Secret")):
        for entry in asked.get(generator, []):
            resource = _generated(entry, kind, folder)
            made[kind, entry["name"]] = resource["metadata"]["name"]
            found.append(resource)
    for name in asked.get("components", []):
        found = _transformed(found, folder / name)
    for patch in asked.get("patches", []):
        _patch(found, patch)
    for resource in found:
        _stamp(resource, asked)
        _rename(resource, made)
    return found


def _generated(entry: Resource, kind: str, folder: Path) -> Resource:
    assert entry.keys() <= {"name", "literals", "files"}
    data = dict(literal.split("=", 1) for literal in entry.get("literals", []))
    data |= {name: (folder / name).read_text() for name in entry.get("files", [])}
    if kind == "Secret":
        data = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:10]
    made = {"apiVersion": "v1", "kind": kind, "metadata": {"name": f"{entry['name']}-{digest}"}, "data": data}
    return made | ({"type": "Opaque"} if kind == "Secret" else {})


def _patch(resources: list[Resource], patch: Resource) -> None:
    """Apply JSON patches (RFC 6902) to the resource of `target`'s kind and name: add, replace, remove, test."""
    assert patch.keys() == {"target", "patch"}
    assert patch["target"].keys() == {"kind", "name"}
    (resource,) = (
        each
        for each in resources
        if each["kind"] == patch["target"]["kind"] and each["metadata"]["name"] == patch["target"]["name"]
    )
    for step in yaml.safe_load(patch["patch"]):
        *way, last = step["path"].split("/")[1:]
        place: Any = resource
        for name in way:
            place = place[int(name) if isinstance(place, list) else name]
        if isinstance(place, list) and (step["op"], last) == ("add", "-"):
            place.append(step["value"])
            continue
        key: Any = int(last) if isinstance(place, list) else last
        match step["op"]:
            case "test":
                assert place[key] == step["value"], step
            case "replace":
                assert place[key] is not None
                place[key] = step["value"]
            case "remove":
                del place[key]
            case "add":
                assert isinstance(place, dict)
                place[key] = step["value"]
            case other:
                raise AssertionError(f"the operation {other} is not known here")


def _stamp(resource: Resource, asked: Resource) -> None:
    """Set namespace, labels, images and replicas."""
    metadata = resource["metadata"]
    if "namespace" in asked and resource["kind"] not in CLUSTER_WIDE:
        metadata["namespace"] = asked["namespace"]
    for labels in asked.get("labels", []):
        assert labels.keys() == {"pairs", "includeTemplates"}
        metadata.setdefault("labels", {}).update(labels["pairs"])
        if resource["kind"] in POD_OWNERS:
            resource["spec"]["template"]["metadata"]["labels"].update(labels["pairs"])
    for image in asked.get("images", []):
        for container in (pod_of(resource) or {}).get("containers", []):
            if container["image"] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
    for entry in asked.get("replicas", []):
        if resource["kind"] in {"Deployment", "StatefulSet"} and metadata["name"] == entry["name"]:
            resource["spec"]["replicas"] = entry["count"]


def _references(pod: Resource) -> Iterator[tuple[str, Resource, str]]:
    """Yield (kind, where, key) for each reference to a ConfigMap or Secret in a pod."""
    for container in pod["containers"]:
        for source in container.get("envFrom", []):
            yield "ConfigMap", source["configMapRef"], "name"
        for variable in container.get("env", []):
            if "secretKeyRef" in variable.get("valueFrom", {}):
                yield "Secret", variable["valueFrom"]["secretKeyRef"], "name"
    for volume in pod.get("volumes", []):
        if "secret" in volume:
            yield "Secret", volume["secret"], "secretName"
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"], "name"
        for source in volume.get("projected", {}).get("sources", []):
            yield "Secret", source["secret"], "name"


def _rename(resource: Resource, made: dict[tuple[str, str], str]) -> None:
    pod = pod_of(resource)
    for kind, place, key in _references(pod) if pod is not None else ():
        place[key] = made.get((kind, place[key]), place[key])
