"""The worker's queries of webhooks: which endpoints want what, deliveries, and what became of their attempts."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg.rows import class_row, dict_row

from db.connections import Transaction
from db.queries import load
from domain.webhook_wishes import Wish
from domain.webhooks import Message, Secrets

SQL: Final = load("webhooks")
PRUNED_MAX: Final = 10_000


class Subscriber(NamedTuple):
    """An enabled endpoint."""

    tenant: str
    endpoint_id: UUID
    wish: Wish
    ordered: bool


class NewDelivery(NamedTuple):
    """A delivery to store."""

    delivery_id: UUID
    endpoint_id: UUID
    message: Message
    series: str
    ordered: bool


class Stored(NamedTuple):
    """A delivery that was stored or let go."""

    tenant: str
    delivery_id: UUID
    endpoint_id: UUID


class Claimed(NamedTuple):
    """A delivery that is due, and claimed."""

    tenant: str
    delivery_id: UUID
    endpoint_id: UUID
    attempts: int
    """Attempts that were made."""


class Prepared(NamedTuple):
    """What the next attempt of a delivery needs."""

    tenant: str
    delivery_id: UUID
    endpoint_id: UUID
    message_id: str
    attempts: int
    """Attempts that were made."""
    body: bytes
    url: str
    secrets: Secrets


class Tried(NamedTuple):
    """The result of an attempt. Times are microseconds since 1970."""

    tenant: str
    delivery_id: UUID
    attempt: int
    attempted_time: int
    status: int | None
    error: str
    latency_microseconds: int
    excerpt: str
    state: str
    next_time: int | None


class Settled(NamedTuple):
    """A delivery that an attempt changed."""

    tenant: str
    delivery_id: UUID
    endpoint_id: UUID
    ordering: str
    state: str


class LockedEndpoint(NamedTuple):
    """An endpoint that is locked until the commit."""

    tenant: str
    endpoint_id: UUID
    ordered: bool
    enabled: bool
    failing_since: int | None
    notices: int


class Measured(NamedTuple):
    """What the metrics show. `oldest_time`: microseconds since 1970; None if nothing is due."""

    waiting: int
    oldest_time: int | None
    disabled: int


def read_version(transaction: Transaction) -> int:
    """Return the number that changes with each change of any endpoint."""
    row = transaction.execute(SQL["endpoints_version"]).fetchone()
    assert row is not None  # noqa: S101 - the migration inserts the only row
    return int(row[0])


def read_subscribers(transaction: Transaction) -> list[Subscriber]:
    """Return all enabled endpoints."""
    rows = transaction.execute(SQL["enabled_endpoints"]).fetchall()
    return [
        Subscriber(tenant, endpoint_id, Wish(tuple(filters), tuple(accounts)), ordered)
        for tenant, endpoint_id, filters, accounts, ordered in rows
    ]


def lock_endpoints(transaction: Transaction, endpoint_ids: Sequence[UUID]) -> list[LockedEndpoint]:
    """Lock endpoints until the commit, in the order of their ids."""
    cursor = transaction.cursor(row_factory=class_row(LockedEndpoint))
    return cursor.execute(SQL["lock_endpoints"], {"endpoint_ids": list(endpoint_ids)}).fetchall()


def add_messages(transaction: Transaction, messages: Sequence[Message], now: int) -> None:
    """Store the bodies of messages."""
    values = {
        "tenants": [message.tenant for message in messages],
        "message_ids": [message.message_id for message in messages],
        "types": [message.type for message in messages],
        "orderings": [message.ordering for message in messages],
        "bodies": [message.body for message in messages],
        "occurred_times": [message.occurred_time for message in messages],
        "now": now,
    }
    transaction.execute(SQL["add_messages"], values)


def add_deliveries(
    transaction: Transaction, deliveries: Sequence[NewDelivery], now: int, next_time: int
) -> list[Stored]:
    """Store deliveries in order, due at `next_time`; return those that need not wait for an earlier one."""
    values = {
        "tenants": [delivery.message.tenant for delivery in deliveries],
        "delivery_ids": [delivery.delivery_id for delivery in deliveries],
        "endpoint_ids": [delivery.endpoint_id for delivery in deliveries],
        "message_ids": [delivery.message.message_id for delivery in deliveries],
        "series": [delivery.series for delivery in deliveries],
        "orderings": [delivery.message.ordering for delivery in deliveries],
        "ordered": [delivery.ordered for delivery in deliveries],
        "now": now,
        "next_time": next_time,
    }
    rows = transaction.execute(SQL["add_deliveries"], values).fetchall()
    return [Stored(tenant, delivery_id, endpoint_id) for tenant, delivery_id, endpoint_id, state in rows
            if state == "waiting"]  # fmt: skip


def take_due(
    transaction: Transaction, now: int, leased_until: int, deliveries_max: int, endpoint_max: int
) -> list[Claimed]:
    """Return deliveries that are due, at most `endpoint_max` of an endpoint; nobody else gets them then."""
    values = {
        "now": now, "leased_until": leased_until, "deliveries_max": deliveries_max, "endpoint_max": endpoint_max,
    }  # fmt: skip
    return transaction.cursor(row_factory=class_row(Claimed)).execute(SQL["claim"], values).fetchall()


def put_off(transaction: Transaction, claimed: Claimed, until: int, reason: str) -> None:
    """Keep a delivery from being due before a time, with the reason for people."""
    values = {"tenant": claimed.tenant, "delivery_id": claimed.delivery_id, "until": until, "reason": reason}
    transaction.execute(SQL["defer"], values)


def prepare(transaction: Transaction, deliveries: Sequence[tuple[str, UUID]]) -> list[Prepared]:
    """Return what the next attempts need, without deliveries that are settled, held, or of a disabled endpoint.

    `deliveries`: tenant and id of each.
    """
    asked = {"tenants": [tenant for tenant, _ in deliveries], "delivery_ids": [one for _, one in deliveries]}
    rows = transaction.cursor(row_factory=dict_row).execute(SQL["prepare"], asked)
    return [
        Prepared(
            row["tenant"], row["delivery_id"], row["endpoint_id"], row["message_id"], row["attempts"],
            bytes(row["body"]), row["url"], make_secrets(row),
        )
        for row in rows.fetchall()
    ]  # fmt: skip


def make_secrets(row: dict[str, Any]) -> Secrets:
    """Return the secrets in a row of an endpoint."""
    previous = row["previous_secret"]
    return Secrets(bytes(row["secret"]), None if previous is None else bytes(previous), row["previous_until"])


def settle(transaction: Transaction, tried: Sequence[Tried], now: int) -> list[Settled]:
    """Store the results of attempts; return the deliveries that they changed."""
    columns = {
        "tenants": [one.tenant for one in tried],
        "delivery_ids": [one.delivery_id for one in tried],
        "attempts": [one.attempt for one in tried],
        "attempted_times": [one.attempted_time for one in tried],
        "statuses": [one.status for one in tried],
        "errors": [one.error for one in tried],
        "latencies": [one.latency_microseconds for one in tried],
        "excerpts": [one.excerpt for one in tried],
        "states": [one.state for one in tried],
        "next_times": [one.next_time for one in tried],
        "now": now,
    }
    changed = transaction.cursor(row_factory=class_row(Settled)).execute(SQL["settle"], columns).fetchall()
    transaction.execute(SQL["add_attempts"], columns)
    return changed


def start_held(transaction: Transaction, settled: Sequence[Settled], next_time: int) -> list[Stored]:
    """Let the next deliveries of the same orderings go, and return them. Nobody claims them before `next_time`."""
    values = {
        "tenants": [one.tenant for one in settled],
        "endpoint_ids": [one.endpoint_id for one in settled],
        "orderings": [one.ordering for one in settled],
        "next_time": next_time,
    }
    return transaction.cursor(row_factory=class_row(Stored)).execute(SQL["release"], values).fetchall()


def note_failing(transaction: Transaction, tenant: str, endpoint_id: UUID, failing_since: int | None) -> None:
    """Store since when all attempts at an endpoint have failed; None after a success."""
    values = {"tenant": tenant, "endpoint_id": endpoint_id, "failing_since": failing_since}
    transaction.execute(SQL["note_failing"], values)


def note_disabled(transaction: Transaction, tenant: str, endpoint_id: UUID, reason: str, now: int) -> int | None:
    """Disable an endpoint; return the number of its notices, None if it was disabled before."""
    values = {"tenant": tenant, "endpoint_id": endpoint_id, "reason": reason, "now": now}
    row = transaction.execute(SQL["disable"], values).fetchone()
    return None if row is None else int(row[0])


def remove_old(transaction: Transaction, before_time: int) -> int:
    """Delete messages of before a time whose deliveries are settled, at most PRUNED_MAX; return their number."""
    return transaction.execute(SQL["prune"], {"before_time": before_time, "rows_max": PRUNED_MAX}).rowcount


def read_measures(transaction: Transaction) -> Measured:
    """Return what the metrics show."""
    found = transaction.cursor(row_factory=class_row(Measured)).execute(SQL["measure"]).fetchone()
    assert found is not None  # noqa: S101 - a SELECT without FROM has one row
    return found
