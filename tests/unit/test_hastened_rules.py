"""A test's Prometheus has the same rules with shorter waits and windows. The comparisons do not change."""

import re
from pathlib import Path

import pytest
import yaml

from ops.observing.configuration import SOURCE, Haste, hastened, seconds_of, write_configuration

HASTE = Haste(factor=60, window_seconds_min=4, wait_seconds_min=1)


@pytest.mark.parametrize(
    ("text", "shortened"),
    [
        ("rate(x[5m])", "rate(x[5000ms])"),
        ("increase(x[1h30m])", "increase(x[90000ms])"),
        ("rate(x[1m])", "rate(x[4000ms])"),  # a window must hold two scrapes
        ("x[3s]", "x[3000ms]"),  # a window never becomes longer
        ("max_over_time(x[1h:1m])", "max_over_time(x[60000ms:1000ms])"),
        ("x offset 10m", "x offset 10000ms"),
        ("x offset 5s > 5", "x offset 4000ms > 5"),
        ("ledgerline:ratio5m > 30", "ledgerline:ratio5m > 30"),
        ("predict_linear(x[6h], 24 * 3600)", "predict_linear(x[360000ms], 24 * 3600)"),
        ("        for: 10m\n", "        for: 10000ms\n"),
        ("        for: 1m\n", "        for: 1000ms\n"),
        ('summary: "waits for: 10m"', 'summary: "waits for: 10m"'),
        ("    interval: 1m\n", "    interval: 1s\n"),
        ("  scrape_interval: 15s\n  scrape_timeout: 10s\n", "  scrape_interval: 1s\n  scrape_timeout: 1s\n"),
    ],
)
def test_what_is_shortened(text: str, shortened: str) -> None:
    assert hastened(text, HASTE) == shortened


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("15s", 15), ("1h30m", 5400), ("3d", 259_200), ("1w", 604_800)]
)
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


def test_what_is_long_is_bounded() -> None:
    assert hastened("rate(x[3d]) > rate(x[5m])", Haste(60, seconds_max=30)) == "rate(x[30000ms]) > rate(x[5000ms])"


def test_every_wait_and_window_of_the_rules_is_shortened(tmp_path: Path) -> None:
    """Without durations the two sets of files are the same, so nothing else changes."""
    write_configuration(tmp_path, {}, HASTE)
    duration = re.compile(r"\b(\d+(?:ms|[smhd]))+\b")
    for source in (SOURCE / "prometheus.yml", *(SOURCE / "rules").glob("*.yml")):
        before, after = source.read_text(), (tmp_path / source.relative_to(SOURCE)).read_text()
        assert duration.sub("", before) == duration.sub("", after)
        waits = [rule.get("for") for group in yaml.safe_load(after).get("groups", ()) for rule in group["rules"]]
        assert all(wait is None or wait.endswith("ms") for wait in waits)
        windows = re.findall(
            r"\[([^\]:]+)(?::[^\]]*)?\]", "\n".join(line for line in after.splitlines() if "files:" not in line)
        )
        assert all(window.endswith("ms") for window in windows if duration.fullmatch(window))


def test_unhastened_rules_are_the_files_themselves(tmp_path: Path) -> None:
    write_configuration(tmp_path, {})
    for source in (SOURCE / "rules").glob("*.yml"):
        assert (tmp_path / "rules" / source.name).read_text() == source.read_text()
