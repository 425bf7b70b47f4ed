"""Every query of every dashboard, sent to a real Prometheus that scrapes a running ledger, must return data.

A panel that turns out empty in a real emergency is worse than no panel.
"""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from ops.embedded.process import wait_until
from ops.observing.prometheus_part import PrometheusPart
from tests.observability.conftest import Observed
from tests.observability.grafana import GLOBALS, Asked, asked, dashboards, filled_in, values
from tests.observability.traffic import Traffic
from tests.posting_bench import eventually

PATIENCE_SECONDS: Final = 120.0
OUTCOMES: Final = {"posted", "rejected", "duplicate", "idempotency_conflict", "quarantined"}
# Each of these counts something that did happen here. 0 would mean that the panel's query is wrong.
MUST_BE_POSITIVE: Final = (
    "Hash chains, records / A",
    "Posted within 5 s, last hour / A",
    "Budget left, 3 days / A",
    "From accepted to posted / A",
    "Latency / A",
    "Latency / D",
    "Through the pipeline / A",
    "Through the pipeline / B",
    "Through the pipeline / C",
    "Through the pipeline / D",
    "Through the pipeline / E",
    "Outcomes / A",
    "Why rejected / A",
    "Quarantined, last hour / A",
    "Records in a batch / A",
    "Where posting's time goes / A",
    "Versions / A",
    "Totals by currency, minor units / A",
    "Totals by currency, minor units / B",
    "Booked by currency / A",
    "Intents by lane / A",
    "From accepted to reconciled / A",
    "Chain verified, by lane / A",
    "Checkpoints signed / A",
    "Answered / A",
    "Posts, 95 of 100 within / A",
    "Reads, 99 of 100 within / A",
    "What became of intents / A",
    "Posting intents / A",
    "Reading / A",
    "Brokers that answer / A",
    "Messages in / A",
    "Size on disk / A",
    "Round trips of our producers / A",
    "End of payments.intents / A",
    "Transactions / A",
    "Rows / A",
    "What posting waits for / A",
    "Disk left / A",
)


@pytest.fixture(scope="module")
def watched(observed: Observed) -> Iterator[PrometheusPart]:
    """Prometheus after enough traffic to show rates of all outcomes and of the provers."""
    traffic = Traffic(observed.state)
    try:
        prometheus = observed.prometheus

        def has_seen_all() -> bool:
            traffic.round()
            return _rising(prometheus) and prometheus.value("sum(ledgerline_audit_checkpoints_total)") > 0

        eventually(has_seen_all, "every outcome reconciled, audited and signed", PATIENCE_SECONDS)
        # If a checkpoint is signed between two scrapes, Prometheus sees an increase only from the next checkpoint on.
        seen = prometheus.value("sum(ledgerline_audit_checkpoints_total)")
        eventually(
            lambda: traffic.round() and prometheus.value("sum(ledgerline_audit_checkpoints_total)") > seen,
            "another checkpoint",
            PATIENCE_SECONDS,
        )
        yield prometheus
    finally:
        traffic.close()


def _rising(prometheus: PrometheusPart) -> bool:
    """Return whether rates over the last minute show each outcome posted and reconciled."""
    for metric in ("ledgerline_posting_outcomes_total", "ledgerline_reconciled_records_total"):
        rising = prometheus.query(f"sum by (outcome) (rate({metric}[1m])) > 0")
        if {sample.labels["outcome"] for sample in rising} != OUTCOMES:
            return False
    return True


@pytest.mark.parametrize("dashboard", dashboards(), ids=lambda dashboard: dashboard["uid"])
def test_every_query_returns_data(dashboard: dict[str, Any], watched: PrometheusPart) -> None:
    queries = list(asked(dashboard))
    answers = {query: values(watched.url, query) for query in queries}

    def asked_again() -> bool:
        """Ask again the queries without data. A young ledger may not have every series recorded over windows yet."""
        for query in [query for query, found in answers.items() if not found]:
            answers[query] = values(watched.url, query)
        return all(answers.values())

    wait_until(asked_again, timeout_seconds=60)
    assert [str(query) for query, found in answers.items() if not found] == []
    assert [str(query) for query, found in answers.items() if _must_be_positive(query) and not _any_above(found)] == []


@pytest.mark.parametrize("dashboard", dashboards(), ids=lambda dashboard: dashboard["uid"])
def test_every_variable_has_something_to_choose(dashboard: dict[str, Any], watched: PrometheusPart) -> None:
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = variable["definition"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
            chosen = {sample.labels[label] for sample in watched.query(f"count by ({label}) ({metric})")}
            assert chosen - {""}, variable["name"]


def test_money_is_seen_to_be_safe(watched: PrometheusPart) -> None:
    queries = {f"{query.panel} / {query.letter}": query for query in asked(dashboards()[0])}
    for tile in ("Symmetry difference / A", "Conservation gap / A", "Breaks / A", "Breaks / B"):
        assert values(watched.url, queries[tile]) == {"{}": [0.0]}, tile
    ((age,),) = values(watched.url, queries["Checkpoint age / A"]).values()
    assert 0 <= age < 60


def test_one_lane_alone_can_be_chosen(watched: PrometheusPart, monkeypatch: pytest.MonkeyPatch) -> None:
    (pipeline,) = (one for one in dashboards() if one["uid"] == "ledgerline-pipeline")
    (panel,) = (one for one in pipeline["panels"] if one["title"] == "Not yet posted, by lane")
    monkeypatch.setitem(GLOBALS, "lane", "1")
    lanes = {**pipeline, "templating": {"list": []}}
    query = Asked("", "", "A", filled_in(panel["targets"][0]["expr"], lanes), is_instant=True)
    assert list(values(watched.url, query)) == ['{"partition": "1"}']


def test_alerts_are_drawn_into_the_graphs(watched: PrometheusPart) -> None:
    for dashboard in dashboards():
        (annotation,) = dashboard["annotations"]["list"]
        query = Asked(dashboard["title"], "Alerts", "Anno", annotation["target"]["expr"], is_instant=False)
        values(watched.url, query)  # raises if Prometheus refuses the query; a healthy ledger has no alerts


def test_what_must_be_positive_is_asked_somewhere() -> None:
    known = {f"{query.panel} / {query.letter}" for dashboard in dashboards() for query in asked(dashboard)}
    assert set(MUST_BE_POSITIVE) - known == set()


def _must_be_positive(query: Asked) -> bool:
    return f"{query.panel} / {query.letter}" in MUST_BE_POSITIVE


def _any_above(found: dict[str, list[float]]) -> bool:
    return any(number > 0 for numbers in found.values() for number in numbers)
