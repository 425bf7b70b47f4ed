"""Run a suite: the load, the wait for reconciliation, the judgement and the cost."""

import secrets
import time
from collections.abc import Callable, Mapping
from math import ceil
from typing import Any, Final, NamedTuple

import psutil

from tools.bench.disk import disk_bytes
from tools.bench.figures import growth
from tools.bench.processor_time import used_since
from tools.load.checks import Check, posted_ratio, promises
from tools.load.costs import GENERATOR, POSTED_MIN, Cost, cost_per_thousand
from tools.load.evidence import gather, stand_now, wait_posted, wait_reconciled
from tools.load.k6 import K6Error, K6Run, run_k6
from tools.load.ledger import LoadLedger
from tools.load.suites import Plan, Seen, Suite, posted_within_seconds, quiet_post_ms

RECONCILED_SECONDS_MAX: Final = 300.0
CALIBRATION_CLIENTS: Final = 40
CALIBRATION_SECONDS: Final = 5
LONE_SECONDS: Final = 3
# Fewer samples than this say nothing about growth. The first tenth is left out, because caches fill then.
MEMORY_SAMPLES_MIN: Final = 40

Progress = Callable[[str, float, float], None]
"""Called with the name of the current step, how much of it is done, and its total."""


class Result(NamedTuple):
    """The result of a suite."""

    suite: str
    checks: list[Check]
    seconds: float
    """Duration of the load alone."""
    requests: int
    acknowledged: int
    refused: int
    posted: int
    rejected: int
    http_ms: dict[str, dict[str, float]]
    """Scenario -> `p50`, `p95`, `p99` and `max` of its requests, its `iterations`, and the iterations `dropped`
    because k6 had no free client."""
    posted_seconds: dict[str, float]
    """`p50`, `p95`, `p99` and `max` of the time from Kafka's acceptance of an intent to its relayed record."""
    posted_ratio: float
    """The share of acknowledged intents that were settled in time."""
    reconciled_seconds: float
    """Seconds that reconciliation took after the load had ended."""
    processor_seconds: dict[str, float]
    cost: Cost | None
    disk_bytes_each: float | None
    memory_growth: dict[str, float]

    @property
    def held(self) -> bool:
        """Whether every check held."""
        return all(check.held for check in self.checks)


def calibrate(target: LoadLedger, minutes: float | None, progress: Progress) -> Plan:
    """Measure the machine's speed now: the rate of posts sent without pause, up to the posting of the last one.

    Measure also how slow a lone post is, which shows how busy other programs keep the machine. The measurement runs
    twice and the first result is dropped, because processes that have just started still fill their caches.
    """
    _calibrate(target, minutes, progress, lone_seconds=1, posts_seconds=3)
    return _calibrate(target, minutes, progress, lone_seconds=LONE_SECONDS, posts_seconds=CALIBRATION_SECONDS)


def _calibrate(
    target: LoadLedger, minutes: float | None, progress: Progress, *, lone_seconds: int, posts_seconds: int
) -> Plan:
    seconds = lone_seconds + posts_seconds
    run = run_k6(
        "calibration.js",
        url=target.url,
        key=target.key,
        variables={
            "RUN": run_name("calibration"), "SECONDS": str(posts_seconds), "CLIENTS": str(CALIBRATION_CLIENTS),
            "LONE_SECONDS": str(lone_seconds),
        },
        watch=lambda elapsed: progress("calibration", min(elapsed, seconds), seconds),
    )  # fmt: skip
    ended = time.monotonic()
    wait_posted(target.ledger, RECONCILED_SECONDS_MAX)
    posts = run.count("ledgerline_acknowledged{scenario:posts}")
    lone_ms = float(run.metrics["http_req_duration{scenario:lone}"]["med"])
    rate = posts / (posts_seconds + time.monotonic() - ended)
    if not posts:
        raise K6Error(f"Not one post was acknowledged at {target.url}: look at what `ledgerline status` says of it.")
    return Plan(rate, max(1.0, lone_ms / quiet_post_ms()), minutes)


def run_name(suite: str) -> str:
    """Return a new unique name for a run. All keys and accounts of the run contain it."""
    return f"{suite.replace('_', '-')}-{secrets.token_hex(4)}"


