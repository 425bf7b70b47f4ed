"""Breaks, checkpoints, signing keys and proofs over HTTP; each tenant sees its own."""

import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from db.access import Scope
from domain.intents import compute_intent_id
from runtime.settings import Settings
from streams.proof.audit import verifier
from streams.proof.audit.service import Audit
from tests.api_bench import ApiBench, post, problem, running_api, top_up
from tests.integration.test_api_shares import locked
from tests.integration.test_audit import ALTERATIONS, agent
from tests.integration.test_reconciliation import busy
from tests.proving_bench import ProvingBench

__all__ = ["agent"]

PROOF_SECONDS_MAX = 8.0


@pytest.fixture
def audited(proving: ProvingBench, agent: Audit) -> ProvingBench:
    """Return a busy ledger that is audited and has two checkpoints."""
    for _ in range(2):
        busy(proving)
        checkpoint(proving, agent)
    return proving


def checkpoint(proving: ProvingBench, agent: Audit) -> None:
    proving.feed(agent.auditor)
    agent.signer.sign_if_due()
    agent.signer.publish()


@pytest.fixture
def client(audited: ProvingBench, api: ApiBench) -> Iterator[Any]:
    with api.client() as made:
        yield made


def test_every_settled_intent_has_a_proof_that_the_verifier_takes(client: Any) -> None:
    (named,) = client.get("/v1/signing-keys").json()["items"]
    key = load_pem_public_key(named["public_key"].encode())
    assert isinstance(key, Ed25519PublicKey)
    for number in range(10):
        intent_id = compute_intent_id("default", f"in-{number}")
        proof = client.get(f"/v1/intents/{intent_id}/proof").json()
        assert verifier.verify(proof, key)["intent_id"] == str(intent_id)
        assert proof["checkpoint"]["key_id"] == named["key_id"]
        row = client.get(f"/v1/journal/{proof['record']['lane']}/{proof['record']['seq']}").json()
        assert (row["hash"], row["previous_hash"]) == (proof["hash"], proof["previous_hash"])


def test_a_proof_comes_with_the_checkpoint(client: Any, audited: ProvingBench, agent: Audit) -> None:
    assert problem(client.get(f"/v1/intents/{uuid4()}/proof")) == "proof-not-found"
    post(client, "new", top_up(1, 100))
    path = f"/v1/intents/{compute_intent_id('default', 'new')}/proof"
    assert problem(client.get(path)) == "proof-not-found"
    audited.post_and_relay()
    answer = client.get(path)
    assert (problem(answer), answer.headers["retry-after"]) == ("proof-not-found", "5")
    checkpoint(audited, agent)
    assert client.get(path).status_code == 200


def test_an_altered_row_has_no_proof(client: Any, audited: ProvingBench) -> None:
    alter, restore, _ = ALTERATIONS["reference"]
    (row,) = audited.rows("SELECT intent_id FROM ledger.journal WHERE lane = 0 AND seq = 4")
    path = f"/v1/intents/{row['intent_id']}/proof"
    audited.tamper(alter)
    assert problem(client.get(path)) == "proof-refused"
    audited.tamper(restore)
    assert client.get(path).status_code == 200


def test_a_proof_is_of_its_tenant(client: Any, api: ApiBench) -> None:
    path = f"/v1/intents/{compute_intent_id('default', 'in-1')}/proof"
    with api.client(api.new_key("other")) as other:
        assert problem(other.get(path)) == "proof-not-found"
    assert client.get(path).status_code == 200


def test_a_proof_that_takes_too_long_is_ended_and_is_no_outage(settings: Settings, audited: ProvingBench) -> None:
    """Once, a request for a proof waited for Postgres without limit, and an error of Postgres was answered with 500."""
    path = f"/v1/intents/{compute_intent_id('default', 'in-1')}/proof"
    with running_api(settings, heavy_read_seconds_max=0.3) as api, api.client() as client:
        assert client.get(path).status_code == 200
        with locked(settings, "audit.checkpoint"):
            began = time.monotonic()
            answer = client.get(path)
            assert time.monotonic() - began < PROOF_SECONDS_MAX
        assert problem(answer) == "database-busy"
        assert client.get("/readyz").json() == {"status": "ready"}
        assert client.get(path).status_code == 200


