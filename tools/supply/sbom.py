"""The components as a software bill of materials: CycloneDX 1.6 in JSON, validated with its schema."""

import json
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from domain.errors import LedgerlineError
from runtime.release import VERSION
from tools.supply.components import Component

_OURSELVES: Final = "pkg:pypi/ledgerline@" + VERSION
_SPACE: Final = uuid.UUID("5d4fae2d-3ae4-5c4c-8ed3-b2b2ac9b4c6f")


def bill_of_materials(found: Sequence[Component], made: datetime) -> dict[str, Any]:
    """Return the document: each component once, with the parts that need it as properties, and the dependencies."""
    parts: dict[str, set[str]] = {}
    for one in found:
        parts.setdefault(one.package_url, set()).add(one.part)
    once = {one.package_url: one for one in sorted(found)}
    reference = {one.name: url for url, one in once.items() if one.ecosystem == "PyPI"}
    needed = sorted(url for url, names in parts.items() if names != {"development"})
    body: dict[str, Any] = {
        "components": [_component(url, one, parts[url]) for url, one in sorted(once.items())],
        "dependencies": [
            {"ref": _OURSELVES, "dependsOn": needed},
            *(
                {"ref": url, "dependsOn": sorted(reference[name] for name in one.needs)}
                for url, one in sorted(once.items())
            ),
        ],
    }
    serial = uuid.uuid5(_SPACE, json.dumps(body, sort_keys=True) + VERSION)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": made.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "bom-ref": _OURSELVES,
                "type": "application",
                "name": "ledgerline",
                "version": VERSION,
                "purl": _OURSELVES,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            },
        },
        **body,
    }


def check(document: dict[str, Any]) -> None:
    """Raise LedgerlineError if a document does not follow CycloneDX's schema."""
    trouble = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))
    if trouble is not None:
        raise LedgerlineError(f"The bill of materials does not follow CycloneDX's schema: {str(trouble)[:400]}")


def _component(url: str, one: Component, parts: set[str]) -> dict[str, Any]:
    group, _, name = one.name.rpartition(":")
    written: dict[str, Any] = {
        "bom-ref": url,
        "type": "container" if one.ecosystem == "image" else "library",
        "name": name,
        "version": one.version,
        "scope": "excluded" if parts == {"development"} else "required",
        "purl": url,
        "properties": [{"name": "ledgerline:part", "value": part} for part in sorted(parts)],
    }
    if group:
        written["group"] = group
    if one.released:
        written["properties"].append({"name": "ledgerline:released", "value": one.released})
    return written
