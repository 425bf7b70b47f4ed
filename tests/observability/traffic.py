"""Traffic with every outcome of the pipeline, over HTTP and directly to Kafka, so that every panel has data."""

import uuid
from collections.abc import Sequence
from typing import Any, Final

import httpx
from confluent_kafka import Producer

from db.access import Scope, add_key
from db.books import add_tenant
from db.connections import connect
from domain.topics import Topics
from ops.run_state import RunState

REQUEST_SECONDS: Final = 40
KAFKA_SECONDS: Final = 30


def transfer(key: str, debit: str = "external:bank", amount_minor: int = 250) -> dict[str, Any]:
    """Return one intent with its key, as an item of a batch."""
    return {
        "idempotency_key": key,
        "type": "transfer",
        "legs": [
            {"account": debit, "direction": "debit", "amount_minor": amount_minor, "currency": "EUR"},
            {"account": "users:42:wallet", "direction": "credit", "amount_minor": amount_minor, "currency": "EUR"},
        ],
    }


class Traffic:
    """A client of a running ledger. Each round uses new keys."""

    def __init__(self, state: RunState) -> None:
        assert state.endpoints is not None
        assert state.api_url is not None
        with connect(state.endpoints.postgres_dsn, "ledgerline_operator", autocommit=True) as connection:
            add_tenant(connection, "default")
            key = add_key(connection, "default", "dashboards", tuple(Scope))[1]
        headers = {"Authorization": f"Bearer {key}"}
        self._client = httpx.Client(base_url=state.api_url, headers=headers, timeout=REQUEST_SECONDS)
        self._producer = Producer({"bootstrap.servers": state.endpoints.kafka_bootstrap})

    def close(self) -> None:
        """Close the HTTP connections."""
        self._client.close()

    def round(self) -> int:
        """Send some of every kind, and wait for the single intents to be posted; return how many offsets were used."""
        name = uuid.uuid4().hex
        self._single(f"{name}-single")
        first = [transfer(f"{name}-{number}") for number in range(40)]
        again = [transfer(f"{name}-0"), transfer(f"{name}-1", amount_minor=999)]
        poor = [transfer(f"{name}-poor", debit="users:without:wallet")]
        unknown = [transfer(f"{name}-unknown", debit="no:such:account")]
        self._batch([*first, *again, *poor, *unknown], taken=44)
        # One intent is refused for its shape before Kafka. A route that does not exist gives a 404.
        self._batch([{**transfer(f"{name}-refused"), "legs": []}], taken=0)
        assert self._client.get("/v1/nothing").status_code == 404
        for path in ("/v1/balances?prefix=users", "/v1/journal?limit=5", "/v1/accounts"):
            self._client.get(path).raise_for_status()
        self._quarantined()
        return 1 + 44 + 1

    def _single(self, key: str) -> None:
        body = transfer(key)
        del body["idempotency_key"]
        headers = {"Idempotency-Key": key, "Prefer": "wait=20"}
        for _ in range(2):  # the second answer comes from the journal
            answer = self._client.post("/v1/intents", json=body, headers=headers)
            assert answer.status_code == 200, answer.text
            assert answer.json()["status"] == "posted"
        body["legs"][0]["amount_minor"] = body["legs"][1]["amount_minor"] = 1
        assert self._client.post("/v1/intents", json=body, headers=headers).status_code == 422

    def _batch(self, items: Sequence[dict[str, Any]], *, taken: int) -> None:
        answer = self._client.post("/v1/intents/batch", json=list(items))
        answer.raise_for_status()
        assert sum(item["status"] in (200, 202) for item in answer.json()["items"]) == taken, answer.text

    def _quarantined(self) -> None:
        self._producer.produce(Topics().intents, b"these bytes are no intent")
        assert self._producer.flush(KAFKA_SECONDS) == 0