def test_checkpoints_come_newest_first_as_they_were_signed(client: Any) -> None:
    newest = client.get("/v1/checkpoints?limit=1").json()
    oldest = client.get(newest["next"]).json()
    assert oldest["next"] is None
    found = newest["items"] + oldest["items"]
    assert [item["checkpoint"] for item in found] == [1, 0]
    assert client.get("/v1/checkpoints").json()["items"] == found
    key = load_pem_public_key(client.get("/v1/signing-keys").json()["items"][0]["public_key"].encode())
    for item in found:
        verifier._check_signature(item, key)  # type: ignore[arg-type]


def test_a_break_tells_its_story(client: Any, audited: ProvingBench, agent: Audit) -> None:
    assert client.get("/v1/breaks").json() == {"items": [], "next": None}
    alter, restore, subject = ALTERATIONS["reference"]
    audited.tamper(alter)
    agent.chores.sweep_all()
    (found,) = client.get("/v1/breaks?state=open&kind=stored").json()["items"]
    assert (found["found_by"], found["subject"], found["state"]) == ("audit", subject, "open")
    assert (found["lane"], found["seq"]) == (0, 4)
    assert "altered" in found["detail"]
    assert client.get("/v1/breaks?state=resolved").json()["items"] == []
    audited.tamper(restore)
    agent.chores.sweep_all()
    assert client.get("/v1/breaks?state=open").json()["items"] == []
    (resolved,) = client.get("/v1/breaks").json()["items"]
    assert (resolved["break_id"], resolved["state"]) == (found["break_id"], "resolved")
    assert resolved["opened_time"] == found["opened_time"] < resolved["changed_time"]


PLANTED = """INSERT INTO {agent}.break
    (break_id, kind, subject, state, lane, seq, detail, evidence, opened_time, changed_time)
    VALUES (%s, %s, %s, 'open', %s, %s, 'planted', %s, %s, 0)"""


def test_tenants_see_the_breaks_that_are_known_to_be_theirs(api: ApiBench, audited: ProvingBench) -> None:
    api.new_key("other")
    rows = [
        ("audit", "stored", "lane 0 seq 1", 0, 1, "{}"),  # a row of tenant `default`
        ("reconciliation", "balance", "other a EUR lane 0", 0, None, '{"tenant": "other"}'),
        ("reconciliation", "symmetry", "other EUR total", None, None, "{}"),
        ("reconciliation", "symmetry", "default EUR total", None, None, "{}"),
        ("reconciliation", "conservation", "lane 1", 1, None, "{}"),
    ]
    for number, (found_by, kind, subject, lane, seq, evidence) in enumerate(rows):
        statement = PLANTED.format(agent=found_by)
        audited.tamper(statement, UUID(int=number + 1), kind, subject, lane, seq, evidence, number)
    reading = (Scope.JOURNAL_READ,)

    def seen(tenant: str, scopes: tuple[Scope, ...], **parameters: Any) -> list[str]:
        with api.client(api.new_key(tenant, scopes)) as client:
            url: str | None = "/v1/breaks?limit=1"
            subjects = []
            while url is not None:
                page = client.get(url, params=parameters).json() if "cursor" not in url else client.get(url).json()
                subjects += [item["subject"] for item in page["items"]]
                url = page["next"]
            return subjects

    assert seen("default", reading) == ["default EUR total", "lane 0 seq 1"]
    assert seen("other", reading) == ["other EUR total", "other a EUR lane 0"]
    assert seen("other", (*reading, Scope.OPERATIONS_READ)) == [row[2] for row in reversed(rows)]
