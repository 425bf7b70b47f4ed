"""Posting signs with a key outside Postgres: a row that anyone changes between its commit and its relay is named."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from db.proofs import read_receipt
from domain.intents import compute_intent_id
from runtime.key_files import SigningKey, make_key
from runtime.key_names import POSTING_KEY_FILE, get_public_file
from runtime.settings import Settings
from streams.posting.signing import make_sign
from streams.proof.audit.full import verify
from streams.proof.audit.service import Audit, ensure_key, wire_audit
from streams.proof.audit.signatures import PostingKeys
from tests.api_bench import ApiBench
from tests.command_line import environment, run, run_json
from tests.integration.test_api_proving import problem
from tests.proving_bench import ProvingBench
from tests.tampering import turn_into_rejected


@pytest.fixture
def key(settings: Settings) -> SigningKey:
    """Make posting's own key, in the home where audit looks for its public half."""
    return make_key(settings.home / POSTING_KEY_FILE)


@pytest.fixture
def agent(proving: ProvingBench, settings: Settings, key: SigningKey) -> Iterator[Audit]:
    proving.poster = proving.new_poster(sign=make_sign(key))
    made = wire_audit(proving.kafka, proving.dsn, proving.registry, proving.topics, ensure_key(settings), settings)
    made.chores.uncovered.patience_seconds = 0.0
    yield made
    made.close()


def transfers(bench: ProvingBench, *keys: str, lane: int = 0) -> list[str]:
    """Post transfers with these keys as one batch, without relaying them."""
    bench.send_all([bench.transfer(key, "external:bank", "users:1:wallet", 7) for key in keys], lane)
    return bench.post()


def found(bench: ProvingBench, agent: Audit) -> set[tuple[str, str]]:
    """Return the agent's unresolved breaks, and check that `audit verify` finds the same by itself."""
    bench.feed(agent.auditor)
    agent.chores.check_progress()
    breaks = set(bench.breaks("audit"))
    report = verify(
        kafka=bench.kafka,
        dsn=bench.dsn,
        registry=bench.registry,
        topics=bench.topics,
        posting_keys=PostingKeys(get_public_file(bench.settings.home / POSTING_KEY_FILE)),
        grace_seconds=0.5,
    )
    named = {(kind, subject) for kind, subject in breaks if subject != "lane 0 signatures"}
    assert {(finding.kind.value, finding.subject) for finding in report.findings} == named
    return breaks


def test_an_honest_ledger_is_signed_from_its_first_record_to_its_last(proving: ProvingBench, agent: Audit) -> None:
    transfers(proving, "a", "b", "c")
    transfers(proving, "d", lane=1)
    proving.relay_all()
    proving.feed(agent.auditor)
    transfers(proving, "e", "f")
    proving.relay_all()
    assert found(proving, agent) == set()
    covered = proving.rows("SELECT lane, signatures_first_seq, signatures_next_seq FROM audit.lane ORDER BY lane")
    assert [tuple(row.values()) for row in covered] == [(0, 0, 5), (1, 0, 1)]


def test_a_posted_row_that_becomes_a_rejection_while_the_relay_is_held_is_named(
    proving: ProvingBench, agent: Audit
) -> None:
    transfers(proving, "a")
    transfers(proving, "b")
    turn_into_rejected(proving, 0, "currency_not_allowed")
    transfers(proving, "c")  # posting goes on from the head that the database's owner made
    proving.relay_all()
    assert found(proving, agent) == {("chain", "lane 0 seq 1")}


def test_of_a_batch_of_many_the_range_is_named(proving: ProvingBench, agent: Audit) -> None:
    transfers(proving, "a", "b", "c")
    turn_into_rejected(proving, 0, "currency_not_allowed")
    proving.relay_all()
    assert found(proving, agent) == {("chain", "lane 0 seq 0 to 2")}


def test_a_signature_that_was_deleted_or_is_a_strangers_is_no_way_out(
    proving: ProvingBench, agent: Audit, tmp_path: Path
) -> None:
    transfers(proving, "a")
    transfers(proving, "b")
    turn_into_rejected(proving, 0, "currency_not_allowed")
    proving.tamper("DELETE FROM ledger.signed_head WHERE next_seq = 2")
    transfers(proving, "c")
    proving.poster = proving.new_poster(sign=make_sign(make_key(tmp_path / "other" / "key.pem")))
    transfers(proving, "d")
    proving.relay_all()
    assert found(proving, agent) == {("chain", "lane 0 seq 1"), ("chain", "lane 0 seq 3")}


def test_the_last_records_are_named_though_no_signature_follows_them(proving: ProvingBench, agent: Audit) -> None:
    transfers(proving, "a")
    transfers(proving, "b")
    turn_into_rejected(proving, 0, "currency_not_allowed")
    proving.tamper("DELETE FROM ledger.signed_head WHERE next_seq = 2")
    proving.relay_all()
    proving.feed(agent.auditor)
    agent.chores.check_progress()
    assert proving.breaks("audit") == {("chain", "lane 0 signatures"): "open"}
    (row,) = proving.rows("SELECT lane, seq FROM audit.break")
    assert (row["lane"], row["seq"]) == (0, 1)
    transfers(proving, "c")
    proving.relay_all()
    # The break with the exact seq replaces the one about the lane's end.
    assert found(proving, agent) == {("chain", "lane 0 seq 1")}


