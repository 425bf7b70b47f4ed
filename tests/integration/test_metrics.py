"""The metrics of services that run as real processes: after known intents, a planted break, and a lane that stands."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from db.access import Scope, add_key
from db.books import add_unit
from db.connections import connect
from domain.breaks import BreakKind
from domain.topics import Topics
from runtime.settings import REPOSITORY_ROOT, Settings
from streams.posting.poster import Poster
from streams.proof.reconciliation.service import wire_reconciliation
from tests.api_bench import post, top_up, transfer
from tests.posting_bench import PostingBench, eventually
from tests.posting_model import script
from tests.proving_bench import ProvingBench
from tests.relay_bench import RelayBench, deposits
from tests.service_process import ServiceProcess
from tests.unit.test_documents import rows_of

QUICK = {
    "LEDGERLINE_AUDIT_SWEEP_SECONDS": "0.5",
    "LEDGERLINE_AUDIT_CHECKPOINT_SECONDS": "0.5",
    "LEDGERLINE_RECONCILIATION_SWEEP_SECONDS": "0.5",
}
SERVICES = ("posting", "relay", "worker", "reconciliation", "audit", "api")
HTTP = 12
TERM_SECONDS = BreakKind.STORED.term_seconds
LATENCIES = ("ledgerline_posting_latency_seconds", "ledgerline_reconciliation_latency_seconds")

Series = dict[str, float]
"""Name and labels, as name{label="value",...} with sorted labels -> value."""


def series(service: ServiceProcess) -> Series:
    """Return the metrics of a service by series; raise AssertionError if a series occurs twice."""
    found = {}
    for family in text_string_to_metric_families(service.metrics()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            name = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert name not in found, f"{name} is told twice"
            found[name] = sample.value
    return found


def of(name: str, found: Series) -> Series:
    """Return the series of one metric, by labels alone."""
    return {key.removeprefix(name): value for key, value in found.items() if re.fullmatch(rf"{name}(\{{.*\}})?", key)}


@pytest.fixture
def services(proving: ProvingBench, settings: Settings, tmp_path: Path) -> Iterator[dict[str, ServiceProcess]]:
    """Yield all services, at work."""
    with ExitStack() as stack:
        started = {name: stack.enter_context(ServiceProcess(name, settings, tmp_path, **QUICK)) for name in SERVICES}
        for service in started.values():
            service.wait_until_ready(120)
        yield started


def send_known_intents(bench: ProvingBench, api: ServiceProcess) -> Series:
    """Send intents over HTTP and directly to Kafka; return the expected count of each outcome and reason."""
    with connect(bench.dsn, "ledgerline_operator", autocommit=True) as operator:
        add_unit(operator, "default", "MILES", 0)
        key = add_key(operator, "default", "test", tuple(Scope))[1]
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{api.port}", headers=headers, timeout=60) as client:
        for number in range(HTTP):
            body = top_up(number, 1000) | ({"legs": miles_legs()} if number == 0 else {})
            assert post(client, f"http-{number}", body).status_code == 202
        eventually(lambda: journal_rows(bench) == HTTP, "they are posted", 90)
        assert post(client, "http-1", top_up(1, 1000)).status_code == 200
        assert post(client, "http-1", top_up(1, 999)).status_code == 422
        assert post(client, "http-x", transfer("external:bank", "users:1:wallet", -5)).status_code == 422
    bench.send_all(
        script(
            "a external:bank>users:1:wallet 100 | a external:bank>users:1:wallet 100 | a external:bank>users:1:wallet 7"
            " | b users:77:wallet>external:bank 5 | c external:bank>users:2:wallet 500JPY"
        )
    )
    bench.send_bytes(b"garbage", lane=1)
    bench.send_bytes(None, lane=1)
    return {
        '{outcome="posted",reason=""}': HTTP + 2,
        '{outcome="duplicate",reason=""}': 1,
        '{outcome="idempotency_conflict",reason=""}': 1,
        '{outcome="rejected",reason="insufficient_funds"}': 1,
        '{outcome="quarantined",reason="bad_magic"}': 1,
        '{outcome="quarantined",reason="empty"}': 1,
    }


def journal_rows(bench: ProvingBench) -> int:
    """Return how many offsets have a journal row."""
    return len(bench.rows("SELECT FROM ledger.journal"))


def miles_legs() -> list[dict[str, Any]]:
    """Return the legs of a transfer in a unit of the tenant's own."""
    return [
        {"account": "external:bank", "direction": "debit", "amount_minor": 30, "currency": "MILES"},
        {"account": "users:0:wallet", "direction": "credit", "amount_minor": 30, "currency": "MILES"},
    ]


