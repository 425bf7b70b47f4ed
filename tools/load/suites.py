"""The suites: the requests of each, their rates, and the checks that must hold afterwards."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import Any, Final, NamedTuple

from tools.load.checks import (
    Check,
    Promised,
    hot_checks,
    posted_check,
    proof_checks,
    refusal_checks,
    storm_checks,
    threshold_checks,
)
from tools.load.evidence import Evidence
from tools.load.k6 import SCRIPTS, K6Run

THRESHOLDS_FILE: Final = SCRIPTS / "thresholds.json"
ITEMS: Final = 100
STEP_SECONDS: Final = 8
STEP_REST_SECONDS: Final = 3
# The steps of the search for the knee, as shares of the machine's calibrated rate.
STEP_SHARES: Final = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
SPIKE_FACTOR: Final = 10
FLOOD_POSTS: Final = 50
FLOOD_CLIENTS: Final = 60


class Plan(NamedTuple):
    """The rate and the duration of the load."""

    posts_per_second: float
    """The calibrated rate: single posts a second that the machine can post when they are sent without pause."""
    slowness: float = 1.0
    """How many times longer a lone post takes than on an idle machine. Time limits are multiplied by it."""
    minutes: float | None = None
    """Minutes of `load` and `soak`; None for their defaults."""

    def rate(self, share: float) -> int:
        """Return this share of `posts_per_second`, at least one a second."""
        return max(1, round(share * self.posts_per_second))


class Seen(NamedTuple):
    """All data of one run that the checks need."""

    name: str
    """The name of the run: its keys begin with it."""
    plan: Plan
    run: K6Run
    promised: Promised
    evidence: Evidence
    memory_growth: Mapping[str, float]
    """The share by which each process grew in the run; empty if memory was not sampled."""


@dataclass(frozen=True)
class Suite:
    """One kind of load."""

    name: str
    about: str
    scenarios: Callable[[Plan], Mapping[str, int]]
    """Scenario -> number of intents that one iteration sends under keys that can be recomputed."""
    variables: Callable[[Plan], Mapping[str, Any]]
    seconds: Callable[[Plan], float]
    """Approximate duration in seconds, for the progress bar."""
    more: Callable[[Seen], list[Check]] = lambda _seen: []
    """The checks of this suite beyond those of all suites."""
    may_reject: bool = False
    is_default: bool = True

    @property
    def script(self) -> str:
        """The suite's file in ops/k6."""
        return f"{self.name}.js"

    @property
    def limits(self) -> dict[str, float]:
        """The suite's limits in ops/k6/thresholds.json."""
        found: dict[str, float] = thresholds()["suites"][self.name]
        return found

    def judge(self, seen: Seen) -> list[Check]:
        """Return all checks of the run."""
        checks = threshold_checks(seen.run) if self.limits.get("p95_ms_max") else []
        if "posted_ratio_min" in self.limits:
            within = posted_within_seconds() * seen.plan.slowness
            checks.append(posted_check(seen.evidence.records, seen.promised, within, self.limits["posted_ratio_min"]))
        proof = proof_checks(seen.name, seen.run, seen.promised, seen.evidence, may_reject=self.may_reject)
        return [*checks, *self.more(seen), *refusal_checks(seen.promised), *proof]


@cache
def thresholds() -> dict[str, Any]:
    """Return the content of ops/k6/thresholds.json, which k6 reads as well."""
    found: dict[str, Any] = json.loads(THRESHOLDS_FILE.read_text())
    return found


def posted_within_seconds() -> float:
    """Return the seconds within which the required share of acknowledged intents must be posted."""
    return float(thresholds()["posted_within_seconds"])


def quiet_post_ms() -> float:
    """Return the median duration of a lone post on an idle machine, in milliseconds."""
    return float(thresholds()["quiet_post_ms"])


def knee(run: K6Run, rates: list[int], p95_ms: float, error_ratio: float) -> int | None:
    """Return the highest rate of posts a second that was fast enough, was not refused, and that k6 could send.

    Return None if no step held. A lower step that did not hold is noise of the machine, and does not count.
    """
    held = None
    for at, rate in enumerate(rates):
        scenario = f"{{scenario:step_{at}}}"
        duration = run.metrics.get(f"http_req_duration{scenario}", {}).get("p(95)", float("inf"))
        errors = run.metrics.get(f"ledgerline_failed{scenario}", {}).get("value", 1.0)
        wanted = rate * STEP_SECONDS
        dropped = run.count(f"dropped_iterations{scenario}")
        if duration <= p95_ms and errors <= error_ratio and dropped <= error_ratio * wanted:
            held = rate
    return held


def _step_rates(plan: Plan) -> list[int]:
    return sorted({plan.rate(share) for share in STEP_SHARES})


def _steps(plan: Plan) -> dict[str, int]:
    return {f"step_{at}": 1 for at in range(len(_step_rates(plan)))}


