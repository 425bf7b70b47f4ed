"""The LEDGERLINE_* variables of the environment: unknown variables, and the origin of each setting."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final

from pydantic import SecretStr

from cli.configuration.findings import Finding, make_warning
from runtime.secret_files import PREFIX, get_file_variable, get_variable
from runtime.settings import FORMER_NAMES, SECRETS, Settings, find_former_value

PORT_VARIABLES: Final = frozenset(
    f"{PREFIX}{name}_PORT"
    for name in (
        "KAFKA",
        "KAFKA_CONTROLLER",
        "KAFKA_METRICS",
        "POSTGRES",
        "REGISTRY",
        "PROMETHEUS",
        "POSTGRES_EXPORTER",
        "NODE_EXPORTER",
        "GRAFANA",
    )
)
"""The variables that fix ports of embedded parts and of compose; they are not settings."""

# Kubernetes sets such variables in every pod for every Service of its namespace, unless enableServiceLinks is false.
_SERVICE_LINK: Final = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)$")


def list_known_variables() -> set[str]:
    """Return every variable that Ledgerline reads."""
    settings = {get_variable(name) for name in (*Settings.model_fields, *FORMER_NAMES.values())}
    return settings | {get_file_variable(name) for name in SECRETS} | PORT_VARIABLES


def find_former_variables(environment: Mapping[str, str]) -> list[Finding]:
    """Return a warning for each variable that is set by its former name."""
    return [
        make_warning(
            get_variable(former),
            f"{get_variable(former)} is the former name of {get_variable(name)}: set that in its place.",
        )
        for name, former in FORMER_NAMES.items()
        if find_former_value(name, environment) is not None
    ]


def find_unknown_variables(environment: Mapping[str, str]) -> list[Finding]:
    """Return a warning for each LEDGERLINE_* variable that nothing reads, with the most similar known variable."""
    known = list_known_variables()
    found = []
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name in known or _SERVICE_LINK.search(name):
            continue
        if name.endswith("_FILE") and name.removesuffix("_FILE") in known:
            hint = f"set {name.removesuffix('_FILE')} itself, because only secrets may be in files"
        else:
            near = get_close_matches(name, known, 1, cutoff=0.7)
            hint = f"is {near[0]} meant?" if near else "docs/SETTINGS.md lists what there is"
        found.append(
            make_warning(name, f"{name} means nothing: {hint.rstrip('?.')}{'?' if hint.endswith('?') else '.'}")
        )
    return found


def list_origins(settings: Settings, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return each setting's variable, its value (secrets masked), and its origin: default, environment or file."""
    rows = []
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if name in SECRETS and environment.get(get_file_variable(name)):
            origin = f"file {environment[get_file_variable(name)]}"
        elif environment.get(get_variable(name)) or find_former_value(name, environment) is not None:
            origin = "environment"
        else:
            origin = "default"
        shown = "********" if isinstance(value, SecretStr) else value
        rows.append({"variable": get_variable(name), "value": shown, "from": origin})
    return rows