def until(service: ServiceProcess, name: str, wanted: Callable[[Series], bool], seconds: float = 90) -> Series:
    """Return a service's metrics once `name` is as wanted; raise AssertionError with its last values if it never is."""
    last: Series = {}

    def holds() -> bool:
        nonlocal last
        last = series(service)
        return wanted(of(name, last))

    try:
        eventually(holds, name, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}: {of(name, last)}") from error
    return last


def test_every_figure_after_a_known_set_of_intents(proving: ProvingBench, services: dict[str, ServiceProcess]) -> None:
    wanted = send_known_intents(proving, services["api"])
    total = int(sum(wanted.values()))
    check_posting(services["posting"], wanted, total)
    check_relay(services["relay"], total)
    check_reconciliation(services["reconciliation"], wanted, total)
    check_audit(services["audit"], total)
    check_api(services["api"])
    check_documents(services)
    check_a_planted_break(proving, services["audit"])
    check_a_lane_that_stands(proving, services["posting"])


def check_posting(posting: ServiceProcess, wanted: Series, total: int) -> None:
    """Check outcomes by reason, latencies, batches, stages and lag."""
    outcomes = "ledgerline_posting_outcomes_total"
    found = until(posting, outcomes, lambda counts: sum(counts.values()) >= total)
    assert of(outcomes, found) == wanted
    check_latency("ledgerline_posting_latency_seconds", found, total)
    assert found['ledgerline_agent_records_total{agent="posting"}'] == total
    assert found['ledgerline_agent_batch_records_sum{agent="posting"}'] == total
    batches = found['ledgerline_agent_batch_seconds_count{agent="posting"}']
    assert 1 <= batches == found['ledgerline_agent_batch_records_count{agent="posting"}'] <= total
    stages = of("ledgerline_posting_stage_seconds_count", found)
    assert stages == {
        f'{{stage="{stage}"}}': batches for stage in ("read", "look_up", "lock", "decide", "write", "commit")
    }
    spent = found['ledgerline_agent_batch_seconds_sum{agent="posting"}']
    assert 0.5 * spent < sum(of("ledgerline_posting_stage_seconds_sum", found).values()) <= spent
    check_no_lag(posting, "posting")


def check_latency(name: str, found: Series, total: int) -> None:
    """Check that each message has one observation, none above 300 s, and that their mean is below 120 s."""
    buckets = of(f"{name}_bucket", found)
    assert found[f"{name}_count"] == buckets['{le="+Inf"}'] == buckets['{le="300.0"}'] == total
    assert list(buckets.values()) == sorted(buckets.values())
    assert len(buckets) == 14
    assert 0 < found[f"{name}_sum"] < 120 * total


def check_no_lag(service: ServiceProcess, agent: str) -> None:
    """Check that both lanes are reported, with a lag of 0."""
    wanted = {f'{{agent="{agent}",partition="{lane}"}}': 0.0 for lane in (0, 1)}
    found = until(service, "ledgerline_agent_lag_records", lambda lags: lags == wanted)
    assert of("ledgerline_agent_lag_seconds", found) == wanted


