"""The bodies of answers: models for the documentation, and functions that make the same bodies as plain dicts."""

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from api.problems import Problem
from api.responses import ProblemDocument
from api.times import to_rfc3339
from db.reads import AccountRow, BalanceRow, Delivery, EntryRow, Settled
from domain.intents import DIRECTION_NAMES, Leg
from domain.journal import JournalRow
from domain.money import exponent_of, to_decimal
from domain.outcomes import Outcome
from producers.intents import Delivered

Units = dict[str, int]
Side = Literal["debit", "credit"]


class LegView(BaseModel):
    """A leg as posted."""

    account: str
    direction: Side
    amount_minor: int = Field(description="Count of minor units.")
    amount: str | None = Field(None, description="The same for people, with the currency's decimals.")
    currency: str


class ReceiptView(BaseModel):
    """Where the intent stands on Kafka and, once settled, in the journal."""

    topic: str
    partition: int
    offset: int
    lane: int | None = None
    seq: int | None = None
    hash: str | None = Field(None, description="SHA-256 of the journal row, in hex.")


class DeliveryView(BaseModel):
    """Another delivery of the same intent, which moved nothing."""

    partition: int
    offset: int
    seq: int
    outcome: str
    hash: str


class IntentView(BaseModel):
    """An intent: pending with what is known, or posted or rejected for good."""

    intent_id: str
    status: Literal["pending", "posted", "rejected"]
    receipt: ReceiptView
    reason: str | None = Field(None, description="Why it was rejected: one of docs/OUTCOMES.md.")
    detail: str | None = None
    type: str | None = None
    idempotency_key: str | None = None
    legs: list[LegView] | None = Field(None, description="As posted. Left out in answers to a batch.")
    reverses: str | None = None
    reference: str | None = None
    metadata: dict[str, str] | None = None
    value_time: str | None = None
    booked_time: str | None = None
    delivery: DeliveryView | None = None


class BatchItemView(BaseModel):
    """What a single request would have been answered: its status, and the intent or the problem."""

    status: int
    intent_id: str | None = None
    intent: IntentView | None = None
    replayed: bool | None = None
    problem: ProblemDocument | None = None


class BatchView(BaseModel):
    """One item for each of the request, in order."""

    items: list[BatchItemView]


class AccountView(BaseModel):
    """An open account."""

    address: str
    account_class: Literal["asset", "liability", "equity", "income", "expense"]
    normal_direction: Side
    floor_minor: int | None = Field(None, description="Lowest balance, in minor units of each currency; null: none.")
    opened_time: str


class BalanceView(BaseModel):
    """Sums over all lanes. `balance` is debits less credits, or the reverse, by the account's normal side."""

    address: str
    account_class: Literal["asset", "liability", "equity", "income", "expense"]
    normal_direction: Side
    currency: str
    debits_minor: int = Field(description="May need more than 64 bits.")
    credits_minor: int = Field(description="May need more than 64 bits.")
    balance_minor: int
    debits: str | None = Field(None, description="debits_minor for people, with the currency's decimals.")
    credits: str | None = Field(None, description="credits_minor for people, with the currency's decimals.")
    balance: str | None = Field(None, description="balance_minor for people, with the currency's decimals.")


class EntryView(BaseModel):
    """One leg of one account, with the journal row it belongs to."""

    lane: int
    seq: int
    leg: int
    direction: Side
    amount_minor: int
    amount: str | None = None
    currency: str
    intent_id: str
    type: str
    reference: str | None = None
    value_time: str | None = None
    booked_time: str


class JournalView(BaseModel):
    """One row of the journal."""

    lane: int
    seq: int
    outcome: str
    reason: str
    detail: str
    intent_id: str
    idempotency_key: str
    type: str
    reverses: str | None = None
    legs: list[LegView]
    reference: str | None = None
    metadata: dict[str, str]
    value_time: str | None = None
    booked_time: str
    source_topic: str
    source_offset: int
    fingerprint: str
    previous_hash: str
    hash: str


class AccountsPage(BaseModel):
    """Accounts in order of address."""

    items: list[AccountView]
    next: str | None = Field(description="URL of the next page; null at the end.")


class BalancesPage(BaseModel):
    """Balances in order of address and currency."""

    items: list[BalanceView]
    next: str | None = Field(description="URL of the next page; null at the end.")


class EntriesPage(BaseModel):
    """Entries in order of (lane, seq, leg)."""

    items: list[EntryView]
    next: str | None = Field(description="URL of the next page; null at the end.")


class JournalPageView(BaseModel):
    """Journal rows in order of (lane, seq). A page can be short, even empty, and still have a next one."""

    items: list[JournalView]
    next: str | None = Field(description="URL of the next page; null at the end.")


def _time(microseconds: int | None) -> str | None:
    return None if microseconds is None else to_rfc3339(microseconds)