def test_signatures_are_asked_for_from_the_first_that_a_lane_has(
    proving: ProvingBench, agent: Audit, key: SigningKey
) -> None:
    """After an upgrade, records that workers without a key posted need no signature."""
    signing = proving.poster
    proving.poster = proving.new_poster()
    transfers(proving, "a", "b")
    proving.relay_all()
    # The audit of the previous release knew no signatures.
    proving.feed(agent.auditor)
    proving.tamper("UPDATE audit.lane SET signatures_first_seq = NULL, signatures_next_seq = NULL")
    transfers(proving, "c")
    proving.poster = signing
    transfers(proving, "d", "e")
    proving.relay_all()
    assert found(proving, agent) == set()
    (covered,) = proving.rows("SELECT signatures_first_seq, signatures_next_seq FROM audit.lane WHERE lane = 0")
    assert tuple(covered.values()) == (3, 5)
    proving.poster = proving.new_poster()
    transfers(proving, "f")
    proving.poster = signing
    transfers(proving, "g")
    proving.relay_all()
    assert found(proving, agent) == {("chain", "lane 0 seq 5")}


def test_who_takes_the_public_key_away_is_asked_for_no_signature(
    proving: ProvingBench, agent: Audit, settings: Settings
) -> None:
    """An operator does this before workers of a release that signs nothing come back."""
    transfers(proving, "a")
    proving.relay_all()
    assert found(proving, agent) == set()
    get_public_file(settings.home / POSTING_KEY_FILE).unlink()
    later = wire_audit(proving.kafka, proving.dsn, proving.registry, proving.topics, ensure_key(settings), settings)
    later.chores.uncovered.patience_seconds = 0.0
    proving.poster = proving.new_poster()
    transfers(proving, "b")
    proving.relay_all()
    proving.feed(later.auditor)
    later.chores.check_progress()
    assert proving.breaks("audit") == {}
    later.close()


def test_a_signed_range_is_relayed_whole(proving: ProvingBench, agent: Audit) -> None:
    """So the records on the topic end with a signature, whenever the database is lost."""
    transfers(proving, "a", "b")
    transfers(proving, "c", "d", "e")
    store = proving.relay._store
    assert [[record["seq"] for record in store.records(0, 0, size)] for size in (1, 2, 4, 5, 9)] == [
        [0],
        [0, 1],
        [0, 1],
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4],
    ]
    ends = [(record["signed_from"], record["signature"] is not None) for record in store.records(0, 0, 9)]
    assert ends == [(None, False), (0, True), (None, False), (None, False), (2, True)]


# ---------------------------------------------------------------------------------------------------- receipts


def test_a_receipt_from_before_a_row_was_changed_does_not_hold_any_more(
    proving: ProvingBench, agent: Audit, tmp_path: Path
) -> None:
    """A client kept the receipt, which only posting can have made; the row that is there now has no such receipt."""
    transfers(proving, "a", "b")
    files = {}
    for name in ("a", "b"):
        files[name] = tmp_path / f"{name}.json"
        files[name].write_text(json.dumps(read_receipt(proving.dsn, str(compute_intent_id("default", name)))))
    variables = environment(proving.settings)
    assert run_json(variables, "audit", "receipt", str(files["a"]), "--offline")["ok"]
    turn_into_rejected(proving, 0, "currency_not_allowed")
    told = run_json(variables, "audit", "receipt", str(files["b"]), code=1)
    assert told["faults"] == ["The ledger has another row there than posting signed."]
    proving.relay_all()
    proving.feed(agent.auditor)
    told = run_json(variables, "audit", "receipt", str(files["b"]), code=1)
    assert told["faults"] == [
        "The journal has this record with another hash than posting signed.",
        "The ledger has another row there than posting signed.",
    ]
    # The row beside it is unchanged, but the head of its batch is not.
    told = run_json(variables, "audit", "receipt", str(files["a"]), code=1)
    assert told["faults"] == ["The journal has the head at seq 1 with another hash than posting signed."]
    files["a"].write_text(json.dumps(read_receipt(proving.dsn, str(compute_intent_id("default", "b")))))
    told = run_json(variables, "audit", "receipt", str(files["a"]), code=1)
    assert told["faults"] == ["The signature is not that of posting's key."]


def test_a_receipt_comes_with_the_answer_and_holds_for_good(
    proving: ProvingBench, agent: Audit, api: ApiBench, tmp_path: Path
) -> None:
    path, file = f"/v1/intents/{compute_intent_id('default', 'a')}/receipt", tmp_path / "receipt.json"
    with api.client() as client:
        assert problem(client.get(path)) == "proof-not-found"
        transfers(proving, "a", *map(str, range(40)))
        file.write_bytes(client.get(path).content)
    variables = environment(proving.settings)
    assert run_json(variables, "audit", "receipt", str(file), "--offline")["record"]["seq"] == 0
    done = run(variables, "audit", "receipt", str(file), code=2)
    assert "audit has not met its record yet" in done.stderr
    proving.relay_all()
    proving.feed(agent.auditor)
    assert run_json(variables, "audit", "receipt", str(file)) == {
        "ok": True,
        "faults": [],
        "record": json.loads(file.read_bytes())["record"],
    }


def test_without_a_key_there_is_no_receipt(proving: ProvingBench, api: ApiBench) -> None:
    transfers(proving, "a")
    with api.client() as client:
        answer = client.get(f"/v1/intents/{compute_intent_id('default', 'a')}/receipt")
    assert (problem(answer), answer.headers.get("retry-after")) == ("proof-not-found", None)