def check_relay(relay: ServiceProcess, total: int) -> None:
    """Check the relayed records by outcome, the lag, and librdkafka's own figures."""
    relayed = "ledgerline_relay_records_total"
    found = until(relay, relayed, lambda counts: sum(counts.values()) >= total)
    assert of(relayed, found)['{outcome="quarantined"}'] == 2
    nothing = {'{lane="0"}': 0.0, '{lane="1"}': 0.0}
    found = until(relay, "ledgerline_relay_lag_records", lambda lags: lags == nothing)
    assert of("ledgerline_relay_lag_seconds", found) == nothing
    found = until(relay, "ledgerline_kafka_producer_queue_messages", bool)
    assert of("ledgerline_kafka_producer_queue_messages", found) == {'{client="relay"}': 0}


def check_reconciliation(reconciliation: ServiceProcess, wanted: Series, total: int) -> None:
    """Check fates, conservation, symmetry of every currency, latency and lag, and that there is no break."""
    until(reconciliation, "ledgerline_conservation_fates", lambda found: sum(found.values()) >= total)
    # A round of chores sets the gauge of the breaks last: the scrape after it has all figures of one round.
    until(reconciliation, "ledgerline_breaks_open", bool)
    fates = series(reconciliation)
    by_outcome: dict[str, float] = {}
    for labels, count in wanted.items():
        outcome = labels.split('"')[1]
        by_outcome[outcome] = by_outcome.get(outcome, 0) + count
    for outcome, count in by_outcome.items():
        lanes = [fates[f'ledgerline_conservation_fates{{lane="{lane}",outcome="{outcome}"}}'] for lane in (0, 1)]
        assert sum(lanes) == count, outcome
    assert sum(of("ledgerline_conservation_received", fates).values()) == total
    zeros = {'{lane="0"}': 0.0, '{lane="1"}': 0.0}
    for name in ("gap", "in_flight", "missing"):
        assert of(f"ledgerline_conservation_{name}", fates) == zeros, name
    for name in ("records", "seconds"):
        assert of(f"ledgerline_reconciliation_lag_{name}", fates) == zeros, name
    moved = {'{currency="EUR"}': 1000.0 * (HTTP - 1) + 100, '{currency="JPY"}': 500.0, '{currency="other"}': 30.0}
    assert of("ledgerline_symmetry_debits_minor", fates) == moved
    assert of("ledgerline_symmetry_credits_minor", fates) == moved
    assert of("ledgerline_symmetry_difference_minor", fates) == dict.fromkeys(moved, 0.0)
    check_latency("ledgerline_reconciliation_latency_seconds", fates, total)
    assert set(of("ledgerline_breaks_open", fates).values()) == {0.0}
    check_no_lag(reconciliation, "reconciliation")


def check_audit(audit: ServiceProcess, total: int) -> None:
    """Check how far the chains are verified and signed."""
    verified = "ledgerline_audit_verified_seq"
    until(audit, verified, lambda lanes: sum(lanes.values()) >= total)
    found = until(audit, "ledgerline_audit_unsigned_records", lambda lanes: lanes == {'{lane="0"}': 0, '{lane="1"}': 0})
    assert sum(of(verified, found).values()) == total
    assert found["ledgerline_audit_checkpoints_total"] >= 1
    assert found["ledgerline_audit_checkpoint_timestamp_seconds"] == pytest.approx(time.time(), abs=120)
    check_no_lag(audit, "audit")


def check_api(api: ServiceProcess) -> None:
    """Check intents by result, and the figures of the pool and the producer."""
    # librdkafka reports a round-trip time only from its second statistics event on.
    found = until(api, "ledgerline_kafka_producer_broker_rtt_seconds", lambda told: any(told.values()))
    intents = of("ledgerline_api_intents_total", found)
    results = {"accepted": HTTP, "replayed": 1, "conflict": 1, "refused": 1}
    assert intents == {f'{{result="{result}"}}': count for result, count in results.items()}
    assert found['ledgerline_kafka_producer_queue_messages{client="intents"}'] == 0
    assert 0 < found['ledgerline_kafka_producer_broker_rtt_seconds{client="intents"}'] < 60
    connections = of("ledgerline_postgres_pool_connections", found)
    assert connections.keys() == {'{state="busy"}', '{state="idle"}'}
    assert sum(connections.values()) >= 1
    assert found["ledgerline_postgres_pool_requests_waiting"] == 0
    assert found["ledgerline_postgres_pool_wait_seconds_total"] >= 0