def decimal_text(amount_minor: int, currency: str, units: Units) -> str | None:
    """Return the amount with its currency's decimals, such as 12.50; None if the currency is not known (any more)."""
    exponent = exponent_of(currency, units)
    return None if exponent is None else format(to_decimal(amount_minor, exponent), "f")


def _leg(leg: Leg, units: Units) -> dict[str, Any]:
    return {
        "account": leg.account,
        "direction": DIRECTION_NAMES[leg.direction],
        "amount_minor": leg.amount_minor,
        "amount": decimal_text(leg.amount_minor, leg.currency, units),
        "currency": leg.currency,
    }


def location_of(intent_id: UUID, delivered: Delivered) -> str:
    """Return the URL of the intent. Its partition and offset tell a pending intent from one that was never sent."""
    return f"/v1/intents/{intent_id}?partition={delivered.partition}&offset={delivered.offset}"


def pending_view(intent_id: UUID, delivered: Delivered) -> dict[str, Any]:
    """Return, as JSON, an intent that Kafka has and the ledger has not settled."""
    receipt = {"topic": delivered.topic, "partition": delivered.partition, "offset": delivered.offset}
    return {"intent_id": intent_id, "status": "pending", "receipt": receipt}


def settled_view(settled: Settled, units: Units, delivery: Delivery | None = None) -> dict[str, Any]:
    """Return a settled intent as JSON; with `delivery` if that is not the delivery that settled the intent."""
    view: dict[str, Any] = {
        "intent_id": str(settled.intent_id),
        "status": settled.outcome.value,
        "receipt": {
            "topic": settled.source_topic,
            "partition": settled.lane,
            "offset": settled.source_offset,
            "lane": settled.lane,
            "seq": settled.seq,
            "hash": settled.hash.hex(),
        },
        "type": settled.type,
        "idempotency_key": settled.idempotency_key,
        "reverses": None if settled.reverses is None else str(settled.reverses),
        "reference": settled.reference,
        "metadata": settled.metadata,
        "value_time": _time(settled.value_time),
        "booked_time": _time(settled.booked_time),
    }
    if settled.outcome is Outcome.REJECTED:
        view |= {"reason": settled.reason, "detail": settled.detail}
    if settled.legs is not None:
        view["legs"] = [_leg(leg, units) for leg in settled.legs]
    if delivery is not None and (delivery.lane, delivery.seq) != (settled.lane, settled.seq):
        view["delivery"] = {
            "partition": delivery.lane,
            "offset": delivery.offset,
            "seq": delivery.seq,
            "outcome": delivery.outcome.value,
            "hash": delivery.hash.hex(),
        }
    return view


def problem_item(problem: Problem) -> dict[str, Any]:
    """Return a batch item with a problem as JSON."""
    return {"status": problem.kind.status, "problem": problem.document()}


def account_view(row: AccountRow) -> dict[str, Any]:
    """Return an account as JSON."""
    return {
        "address": row.address,
        "account_class": row.account_class,
        "normal_direction": DIRECTION_NAMES[row.normal_direction],
        "floor_minor": row.floor_minor,
        "opened_time": row.opened_time.isoformat().replace("+00:00", "Z"),
    }


def balance_view(row: BalanceRow, units: Units) -> dict[str, Any]:
    """Return a balance as JSON."""
    currency = row.currency or ""
    return {
        "address": row.address,
        "account_class": row.account_class,
        "normal_direction": DIRECTION_NAMES[row.normal_direction],
        "currency": currency,
        "debits_minor": row.debits_minor,
        "credits_minor": row.credits_minor,
        "balance_minor": row.balance_minor,
        "debits": decimal_text(row.debits_minor, currency, units),
        "credits": decimal_text(row.credits_minor, currency, units),
        "balance": decimal_text(row.balance_minor, currency, units),
    }


def entry_view(row: EntryRow, units: Units) -> dict[str, Any]:
    """Return an entry as JSON."""
    return row._asdict() | {
        "intent_id": str(row.intent_id),
        "direction": DIRECTION_NAMES[row.direction],
        "amount": decimal_text(row.amount_minor, row.currency, units),
        "value_time": _time(row.value_time),
        "booked_time": _time(row.booked_time),
    }


def journal_view(row: JournalRow, units: Units) -> dict[str, Any]:
    """Return a journal row as JSON, with bytes in hex and without the tenant."""
    view = row._asdict()
    del view["tenant"]
    return view | {
        "outcome": row.outcome.value,
        "intent_id": str(row.intent_id),
        "reverses": None if row.reverses is None else str(row.reverses),
        "legs": [_leg(leg, units) for leg in row.legs],
        "value_time": _time(row.value_time),
        "booked_time": _time(row.booked_time),
        "fingerprint": row.fingerprint.hex(),
        "previous_hash": row.previous_hash.hex(),
        "hash": row.hash.hex(),
    }
