"""The API's queries: intents, accounts, balances, entries, journal. Every read is of one tenant.

All functions raise DatabaseError if Postgres is unreachable. A page begins after the last row of the previous page.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from db.binary import Uuids
from db.books import Books, load_books_async
from db.connections import TRANSIENT, DatabaseError, connect_async, explain_errors
from db.fetch import Pool, fetch
from db.queries import load
from domain.intents import Leg
from domain.journal import JournalRow
from domain.outcomes import Outcome

_QUERIES: Final = load("reads")
_LANE_MAX: Final = 2**31 - 1
JOURNAL_SCAN_ROWS_MAX: Final = 20_000


class Settled(NamedTuple):
    """The journal row that settled an intent, posted or rejected. Times are microseconds since 1970 UTC."""

    intent_id: UUID
    lane: int
    seq: int
    source_topic: str
    source_offset: int
    outcome: Outcome
    reason: str
    detail: str
    idempotency_key: str
    fingerprint: bytes
    type: str
    reverses: UUID | None
    reference: str | None
    metadata: dict[str, str]
    value_time: int | None
    booked_time: int
    hash: bytes
    legs: tuple[Leg, ...] | None
    """None if the query did not ask for them."""


class Delivery(NamedTuple):
    """The result of one delivery of an intent. A delivery after the intent is settled posts nothing."""

    lane: int
    offset: int
    seq: int
    outcome: Outcome
    detail: str
    hash: bytes


class IntentQuestion(NamedTuple):
    """A question about an intent, and about its delivery at (lane, offset) unless these are None."""

    intent_id: UUID
    lane: int | None = None
    offset: int | None = None


class IntentState(NamedTuple):
    """The state of an intent and of one delivery of it, both from one snapshot."""

    settled: Settled | None
    delivery: Delivery | None
    next_offset: int | None
    """The next offset of the lane in the question; None if the question has no lane or the ledger has no such lane."""


class AccountRow(NamedTuple):
    """An open account, with what its chart line said when it was opened."""

    address: str
    account_class: str
    normal_direction: int
    floor_minor: int | None
    opened_time: datetime


class BalanceRow(NamedTuple):
    """An account's sums in one currency, over all lanes; the currency is None if nothing was posted to the account."""

    address: str
    account_class: str
    normal_direction: int
    currency: str | None
    debits_minor: int
    credits_minor: int

    @property
    def balance_minor(self) -> int:
        """Return the balance, positive on the account's normal side."""
        return self.normal_direction * (self.debits_minor - self.credits_minor)


class EntryRow(NamedTuple):
    """One leg as posted to an account."""

    lane: int
    seq: int
    leg: int
    direction: int
    amount_minor: int
    currency: str
    intent_id: UUID
    type: str
    reference: str | None
    value_time: int | None
    booked_time: int


class JournalPage(NamedTuple):
    """Journal rows, and the place to continue from: the last (lane, seq) that was scanned, or None at the end."""

    rows: list[JournalRow]
    resume: tuple[int, int] | None


async def read_books(pool: Pool) -> Books:
    """Return the books' current frame."""
    with explain_errors("Postgres cannot be reached to load the books."):
        async with pool.connection() as connection:
            return await load_books_async(connection)


def _make_legs(found: Iterable[Sequence[Any]]) -> tuple[Leg, ...]:
    return tuple(Leg(*leg) for leg in found)


def _make_settled(row: dict[str, Any]) -> Settled | None:
    if row["intent_id"] is None:
        return None
    legs = row.get("legs")
    fields = {name: row[name] for name in Settled._fields if name != "legs"}
    fields["outcome"] = Outcome(fields["outcome"])
    fields["metadata"] = fields["metadata"] or {}
    return Settled(**fields, legs=None if legs is None else _make_legs(legs))


async def find_settled(pool: Pool, tenant: str, intent_ids: Sequence[UUID]) -> tuple[int, dict[UUID, Settled]]:
    """Return the version of the books, and by intent id the rows that settled these intents, without legs."""
    rows = await fetch(pool, _QUERIES["settled"], {"tenant": tenant, "intent_ids": Uuids(intent_ids)})
    found = [settled for row in rows if (settled := _make_settled(row)) is not None]
    return rows[0]["books_version"] if rows else 0, {settled.intent_id: settled for settled in found}


async def find_states(pool: Pool, tenant: str, asked: Iterable[IntentQuestion]) -> dict[IntentQuestion, IntentState]:
    """Return the state of each intent. A question with lane and offset also gets the delivery and the next offset."""
    questions = list(dict.fromkeys(asked))
    intent_ids, lanes, offsets = zip(*questions, strict=True)
    values = {"tenant": tenant, "intent_ids": Uuids(intent_ids), "lanes": list(lanes), "offsets": list(offsets)}
    rows = await fetch(pool, _QUERIES["intents"], values)
    return {
        question: IntentState(_make_settled(row), _make_delivery(row, question), row["next_offset"])
        for row in rows
        for question in (questions[row["number"] - 1],)
    }


def _make_delivery(row: dict[str, Any], question: IntentQuestion) -> Delivery | None:
    _, lane, offset = question
    if row["delivery_outcome"] is None or lane is None or offset is None:
        return None
    outcome = Outcome(row["delivery_outcome"])
    return Delivery(lane, offset, row["delivery_seq"], outcome, row["delivery_detail"], row["delivery_hash"])