def check_documents(services: dict[str, ServiceProcess]) -> None:
    """Check that each reported family is documented with type and labels, and each documented family is reported."""
    documented = rows_of("docs/METRICS.md", r"ledgerline_\w+")
    words = (REPOSITORY_ROOT / "docs" / "METRICS.md").read_text()
    told = set()
    for name, service in services.items():
        text = service.metrics()
        types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
        ours = {family: kind for family, kind in types.items() if family.startswith("ledgerline_")}
        assert {family: documented[family][0] for family in ours} == ours, name
        others = types.keys() - ours.keys()
        assert "process_cpu_seconds_total" in others, name
        assert "python_gc_collections_total" in others, name
        assert [family for family in others if f"`{family}`" not in words] == [], name
        told |= ours.keys()
        for family in text_string_to_metric_families(text):
            if family.name.startswith("ledgerline_"):
                row = documented.get(family.name) or documented[f"{family.name}_total"]
                for sample in family.samples:
                    assert ", ".join(sample.labels.keys() - {"le"}) in permutations(row[1]), sample.name
    assert documented.keys() == told


def permutations(labels: str) -> set[str]:
    """Return the labels of a row in every order."""
    from itertools import permutations as every

    return {", ".join(order) for order in every([] if labels == "-" else labels.split(", "))}


def check_a_planted_break(bench: ProvingBench, audit: ServiceProcess) -> None:
    """Check that an altered row is open, with its age, and overdue after its term; found again it starts anew."""
    alter = "UPDATE ledger.journal SET detail = %s WHERE lane = 1 AND seq = 0"
    stored = '{found_by="audit",kind="stored"}'
    (row,) = bench.rows("SELECT detail FROM ledger.journal WHERE lane = 1 AND seq = 0")

    def told(found: Series) -> tuple[float, float, float]:
        opened = found['ledgerline_breaks_open{found_by="audit",kind="stored",state="open"}']
        names = ("ledgerline_breaks_oldest_age_seconds", "ledgerline_breaks_overdue")
        return opened, *(of(name, found)[stored] for name in names)

    def planted() -> float:
        """Alter the row; return when, in seconds since 1970."""
        altered = time.time()
        bench.tamper(alter, "altered")
        until(audit, "ledgerline_breaks_oldest_age_seconds", lambda ages: ages[stored] > 0)
        opened, age, overdue = told(series(audit))
        assert opened == 1
        assert age <= time.time() - altered + 1
        assert overdue == 0 or age >= TERM_SECONDS
        return altered

    def restored() -> None:
        bench.tamper(alter, row["detail"])
        until(audit, "ledgerline_breaks_oldest_age_seconds", lambda ages: ages[stored] == 0)
        assert told(series(audit)) == (0, 0, 0)

    assert told(series(audit)) == (0, 0, 0)
    altered = planted()
    found = until(audit, "ledgerline_breaks_overdue", lambda breaks: breaks[stored] == 1)
    opened, age, _ = told(found)
    assert opened == 1
    assert TERM_SECONDS <= age <= time.time() - altered + 1
    assert sum(of("ledgerline_breaks_overdue", found).values()) == 1
    restored()
    planted()  # the row was whole in between, so the age starts anew
    restored()


