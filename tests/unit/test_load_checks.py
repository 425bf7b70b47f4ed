"""The load tests without a load: promises and their violations, costs, and agreement with docs/LOAD.md."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import pytest

from db.reconciled import ReconciledLane, ReconciledSum
from domain.errors import LedgerlineError
from runtime.settings import REPOSITORY_ROOT
from tools.load.__main__ import main
from tools.load.checks import Check, hot_checks, posted_ratio, promises, proof_checks, refusal_checks, storm_checks
from tools.load.costs import POSTED_MIN, cost_per_thousand, of_the_ledger
from tools.load.evidence import Evidence, NotReconciled, Record, require_agreement
from tools.load.hostile import MEMORY_BYTES_MAX, Hostile, Phase, judge_phases
from tools.load.k6 import SCRIPTS, K6Run, broken_thresholds
from tools.load.report import HEADINGS, broken, cells, markdown, run_document, text_table
from tools.load.runner import Result, percentiles
from tools.load.suites import DEFAULTS, STEP_SECONDS, SUITES, Plan, Seen, knee, thresholds

RUN: Final = "load-1"
KEYS: Final = [f"{RUN}-posts-{number}" for number in range(4)]


def k6_run(*lines: dict[str, Any], **metrics: Mapping[str, Any]) -> K6Run:
    counts = {"iterations{scenario:posts}": {"count": 4}, "ledgerline_acknowledged": {"count": 4 - len(lines)}}
    return K6Run(counts | metrics, list(lines), broken_thresholds(metrics), 10.0, 1.0)


def refused(key: str, status: int = 503, retry_after: str | None = "1") -> dict[str, Any]:
    return {"kind": "refused", "key": key, "status": status, "retry_after": retry_after}


def record(key: str, outcome: str = "posted", seq: int = 0, **more: Any) -> Record:
    made = Record(key, "default", f"id of {key}", outcome, "", 0, seq, (), 0.1)
    return made._replace(**more)


def evidence(records: list[Record], **more: Any) -> Evidence:
    return Evidence(records, 0, [], {})._replace(**more)


def not_held(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.found for check in checks if not check.held}


def judged(run: K6Run, found: Evidence, *, may_reject: bool = False) -> dict[str, str]:
    return not_held(proof_checks(RUN, run, promises(run, RUN, {"posts": 1}), found, may_reject=may_reject))


ALL: Final = [record(key, seq=seq) for seq, key in enumerate(KEYS)]


def test_every_key_is_known_from_the_number_of_iterations() -> None:
    run = K6Run({"iterations{scenario:batches}": {"count": 2}}, [refused("r-batches-3")], [], 1, 1)
    promised = promises(run, "r", {"batches": 2, "posts": 1})
    assert promised.acknowledged == {"r-batches-0", "r-batches-1", "r-batches-2"}
    assert promised.refused.keys() == {"r-batches-3"}
    assert promised.numbered == 3


def test_what_was_acknowledged_and_posted_once_holds() -> None:
    assert judged(k6_run(), evidence(ALL)) == {}
    assert judged(k6_run(refused(KEYS[3])), evidence(ALL[:3])) == {}
    # A refusal promises nothing, so a refused intent may be posted nevertheless.
    assert judged(k6_run(refused(KEYS[3])), evidence(ALL)) == {}


@pytest.mark.parametrize(
    ("records", "name", "found"),
    [
        (ALL[:3], "acknowledged, but not settled", KEYS[3]),
        ([*ALL[:3], record(KEYS[3], "duplicate")], "acknowledged, but not settled", KEYS[3]),
        ([*ALL, record(KEYS[0], seq=9)], "settled more than once", KEYS[0]),
        ([*ALL[:3], record(KEYS[3], "rejected")], "rejected, or worse", KEYS[3]),
        ([*ALL, record(f"{RUN}-posts-4")], "in the journal, but never sent", f"{RUN}-posts-4"),
        ([*ALL, record(KEYS[0], "quarantined", 9)], "quarantined", KEYS[0]),
    ],
)
def test_a_broken_promise_is_named(records: list[Record], name: str, found: str) -> None:
    assert judged(k6_run(), evidence(records)) == {name: found}


def test_many_broken_promises_are_counted() -> None:
    run = K6Run({"iterations{scenario:posts}": {"count": 9}, "ledgerline_acknowledged": {"count": 9}}, [], [], 1, 1)
    assert judged(run, evidence([]))["acknowledged, but not settled"].endswith(f"{RUN}-posts-4 and 4 more")


def test_k6_must_have_counted_as_many_as_its_keys_say() -> None:
    run = k6_run()
    cut_off = run._replace(metrics={**run.metrics, "ledgerline_acknowledged": {"count": 3}})
    assert judged(cut_off, evidence(ALL)) == {"acknowledged intents, by k6's own count": "4"}


def test_new_breaks_and_other_sums_than_the_records_are_named() -> None:
    account = f"assets:{RUN}:a1"
    moved = [record(KEYS[0], legs=((account, "debit", 100),)), *ALL[1:]]
    right = ReconciledSum(account, "EUR", 100, 0)
    assert judged(k6_run(), evidence(moved, sums=[right])) == {}
    wrong = {"accounts whose sums reconciliation has otherwise": account}
    assert judged(k6_run(), evidence(moved, sums=[right._replace(debits_minor=99)])) == wrong
    assert judged(k6_run(), evidence(moved)) == wrong
    assert judged(k6_run(), evidence(ALL, breaks={"audit chain": 2})) == {"new breaks": "2 audit chain"}


def test_a_rejection_is_an_outcome_where_the_suite_says_so() -> None:
    rejected = [*ALL[:3], record(KEYS[3], "rejected", 3)]
    assert judged(k6_run(), evidence(rejected), may_reject=True) == {}


@pytest.mark.parametrize(
    ("line", "is_polite"),
    [
        (refused(KEYS[0]), True),
        (refused(KEYS[0], 429), True),
        (refused(KEYS[0], 503, None), False),
        (refused(KEYS[0], 500), False),
        (refused(KEYS[0], 0), False),
    ],
)
def test_who_is_refused_is_told_when_to_come_again(line: dict[str, Any], is_polite: bool) -> None:
    promised = promises(k6_run(line), RUN, {"posts": 1})
    assert all(check.held for check in refusal_checks(promised)) is is_polite


def test_posted_in_time_is_a_share_of_what_was_acknowledged() -> None:
    late = [ALL[0]._replace(seconds=6.0), *ALL[1:3]]
    assert posted_ratio(late, set(KEYS), 5.0) == 0.5
    assert posted_ratio([], set(), 5.0) == 1.0


def test_reconciliation_must_agree_with_the_topic() -> None:
    begin = ReconciledLane(0, 0, 5, 5, 0, 0, 0, 0)
    end = ReconciledLane(0, 9, 7, 6, 1, 0, 0, 0)
    records: list[dict[str, Any]] = [{"seq": 5, "outcome": "posted"}, {"seq": 6, "outcome": "duplicate"}]
    require_agreement(begin, end, records)
    for other in (
        records[:1],
        [*records, {"seq": 7, "outcome": "posted"}],
        [records[0], {"seq": 6, "outcome": "posted"}],
    ):
        with pytest.raises(NotReconciled):
            require_agreement(begin, end, other)


# ------------------------------------------------------------------------------------------------- storm, hot account


def answer(key: str, asked: str, status: int = 200, **more: Any) -> dict[str, Any]:
    is_taken = status == 200
    return {
        "kind": "answer", "key": key, "asked": asked, "status": status,
        "intent_id": f"id of {key}" if is_taken else None, "result": "posted" if is_taken else None,
        "problem": None if is_taken else "https://ledgerline.dev/problems/idempotency-conflict",
        "retry_after": None, "replayed": asked.startswith("again"),
    } | more  # fmt: skip


STORM_KEY: Final = f"{RUN}-storm-0"
STORM: Final = [
    answer(STORM_KEY, "same"), answer(STORM_KEY, "same"), answer(STORM_KEY, "other", 422),
    answer(STORM_KEY, "again same"), answer(STORM_KEY, "again other", 422),
]  # fmt: skip
STORM_RECORDS: Final = [record(STORM_KEY), record(STORM_KEY, "duplicate", 1, lane=1)]


def storm(lines: list[dict[str, Any]], records: list[Record]) -> dict[str, str]:
    return not_held(storm_checks(promises(k6_run(*lines), RUN, {}), evidence(records)))


def test_a_storm_in_which_one_body_won_holds() -> None:
    assert storm(STORM, STORM_RECORDS) == {}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (answer(STORM_KEY, "other"), "keys that took more than one body"),
        (answer(STORM_KEY, "same", intent_id="another"), "keys whose answers have another id than the journal"),
        (answer(STORM_KEY, "same", 500), "answers other than 200, or 422 idempotency-conflict"),
        (answer(STORM_KEY, "same", result="rejected"), "answers other than 200, or 422 idempotency-conflict"),
        (answer(STORM_KEY, "again same", replayed=False), "answers other than 200, or 422 idempotency-conflict"),
        (answer(f"{RUN}-storm-1", "same"), "keys of the storm that were posted"),
    ],
)
def test_a_storm_that_did_otherwise_is_named(line: dict[str, Any], name: str) -> None:
    assert name in storm([*STORM, line], STORM_RECORDS)


def test_a_storm_that_was_none_does_not_count() -> None:
    assert set(storm(STORM, STORM_RECORDS[:1])) == {"deliveries that moved nothing", "keys that met in two lanes"}


WALLET: Final = f"users:{RUN}:wallet"
FUND: Final = record(f"{RUN}-fund", lane=1, legs=((WALLET, "credit", 100),))
DRAWN: Final = record(f"{RUN}-draws-0", legs=((WALLET, "debit", 100),))
SHORT: Final = record(f"{RUN}-draws-1", "rejected", 1, reason="insufficient_funds")


def hot(*records: Record, results: tuple[str, str] = ("posted", "rejected")) -> dict[str, str]:
    lines = [answer(f"{RUN}-draws-{at}", "draw", result=result) for at, result in enumerate(results)]
    run = k6_run(*lines, **{"iterations{scenario:watch}": {"count": 3}})
    return not_held(hot_checks(RUN, run, promises(run, RUN, {}), evidence(list(records))))


def test_an_account_with_a_floor_that_gave_what_it_had_holds() -> None:
    assert hot(FUND, DRAWN, SHORT) == {}


def test_an_account_that_gave_more_is_named() -> None:
    over = SHORT._replace(outcome="posted", reason="", legs=((WALLET, "debit", 100),))
    assert hot(FUND, DRAWN, over, results=("posted", "posted"))["its lowest balance, in minor units"] == "-100"


def test_an_api_that_tells_a_draw_otherwise_is_named() -> None:
    named = hot(FUND, DRAWN, SHORT, results=("posted", "posted"))
    assert named == {"draws that the API and the journal tell differently": f"{RUN}-draws-1"}


# ---------------------------------------------------------------------------------------------------- k6, suites, costs


def test_k6_exports_whether_a_threshold_was_broken() -> None:
    metrics = {"a": {"thresholds": {"p(95)<=1": True, "p(99)<=2": False}}}
    assert broken_thresholds({**metrics, "b": {"count": 1}}) == ["a: p(95)<=1"]


def test_the_knee_is_the_highest_step_that_held() -> None:
    metrics: dict[str, dict[str, float]] = {}
    for at, (p95, errors, dropped) in enumerate([(900, 0, 0), (100, 0, 0), (100, 0.5, 0), (100, 0, 400)]):
        metrics[f"http_req_duration{{scenario:step_{at}}}"] = {"p(95)": p95}
        metrics[f"ledgerline_failed{{scenario:step_{at}}}"] = {"value": errors}
        metrics[f"dropped_iterations{{scenario:step_{at}}}"] = {"count": dropped}
    run = K6Run(metrics, [], [], 1, 1)
    assert 0.01 * 80 * STEP_SECONDS < 400
    assert knee(run, [10, 20, 40, 80], 500, 0.01) == 20
    assert knee(run, [10], 500, 0.01) is None


def test_a_soak_in_which_a_process_grew_does_not_hold() -> None:
    seen = Seen(RUN, Plan(1), k6_run(), promises(k6_run(), RUN, {}), evidence([]), {"api": 0.1, "posting": 0.9})
    assert not_held(SUITES["soak"].more(seen)) == {"memory of posting grew": "+90.0%"}


def test_cost_is_that_of_the_ledger_alone() -> None:
    used = {"api": 3600.0, "k6": 99.0, "bench": 9.0, "postgres operator": 9.0, "kafka": 3600.0}
    assert of_the_ledger(used).keys() == {"api", "kafka"}
    cost = cost_per_thousand(used, 2000)
    assert cost is not None
    assert cost.processor_seconds == 3600
    # One vCPU-hour of c7g.xlarge and one of each of three brokers, at 60 percent use, for two thousand intents.
    assert cost.usd == pytest.approx((0.145 / 4 + 3 * 0.204 / 2) / 0.6 / 2)
    assert cost_per_thousand(used, POSTED_MIN - 1) is None
    assert cost_per_thousand({"k6": 1.0}, 2000) is None


def test_percentiles_are_by_nearest_rank() -> None:
    assert percentiles([float(value) for value in range(1, 101)]) == {"p50": 50, "p95": 95, "p99": 99, "max": 100}
    assert percentiles([7.0])["p50"] == 7
    assert percentiles([]) == {}


RESULT: Final = Result(
    suite="load", checks=[Check("nothing lost", "none", "none", held=True)], seconds=60, requests=10, acknowledged=9,
    refused=1, posted=9, rejected=0,
    http_ms={"posts": {"p50": 1.0, "p95": 2.0, "p99": 3.0, "max": 4.0, "iterations": 10, "dropped": 2}},
    posted_seconds={"p50": 0.1, "p95": 0.2, "p99": 0.3, "max": 0.4}, posted_ratio=1.0, reconciled_seconds=0.5,
    processor_seconds={"api": 2.0}, cost=None, disk_bytes_each=None, memory_growth={},
)  # fmt: skip


def test_what_did_not_hold_is_told_everywhere() -> None:
    bad = RESULT._replace(checks=[Check("nothing lost", "none", "key-7", held=False)])
    assert RESULT.held
    assert not bad.held
    assert broken(bad) == ["load: nothing lost: key-7, but must be none"]
    assert "posts: 10, and 2 not sent" in markdown(Plan(100), [RESULT])
    assert "key-7" in text_table(Plan(100), [bad])
    assert "| nothing lost | none | key-7 | **NOT held** |" in markdown(Plan(100), [bad])
    assert run_document(Plan(100), [RESULT, bad])["held"] is False
    assert len(cells(RESULT)) == len(HEADINGS)


def test_a_ledger_that_is_named_in_part_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    for name in ("KAFKA_BOOTSTRAP", "POSTGRES_DSN", "REGISTRY_URL"):
        monkeypatch.delenv(f"LEDGERLINE_{name}", raising=False)
    monkeypatch.setenv("LEDGERLINE_HOME", str(tmp_path))
    monkeypatch.setenv("LEDGERLINE_API_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("tools.load.__main__.signal.signal", lambda *_: None)
    assert main([]) == 2
    assert "set LEDGERLINE_KAFKA_BOOTSTRAP, LEDGERLINE_POSTGRES_DSN" in " ".join(capsys.readouterr().err.split())


# ------------------------------------------------------------------------------------------------- docs/LOAD.md

DOCUMENT: Final = (REPOSITORY_ROOT / "docs" / "LOAD.md").read_text()


def documented(heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading, row by row."""
    section = re.split(r"^## ", DOCUMENT.split(f"## {heading}\n")[1], flags=re.MULTILINE)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows]


