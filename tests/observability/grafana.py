"""Dashboards queried as Grafana does: each panel's queries, with variables filled in, sent to a real Prometheus."""

import json
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import httpx

from ops.grafana.__main__ import FOLDER

GLOBALS: Final = {"__rate_interval": "1m", "__interval": "15s", "__range": "5m", "runbooks": "ops/runbooks"}
RANGE_SECONDS: Final = 60
STEP_SECONDS: Final = 5
REQUEST_SECONDS: Final = 30
# One client for all queries: to make a client takes as long as a query.
CLIENT: Final = httpx.Client(timeout=REQUEST_SECONDS)

_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True)
class Asked:
    """One query of one panel."""

    dashboard: str
    panel: str
    letter: str
    expression: str
    is_instant: bool

    def __str__(self) -> str:
        return f"{self.dashboard} / {self.panel} / {self.letter}"


def dashboards() -> list[dict[str, Any]]:
    """Return every dashboard that Grafana is provisioned with, as its file has it."""
    return [json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))]


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return a dashboard's panels, without the rows between them."""
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def filled_in(expression: str, dashboard: dict[str, Any]) -> str:
    """Return the expression with all values of every variable chosen; raise KeyError if a variable is not defined."""
    chosen = dict(GLOBALS)
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            chosen[variable["name"]] = variable["allValue"]
    return _VARIABLE.sub(lambda match: match[0] if match[1] == "1" else chosen[match[1] or match[2]], expression)


def asked(dashboard: dict[str, Any]) -> Iterator[Asked]:
    """Yield every query of a dashboard's panels."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            expression = filled_in(target["expr"], dashboard)
            yield Asked(dashboard["title"], panel["title"], target["refId"], expression, target["instant"])


def values(url: str, query: Asked) -> dict[str, list[float]]:
    """Return Prometheus's answer as labels -> values: of this moment, or of the last minute if the panel is a graph."""
    now = time.time()
    moment = {"time": now} if query.is_instant else {"start": now - RANGE_SECONDS, "end": now, "step": STEP_SECONDS}
    path = "query" if query.is_instant else "query_range"
    answer = CLIENT.post(f"{url}/api/v1/{path}", data={"query": query.expression, **moment})
    document = answer.json()
    assert document["status"] == "success", f"{query}: {document['error']}: {query.expression}"
    found = {}
    for series in document["data"]["result"]:
        points = [series["value"]] if query.is_instant else series["values"]
        numbers = [float(text) for _, text in points]
        if not all(math.isnan(number) for number in numbers):
            found[json.dumps(series["metric"], sort_keys=True)] = numbers
    return found