def check_a_lane_that_stands(bench: ProvingBench, posting: ServiceProcess) -> None:
    """Check that the lag in seconds is the oldest intent's age, grows while the lane is locked, and is 0 afterwards."""
    lane = '{agent="posting",partition="0"}'
    with psycopg.connect(bench.dsn) as holder:
        holder.execute("SELECT FROM ledger.lane WHERE lane = 0 FOR UPDATE")
        sent = time.time()
        bench.send(bench.transfer("stuck-1", "external:bank", "users:1:wallet", 5))
        until(posting, "ledgerline_agent_lag_seconds", lambda lags: lags[lane] > 6)
        sent_more = time.time()
        bench.send(bench.transfer("stuck-2", "external:bank", "users:1:wallet", 5))
        found = until(posting, "ledgerline_agent_lag_records", lambda lags: lags[lane] == 2)
        lag, now = found[f"ledgerline_agent_lag_seconds{lane}"], time.time()
        assert now - sent_more + 1 < lag <= now - sent + 1, "it is that of the oldest"
        until(posting, "ledgerline_agent_lag_seconds", lambda lags: lags[lane] > lag + 1)
    found = until(posting, "ledgerline_agent_lag_records", lambda lags: lags[lane] == 0)
    assert found[f"ledgerline_agent_lag_seconds{lane}"] == 0
    slow = of("ledgerline_posting_latency_seconds_bucket", found)
    assert slow['{le="+Inf"}'] - slow['{le="2.5"}'] >= 1, "and its latency was counted"


# ------------------------------------------------------------------------------------------ ages of waiting records


def told(name: str, lane: int) -> float | None:
    """Return this process's metric of a lane."""
    return REGISTRY.get_sample_value(f"ledgerline_{name}", {"lane": str(lane)})


def booked_ago(bench: PostingBench, seconds: float) -> Poster:
    """Return a poster whose clock is slow by this many seconds."""
    return bench.new_poster(now_microseconds=lambda: time.time_ns() // 1000 - int(seconds * 1_000_000))


def test_relay_lag_is_the_age_of_the_first_record_that_waits(bench: PostingBench, topics: Topics) -> None:
    """By the age of the last record, a relay that stands still while posting goes on would look healthy."""
    ledger = RelayBench(bench, topics)
    bench.post_now(deposits(10), lane=0, poster=booked_ago(bench, 3600))
    bench.post_now(deposits(10, 10), lane=0, poster=booked_ago(bench, 600))
    bench.post_now(deposits(3, 20), lane=0)
    bench.post_now(deposits(2, 30), lane=1, poster=booked_ago(bench, 60))
    relay = ledger.relay(records_max=10)
    relay.start()
    seen = []
    while True:
        relayed = relay.round()
        seen.append([told(f"relay_lag_{what}", lane) for lane in (0, 1) for what in ("records", "seconds")])
        if not relayed:
            break
    ledger.close()
    # Lane 1 comes first, then the lanes take turns. A round reports the lag that it found at its start.
    assert seen == [
        [23, pytest.approx(3600, abs=60), 2, pytest.approx(60, abs=50)],
        [15, pytest.approx(3600, abs=60), 0, 0],
        [5, pytest.approx(600, abs=60), 0, 0],
        [0, 0, 0, 0],
    ]


def test_the_first_record_after_an_idle_hour_is_not_an_hour_late(proving: ProvingBench) -> None:
    agent = wire_reconciliation(proving.kafka, proving.dsn, proving.registry, proving.topics, 0.0)
    try:
        proving.post_now(deposits(3), lane=0, poster=booked_ago(proving, 3600))
        proving.relay_all()
        proving.feed(agent.reconciler)
        agent.chores.check_progress()
        assert (told("reconciliation_lag_records", 0), told("reconciliation_lag_seconds", 0)) == (0, 0)
        proving.post_now(deposits(2, 3), lane=0, poster=booked_ago(proving, 100))
        proving.post_now(deposits(2, 5), lane=0)
        agent.chores.check_progress()
        assert told("reconciliation_lag_records", 0) == 4
        assert told("reconciliation_lag_seconds", 0) == pytest.approx(100, abs=50)
        proving.relay_all()
        proving.feed(agent.reconciler)
        agent.chores.check_progress()
        assert (told("reconciliation_lag_records", 0), told("reconciliation_lag_seconds", 0)) == (0, 0)
    finally:
        agent.close()