def test_every_suite_is_documented_and_has_its_script() -> None:
    told = {cells[0].strip("`"): cells for cells in documented("The suites")[1:]}
    assert told.keys() == SUITES.keys() == thresholds()["suites"].keys()
    for name, suite in SUITES.items():
        assert (SCRIPTS / suite.script).is_file()
        assert told[name][1] == suite.about
        assert told[name][2] == ("yes" if name in DEFAULTS else ""), name


def test_every_threshold_is_documented_once_with_its_value() -> None:
    head, *rows = documented("Thresholds")
    suites = head[1:-1]
    assert suites == [f"`{name}`" for name in SUITES]
    told = {
        (suite.strip("`"), row[0].strip("`")): float(value)
        for row in rows
        for suite, value in zip(suites, row[1:-1], strict=True)
        if value
    }
    assert told == {(s, name): value for s, found in thresholds()["suites"].items() for name, value in found.items()}
    for name in thresholds().keys() - {"suites"}:
        assert DOCUMENT.count(f"`{name}` ({thresholds()[name]})") == 1


def test_every_variable_of_the_scripts_is_documented_once() -> None:
    sources = "".join(path.read_text() for path in SCRIPTS.rglob("*.js"))
    used = set(re.findall(r"__ENV\.([A-Z_0-9]+)", sources)) | set(re.findall(r'number\("([A-Z_0-9]+)"', sources))
    told = [cells[0].strip("`") for cells in documented("Variables of the scripts")[1:]]
    assert sorted(told) == sorted(used)