def run_suite(suite: Suite, plan: Plan, target: LoadLedger, progress: Progress) -> Result:
    """Run one suite against a ledger, and judge it. Raise LedgerlineError if it could not be run or judged."""
    name = run_name(suite.name)
    ledger = target.ledger
    before = stand_now(ledger)
    disk_before = _disk(target)
    processor_time = target.processor_time()
    used_before = processor_time.seconds()
    memory = _Memory(target.services())
    seconds = suite.seconds(plan)

    def watch(elapsed: float) -> None:
        progress(f"{suite.name}: load", min(elapsed, seconds), seconds)
        memory.look()

    variables = {key: str(value) for key, value in suite.variables(plan).items()}
    variables |= {"RUN": name, "SLOWNESS": str(plan.slowness)}
    if target.throttled_key is not None:
        variables["KEY_THROTTLED"] = target.throttled_key
    run = run_k6(suite.script, url=target.url, key=target.key, variables=variables, watch=watch)
    ended = time.monotonic()
    after = wait_reconciled(
        ledger, RECONCILED_SECONDS_MAX, lambda done, total: progress(f"{suite.name}: reconciliation", done, total)
    )
    reconciled_seconds = time.monotonic() - ended
    used = used_since(used_before, processor_time.seconds()) | {GENERATOR: run.processor_seconds}
    evidence = gather(ledger, name, before, after, (f"assets:{name}:", f"users:{name}:", f"liabilities:{name}:"))
    promised = promises(run, name, suite.scenarios(plan))
    seen = Seen(name, plan, run, promised, evidence, memory.growth())
    settled = [record for record in evidence.records if record.is_settled]
    posted = sum(record.outcome == "posted" for record in settled)
    all_posted = sum(lane.posted for lane in after.lanes.values()) - sum(lane.posted for lane in before.lanes.values())
    disk_gained = None if disk_before is None else sum((_disk(target) or {}).values()) - sum(disk_before.values())
    return Result(
        suite.name,
        suite.judge(seen),
        run.seconds,
        run.count("http_reqs"),
        len(promised.acknowledged),
        len(promised.refused),
        posted,
        len(settled) - posted,
        _http(run),
        percentiles([record.seconds for record in settled]),
        posted_ratio(settled, promised.acknowledged, posted_within_seconds() * plan.slowness),
        reconciled_seconds,
        used,
        cost_per_thousand(used, all_posted),
        disk_gained / all_posted if disk_gained is not None and all_posted >= POSTED_MIN else None,
        dict(seen.memory_growth),
    )


def _disk(target: LoadLedger) -> dict[str, int] | None:
    """Return the bytes of the ledger's tables and indexes; None if the ledger does not run on this machine."""
    return None if target.state is None else disk_bytes(target.ledger.postgres_dsn, "ledger")


def _http(run: K6Run) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for name, values in sorted(run.metrics.items()):
        scenario = name.removeprefix("http_req_duration{scenario:").removesuffix("}")
        iterations = run.count(f"iterations{{scenario:{scenario}}}")
        if scenario == name or not iterations:
            continue
        found[scenario] = {
            "p50": values["med"], "p95": values["p(95)"], "p99": values["p(99)"], "max": values["max"],
            "iterations": iterations, "dropped": run.count(f"dropped_iterations{{scenario:{scenario}}}"),
        }  # fmt: skip
    return found


def percentiles(values: list[float]) -> dict[str, float]:
    """Return `p50`, `p95`, `p99` and `max` by nearest rank; empty for no values."""
    ordered = sorted(values)
    if not ordered:
        return {}
    at = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: ordered[ceil(share * len(ordered)) - 1] for name, share in at.items()}


class _Memory:
    """Samples of the resident memory of processes while a load runs, in bytes."""

    def __init__(self, processes: Mapping[str, psutil.Process]) -> None:
        self._processes = processes
        self._samples: dict[str, list[float]] = {name: [] for name in processes}

    def look(self) -> None:
        """Take a sample of each process that still runs."""
        for name, process in self._processes.items():
            try:
                self._samples[name].append(float(process.memory_info().rss))
            except psutil.NoSuchProcess:
                continue  # restarted or gone: its samples end here, and the run goes on

    def growth(self) -> dict[str, float]:
        """Return the share by which each process grew from its second tenth to its last. Omit it if samples are few."""
        return {
            name: growth(found[len(found) // 10 :])
            for name, found in self._samples.items()
            if len(found) >= MEMORY_SAMPLES_MIN
        }


def document(result: Result) -> dict[str, Any]:
    """Return the result as a document for JSON."""
    plain = result._asdict()
    plain["checks"] = [check._asdict() for check in result.checks]
    plain["cost"] = None if result.cost is None else result.cost._asdict()
    return {"suite": result.suite, "held": result.held} | plain
