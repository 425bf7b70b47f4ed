"""The files that a Prometheus beside a ledger reads: ops/prometheus unchanged, with files that name the targets.

A test shortens the times of the same rules: every wait and every window is divided by a factor, so that a test sees in
seconds what takes an hour. The thresholds in the expressions (5 s, 0.01, 80 percent) stay the same.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from runtime.settings import REPOSITORY_ROOT

SOURCE: Final = REPOSITORY_ROOT / "ops" / "prometheus"
JOBS: Final = ("ledgerline", "kafka", "postgres", "node", "prometheus")
"""The jobs of prometheus.yml; each has a file of targets."""

_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_DURATION: Final = r"(?:\d+(?:ms|[smhdw]))+"
_WINDOW: Final = re.compile(rf"\[({_DURATION})(?::({_DURATION}))?\]|\boffset ({_DURATION})")
_WAIT: Final = re.compile(rf"^(\s+for: )({_DURATION})$", re.MULTILINE)
_PACE: Final = re.compile(rf"^(\s+(?:(?:scrape|evaluation)_)?(?:interval|timeout): ){_DURATION}$", re.MULTILINE)


@dataclass(frozen=True)
class Target:
    """One address to scrape, host:port, and the labels that its series get in addition to `job` and `instance`."""

    address: str
    labels: Mapping[str, str] = field(default_factory=dict)


Targets = Mapping[str, Sequence[Target]]
"""The targets of each job of JOBS; a job that is left out has none."""


@dataclass(frozen=True)
class Haste:
    """The shorter times of a test: waits and windows are divided by `factor`, within bounds; scrapes are every second.

    A window has a minimum because a rate needs two scrapes.
    """

    factor: float
    window_seconds_min: float = 4.0
    wait_seconds_min: float = 1.0
    seconds_max: float = math.inf
    scrape_seconds: int = 1


def write_configuration(folder: Path, targets: Targets, haste: Haste | None = None) -> Path:
    """Write configuration, rules and targets into a folder; returns the configuration's file."""
    (folder / "rules").mkdir(parents=True, exist_ok=True)
    for source in (SOURCE / "prometheus.yml", *sorted((SOURCE / "rules").glob("*.yml"))):
        text = source.read_text()
        (folder / source.relative_to(SOURCE)).write_text(text if haste is None else hastened(text, haste))
    write_targets(folder, targets)
    return folder / "prometheus.yml"


def write_targets(folder: Path, targets: Targets) -> None:
    """Write a file of targets for each job; a running Prometheus sees it change and needs no reload."""
    (folder / "targets").mkdir(exist_ok=True)
    for job in JOBS:
        groups = [{"targets": [target.address], "labels": dict(target.labels)} for target in targets.get(job, ())]
        draft = folder / "targets" / f"{job}.draft"
        # If the file had no group, a Prometheus that reloads it would keep its old targets.
        draft.write_text(json.dumps(groups or [{"targets": []}], indent=2) + "\n")
        draft.replace(folder / "targets" / f"{job}.json")


def hastened(text: str, haste: Haste) -> str:
    """Return a configuration or a file of rules with every `for`, range, offset and interval shortened.

    Nothing becomes longer than it was.
    """

    def window(match: re.Match[str]) -> str:
        span, step, offset = match.groups()
        floor = haste.window_seconds_min
        if offset is not None:
            return f"offset {_shortened(offset, haste, floor)}"
        inner = "" if step is None else f":{_shortened(step, haste, haste.scrape_seconds)}"
        return f"[{_shortened(span, haste, floor)}{inner}]"

    text = _WINDOW.sub(window, text)
    text = _WAIT.sub(lambda match: match[1] + _shortened(match[2], haste, haste.wait_seconds_min), text)
    return _PACE.sub(lambda match: f"{match[1]}{haste.scrape_seconds}s", text)


def seconds_of(duration: str) -> float:
    """Return the seconds of a Prometheus duration, such as 1h30m."""
    return sum(int(number) * _UNIT_SECONDS[unit] for number, unit in re.findall(r"(\d+)(ms|[smhdw])", duration))


def _shortened(duration: str, haste: Haste, seconds_min: float) -> str:
    seconds = seconds_of(duration)
    return f"{min(seconds, haste.seconds_max, max(seconds / haste.factor, seconds_min)) * 1000:.0f}ms"