def test_every_option_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    options = set(re.findall(r"(--[a-z]+)", capsys.readouterr().out)) - {"--help"}
    assert {cells[0].split()[0].strip("`") for cells in documented("Options")[1:]} == options


def test_a_plan_never_asks_for_nothing() -> None:
    assert Plan(0.1).rate(0.25) == 1
    for suite in SUITES.values():
        assert suite.seconds(Plan(100)) > 0
        assert all(items > 0 for items in suite.scenarios(Plan(100)).values())
        assert replace(suite).limits == thresholds()["suites"][suite.name]


QUIET: Final = [Phase("quiet", 1_000, 20.0, 2, 1), Phase("quiet again", 1_000, 30.0, 0, 1)]


@pytest.mark.parametrize(
    ("phase", "lost", "held"),
    [
        (Phase("attack", 1_000, 60.0, 4, MEMORY_BYTES_MAX - 1), 0, True),
        (Phase("attack", 1_000, 60.1, 0, 1), 0, False),
        (Phase("attack", 1_000, 1.0, 5, 1), 0, False),
        (Phase("attack", 1_000, 1.0, 0, MEMORY_BYTES_MAX), 0, False),
        (Phase("attack", 1_000, 1.0, 0, 1), 1, False),
    ],
)
def test_a_hostile_tenant_may_double_what_was_quiet_and_no_more(phase: Phase, lost: int, held: bool) -> None:
    table, found = judge_phases([*QUIET, phase], lost)
    assert found is held
    assert table.endswith(f"{lost} acknowledged intents were lost.")


async def test_an_attacker_who_reaches_nothing_is_told_so() -> None:
    with pytest.raises(LedgerlineError, match=r"does not reach /docs/assets/\S+ from 127\.0\.0\.2"):
        await Hostile("http://127.0.0.1:1", "llk_x").require_effect()
