"""promtool accepts the rules of ops/prometheus, and each alert has tests, a runbook and metrics that exist."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from ops.observing.configuration import JOBS, SOURCE, Target, write_configuration
from ops.observing.programs import PROMTOOL, Programs
from runtime.settings import REPOSITORY_ROOT
from tests.unit.test_documents import metrics

CACHE: Final = Path(os.environ.get("LEDGERLINE_HOME", REPOSITORY_ROOT / ".ledgerline")) / "cache"
RUNBOOKS: Final = REPOSITORY_ROOT / "ops" / "runbooks"
RULES: Final = {path.name: yaml.safe_load(path.read_text()) for path in sorted((SOURCE / "rules").glob("*.yml"))}
TESTS: Final = sorted((SOURCE / "tests").glob("*.yml"))
ALERTS: Final = {
    rule["alert"]: rule
    for file in RULES.values()
    for group in file["groups"]
    for rule in group["rules"]
    if "alert" in rule
}
RECORDED: Final = {
    rule["record"] for file in RULES.values() for group in file["groups"] for rule in group["rules"] if "record" in rule
}
# Prefixes of metrics that others export and the rules read.
EXPORTED: Final = ("kafka_", "node_filesystem_", "pg_", "process_start_time_seconds", "prometheus_rule_", "up")
# Runbook pages without an alert: an operator starts these procedures.
OTHER_PAGES: Final = {"lanes.md", "offsets.md", "replay.md", "restore.md"}


def promtool(*arguments: str) -> str:
    program = Programs(CACHE, lambda _message: None).find(PROMTOOL)
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_configuration_is_sound_as_a_ledger_gets_it(tmp_path: Path) -> None:
    targets = {job: [Target("127.0.0.1:9100", {"service": "posting"})] for job in JOBS}
    said = promtool("check", "config", str(write_configuration(tmp_path, targets)))
    assert "WARNING" not in said
    assert json.loads((tmp_path / "targets" / "ledgerline.json").read_text()) == [
        {"targets": ["127.0.0.1:9100"], "labels": {"service": "posting"}}
    ]


def test_containers_are_scraped_by_the_same_jobs_and_rules() -> None:
    promtool("check", "config", str(SOURCE / "prometheus-compose.yml"))
    ours, theirs = (
        yaml.safe_load((SOURCE / name).read_text()) for name in ("prometheus.yml", "prometheus-compose.yml")
    )
    discovery = {"file_sd_configs", "dns_sd_configs", "static_configs", "relabel_configs"}
    for configuration in (ours, theirs):
        assert tuple(job["job_name"] for job in configuration["scrape_configs"]) == JOBS
        for job in configuration["scrape_configs"]:
            for way in discovery & job.keys():
                del job[way]
    assert ours == theirs


def test_the_rules_are_sound() -> None:
    promtool("check", "rules", *(str(SOURCE / "rules" / name) for name in RULES))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_rules_fire_and_do_not(path: Path) -> None:
    promtool("test", "rules", str(path))


def cases(alert: str) -> Iterator[tuple[dict[str, Any], bool]]:
    """Yield each test group that asks for an alert, and whether the alert must fire there."""
    for path in TESTS:
        for group in yaml.safe_load(path.read_text())["tests"]:
            for asked in group["alert_rule_test"]:
                if asked["alertname"] == alert:
                    yield group, bool(asked["exp_alerts"])


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_is_tested_firing_not_firing_and_without_series(alert: str) -> None:
    found = list(cases(alert))
    assert any(fires for group, fires in found if group["input_series"])
    assert any(not fires for group, fires in found if group["input_series"])
    assert [group["name"] for group, _ in found if not group["input_series"]] == ["no series at all"]


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_says_how_urgent_it_is_and_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert alert.startswith("Ledgerline")
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    base, _, page = rule["annotations"]["runbook_url"].rpartition("/")
    assert base == "{{ $externalLabels.runbooks }}"
    assert f"`{alert}`" in spelled_out((RUNBOOKS / page).read_text())


def spelled_out(text: str) -> str:
    """Return a runbook's text with each `...6h` written out as the full name of the alert."""
    return text.replace("`...", "`LedgerlineIntentsLateBurn")


def test_each_runbook_is_linked_by_an_alert() -> None:
    linked = {rule["annotations"]["runbook_url"].rpartition("/")[2] for rule in ALERTS.values()}
    assert linked | OTHER_PAGES == {path.name for path in RUNBOOKS.glob("*.md")}
    assert not linked & OTHER_PAGES


@pytest.mark.parametrize("name", sorted(RULES))
def test_rules_ask_for_metrics_that_there_are(name: str) -> None:
    known = {found for found, _, _ in metrics()}
    for group in RULES[name]["groups"]:
        for rule in group["rules"]:
            words = set(
                re.findall(
                    r"[a-z_]+(?::[a-z0-9_]+)+|\b(?:ledgerline|kafka|node|pg|prometheus|process)_\w+", rule["expr"]
                )
            )
            assert words or "up{" in rule["expr"], rule
            for word in words - RECORDED:
                plain = re.sub(r"_(bucket|count|sum)$", "", word) if word.startswith("ledgerline_") else word
                assert plain in known or word.startswith(EXPORTED), f"{word} is nobody's metric"


def test_the_list_of_alerts_is_whole() -> None:
    listed = re.findall(
        r"^\| `(\w+)` \| (\w+) \| [^|]+ \| \[[a-z-]+\]\(\.\./ops/runbooks/([a-z-]+\.md)\) \|$",
        (REPOSITORY_ROOT / "docs" / "ALERTS.md").read_text(),
        re.MULTILINE,
    )
    assert listed == [
        (alert, rule["labels"]["severity"], rule["annotations"]["runbook_url"].rpartition("/")[2])
        for alert, rule in ALERTS.items()
    ]