def _stress_checks(seen: Seen) -> list[Check]:
    limits = thresholds()["suites"]["stress"]
    rates = _step_rates(seen.plan)
    found = knee(seen.run, rates, limits["knee_p95_ms"] * seen.plan.slowness, limits["knee_error_ratio"])
    least = seen.plan.rate(limits["knee_share_min"])
    where = "none of the steps held" if found is None else f"{found:,}/s"
    where += ", the highest step" if found == rates[-1] else ""
    statuses = sorted({int(line["status"]) for line in seen.promised.refused.values()})
    return [
        Check("the knee: the highest rate that holds", f">= {least:,}/s", where, (found or 0) >= least),
        Check(
            "intents refused under stress", "> 0",
            f"{len(seen.promised.refused):,} ({', '.join(map(str, statuses)) or 'none'})", bool(statuses),
        ),
    ]  # fmt: skip


def _soak_checks(seen: Seen) -> list[Check]:
    most = thresholds()["suites"]["soak"]["memory_growth_max"]
    return [
        Check(f"memory of {name} grew", f"<= {most:.0%}", f"{grown:+.1%}", grown <= most)
        for name, grown in sorted(seen.memory_growth.items())
    ]


def _steady_seconds(plan: Plan, minutes: float) -> float:
    return 60 * (minutes if plan.minutes is None else plan.minutes)


def _steady(plan: Plan, minutes: float) -> dict[str, Any]:
    return {
        "RATE": plan.rate(0.25),
        "BATCH_RATE": max(1, plan.rate(0.25) // ITEMS),
        "ITEMS": ITEMS,
        "SECONDS": round(_steady_seconds(plan, minutes)),
    }


_POSTS_AND_BATCHES: Final = {"posts": 1, "batches": ITEMS}
_SPIKE: Final = {"RATE": 0.1, "SECONDS": 10, "SPIKE_SECONDS": 5, "RECOVERY_SECONDS": 10}

SUITES: Final[dict[str, Suite]] = {
    suite.name: suite
    for suite in (
        Suite(
            "smoke",
            "does every way in work: posts that wait for their outcome and are looked up, small batches",
            lambda _plan: {"posts": 1, "batches": 20},
            lambda _plan: {"RATE": 10, "BATCH_RATE": 1, "ITEMS": 20, "SECONDS": 10},
            lambda _plan: 10,
        ),
        Suite(
            "load",
            "single posts at a quarter of what the machine is good for, and as many intents in batches",
            lambda _plan: _POSTS_AND_BATCHES,
            lambda plan: _steady(plan, 1),
            lambda plan: _steady_seconds(plan, 1),
        ),
        Suite(
            "idempotency_storm",
            "the same keys from forty clients at once, with the same body and with others",
            lambda _plan: {},
            lambda _plan: {"KEYS": 50, "CLIENTS": 40},
            lambda _plan: 15,
            lambda seen: storm_checks(seen.promised, seen.evidence),
        ),
        Suite(
            "hot_account",
            "all credit one account; then all draw one with a floor until it is empty",
            lambda _plan: {"credits": 1, "draws": 1},
            lambda plan: {"RATE": plan.rate(0.25), "SECONDS": 10, "DRAWS": 1500, "CLIENTS": 40},
            lambda _plan: 20,
            lambda seen: hot_checks(seen.name, seen.run, seen.promised, seen.evidence),
            may_reject=True,
        ),
        Suite(
            "spike",
            f"{SPIKE_FACTOR} times the usual for five seconds, and as usual again ten seconds later",
            lambda _plan: dict.fromkeys(("before", "spike", "recovery", "after"), 1),
            lambda plan: {"FACTOR": SPIKE_FACTOR} | _SPIKE | {"RATE": plan.rate(_SPIKE["RATE"])},
            lambda _plan: 2 * _SPIKE["SECONDS"] + _SPIKE["SPIKE_SECONDS"] + _SPIKE["RECOVERY_SECONDS"],
        ),
        Suite(
            "stress",
            "rates that rise until it breaks, then a flood: refused with Retry-After, and nothing lost",
            lambda plan: _steps(plan) | {"flood": FLOOD_POSTS, "throttled": 1},
            lambda plan: {
                "RATES": ",".join(map(str, _step_rates(plan))), "SECONDS": STEP_SECONDS, "FLOOD_CLIENTS": FLOOD_CLIENTS,
            },
            lambda plan: ceil(len(_step_rates(plan)) * (STEP_SECONDS + STEP_REST_SECONDS) + 15),
            _stress_checks,
            is_default=False,
        ),
        Suite(
            "soak",
            "the same as load for ten minutes, in which no process may grow",
            lambda _plan: _POSTS_AND_BATCHES,
            lambda plan: _steady(plan, 10),
            lambda plan: _steady_seconds(plan, 10),
            _soak_checks,
            is_default=False,
        ),
    )
}  # fmt: skip

DEFAULTS: Final = tuple(name for name, suite in SUITES.items() if suite.is_default)
