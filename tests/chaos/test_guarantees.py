"""docs/guarantees.md states the promise of each scenario, and only promises that a scenario proves."""

import re

from runtime.faults import FAULT_POINTS
from runtime.settings import REPOSITORY_ROOT
from tools.chaos.scenarios.catalog import SCENARIOS

PAGE = (REPOSITORY_ROOT / "docs" / "guarantees.md").read_text()


def test_the_page_has_each_promise_with_its_scenario() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+?) \| ", PAGE, re.MULTILINE)
    assert dict(rows) == {scenario.name: scenario.promise for scenario in SCENARIOS}
    assert len(rows) == len(SCENARIOS)


def test_each_promise_is_a_sentence_of_its_own() -> None:
    promises = [scenario.promise for scenario in SCENARIOS]
    assert len(set(promises)) == len(promises)
    assert all(promise[0].isupper() and promise.endswith(".") for promise in promises)


def test_every_fault_point_has_its_scenario() -> None:
    names = {scenario.name for scenario in SCENARIOS}
    of = {"posting": "worker-killed", "relay": "relay-killed", "worker": "capability-worker-killed"}
    for service, name in of.items():
        for point in FAULT_POINTS[service]:
            assert f"{name}-{point.replace('_', '-')}" in names
    assert FAULT_POINTS.keys() == {*of, "api"}
    assert FAULT_POINTS["api"].keys() == {"acknowledged"}
    assert "api-killed-before-answer" in names