async def find_originals(pool: Pool, tenant: str, intent_ids: list[UUID]) -> dict[UUID, str | None]:
    """Return the settled ones of these intents, each with the first constrained account that its reversal draws on."""
    rows = await fetch(pool, _QUERIES["reversible"], {"tenant": tenant, "intent_ids": Uuids(intent_ids)})
    return {row["intent_id"]: row["drained"] for row in rows}


async def read_lane_offsets(pool: Pool) -> dict[int, int]:
    """Return lane -> the offset after the last one that was posted."""
    return {row["lane"]: row["next_offset"] for row in await fetch(pool, _QUERIES["lane_offsets"], {})}


async def list_accounts(pool: Pool, tenant: str, prefix: str, after: str, limit: int) -> list[AccountRow]:
    """Return up to `limit` accounts in order of address, of those that begin with `prefix` and come after `after`."""
    values = {"tenant": tenant, "prefix": prefix, "after": after, "limit": limit}
    return [AccountRow(**row) for row in await fetch(pool, _QUERIES["accounts"], values)]


async def find_account(pool: Pool, tenant: str, address: str) -> AccountRow | None:
    """Return one account, or None if it is not open."""
    rows = await fetch(pool, _QUERIES["account"], {"tenant": tenant, "address": address})
    return AccountRow(**rows[0]) if rows else None


def _make_balance(row: dict[str, Any]) -> BalanceRow:
    sums = {name: int(row[name] or 0) for name in ("debits_minor", "credits_minor")}
    return BalanceRow(**row | sums)


async def list_balances(pool: Pool, tenant: str, prefix: str, after: tuple[str, str], limit: int) -> list[BalanceRow]:
    """Return up to `limit` balances after `after`, in order of (address, currency), of accounts below `prefix`."""
    values = {"tenant": tenant, "prefix": prefix, "after": after[0], "after_currency": after[1], "limit": limit}
    return [_make_balance(row) for row in await fetch(pool, _QUERIES["balances"], values)]


async def find_account_balances(pool: Pool, tenant: str, address: str) -> list[BalanceRow] | None:
    """Return one account's balances, one for each currency that it holds, or None if the account is not open."""
    rows = await fetch(pool, _QUERIES["account_balances"], {"tenant": tenant, "address": address})
    return [_make_balance(row) for row in rows if row["currency"] is not None] if rows else None


async def list_entries(
    pool: Pool, tenant: str, address: str, after: tuple[int, int, int], limit: int
) -> list[EntryRow]:
    """Return up to `limit` entries of one account after the place (lane, seq, leg)."""
    lane, seq, leg = after
    values = {"tenant": tenant, "address": address, "lane": lane, "seq": seq, "leg": leg, "limit": limit}
    return [EntryRow(**row) for row in await fetch(pool, _QUERIES["entries"], values)]


def _make_journal_row(row: dict[str, Any]) -> JournalRow:
    fields = {name: row[name] for name in JournalRow._fields}
    fields["outcome"] = Outcome(fields["outcome"])
    fields["metadata"] = fields["metadata"] or {}
    fields["legs"] = _make_legs(fields["legs"])
    return JournalRow(**fields)


async def list_journal(
    pool: Pool,
    tenant: str,
    after: tuple[int, int],
    limit: int,
    *,
    lane: int | None = None,
    outcome: Outcome | None = None,
    scan_rows_max: int = JOURNAL_SCAN_ROWS_MAX,
) -> JournalPage:
    """Return up to `limit` journal rows after the place (lane, seq).

    At most `scan_rows_max` rows are scanned, of all tenants and outcomes. So a page can have fewer rows and still a
    place to continue from.
    """
    values = {
        "tenant": tenant,
        "after_lane": after[0],
        "after_seq": after[1],
        "lane_max": _LANE_MAX if lane is None else lane,
        "outcome": None if outcome is None else outcome.value,
        "limit": limit,
        "scan_max": scan_rows_max,
    }
    found = await fetch(pool, _QUERIES["journal"], values)
    rows = [_make_journal_row(row) for row in found if row["matches"]]
    complete = len(rows) < limit and all(row["matches"] for row in found)
    return JournalPage(rows, None if complete or not found else (found[-1]["lane"], found[-1]["seq"]))


async def find_journal_row(pool: Pool, tenant: str, lane: int, seq: int) -> JournalRow | None:
    """Return one journal row, or None if there is none or it is another tenant's."""
    page = await list_journal(pool, tenant, (lane, seq - 1), 1, lane=lane, scan_rows_max=1)
    return next((row for row in page.rows if row.seq == seq), None)


def _make_postings(payload: str) -> dict[int, int]:
    pairs = (piece.split(":") for piece in payload.split(","))
    return {int(lane): int(next_offset) for lane, next_offset in pairs}


async def listen_for_postings(dsn: str) -> AsyncIterator[dict[int, int]]:
    """Yield lane -> next offset for each commit that posting workers announce, over one connection of its own.

    The first item is empty and means that listening has begun: earlier commits must be looked up. Raise DatabaseError
    when the connection dies.
    """
    try:
        async with await connect_async(dsn, "ledgerline_api") as connection:
            # Not in db/queries: LISTEN takes no parameter and cannot be prepared.
            await connection.execute("LISTEN ledgerline_posted")
            connection.silence_seconds_max = None  # hours may pass without a posting; keep-alives detect a dead peer
            yield {}
            async for notification in connection.notifies():
                yield _make_postings(notification.payload)
    except TRANSIENT as error:
        raise DatabaseError("Postgres cannot be reached to listen for postings.") from error
