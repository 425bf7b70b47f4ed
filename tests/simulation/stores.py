"""The stores of posting and relay over the model of Postgres: each method does the same statements.

The inherited code is real: it turns errors of Postgres into errors of the store, and decides when a connection is
closed.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from types import MappingProxyType
from typing import Any, Final, TypeVar

from db.books import Books
from db.posting import Account, BalanceChanges, Lane, PostingStore, QuarantinedBytes
from db.relay import LaneEnd, RelayStore, TracedBatch, add_signatures
from domain.chart import DEFAULT_CHART, Chart, ChartPattern
from domain.decision import Constraint, IntentName, Original
from domain.intents import DIRECTION_NAMES, Leg
from domain.journal import GENESIS_HASH, JournalRow
from domain.outcomes import Outcome
from domain.signed_heads import SignedHead
from tests.simulation.database import SETTLING, Database, Process, Session

# Postgres has 1024 buckets. With 3, reversals of different originals often meet in one bucket.
ADVISORY_BUCKETS: Final = 3
BOOKS: Final = Books(1, {"default": Chart(DEFAULT_CHART)}, {})

Name = tuple[str, str]
Result = TypeVar("Result")


def done(result: Result) -> Future[Result]:
    """Return a future that has its result."""
    future: Future[Result] = Future()
    future.set_result(result)
    return future


class SimulatedPostingStore(PostingStore):
    """PostingStore with the model as its server."""

    def __init__(self, database: Database, process: Process) -> None:
        super().__init__("simulated")
        self._database = database
        self._process = process
        self._session: Session | None = None

    def _open(self) -> Any:
        if self._connection is None or self._connection.closed:
            self._connection = self._database.connect(self._process)  # type: ignore[assignment]
        return self._connection

    def _statement(self) -> Session:
        with self.statements() as session:
            session.statement()  # type: ignore[attr-defined]
            return session  # type: ignore[return-value]

    def make_lane(self, lane: int, topic: str, topic_id: str, first_offset: int) -> None:
        """See PostingStore."""
        session = self._statement()
        if lane not in session.rows("lane"):
            session.write("first_offset", lane, first_offset)
            session.write("lane", lane, Lane(lane, topic, topic_id, first_offset, 0, GENESIS_HASH, 0))

    def lanes(self, lanes: Iterable[int], *, lock: bool = False) -> dict[int, Lane]:
        """See PostingStore."""
        session = self._statement()
        asked = sorted(lanes)
        if lock:
            for lane in asked:
                session.lock(("lane", lane))
            self._database.scheduler.tell("{} locks lanes {}", self._process.name, asked)
        rows = session.rows("lane")
        return {lane: rows[lane] for lane in asked if lane in rows}

    def row_hash(self, lane: int, seq: int) -> bytes | None:
        """See PostingStore."""
        row = self._statement().rows("journal").get((lane, seq))
        return None if row is None else row.hash

    def books_version(self) -> int:
        """See PostingStore."""
        self._statement()
        return BOOKS.version

    def books(self) -> Books:
        """See PostingStore."""
        self._statement()
        return BOOKS

    def look_up_settled(self, names: Sequence[IntentName]) -> Future[dict[IntentName, bytes]]:
        """See PostingStore.

        The real statement runs until its result is read. The caller touches none of its data until then, so the model
        runs each such statement at once.
        """
        rows = self._statement().rows("journal").values()
        asked = set(names)
        return done(
            {
                (row.tenant, row.intent_id): row.fingerprint
                for row in rows
                if row.outcome in SETTLING and (row.tenant, row.intent_id) in asked
            }
        )

    def originals(self, names: Sequence[IntentName]) -> dict[IntentName, Original]:
        """See PostingStore; the same four statements."""
        self._lock_originals(names)
        asked = set(names)
        heads = [
            row
            for row in self._statement().rows("journal").values()
            if row.outcome in SETTLING and (row.tenant, row.intent_id) in asked
        ]
        legs = self._original_legs(asked)
        done: dict[Any, dict[tuple[str, int, str], int]] = {}
        session = self._statement()
        addresses = _addresses(session)
        for row in session.rows("journal").values():
            if row.outcome is Outcome.POSTED and (row.tenant, row.reverses) in asked:
                given = done.setdefault((row.tenant, row.reverses), {})
                for account_id, direction, amount_minor, currency in session.rows("entry")[row.lane, row.seq]:
                    key = (addresses[account_id], -direction, currency)
                    given[key] = given.get(key, 0) + amount_minor
        return {
            (row.tenant, row.intent_id): Original(
                row.outcome,
                row.type,
                tuple(legs.get((row.tenant, row.intent_id), ())),
                done.get((row.tenant, row.intent_id), {}),
            )
            for row in heads
        }

    def _lock_originals(self, names: Sequence[IntentName]) -> None:
        session = self._statement()
        for bucket in sorted({intent_id.int % ADVISORY_BUCKETS for _, intent_id in names}):
            session.lock(("original", bucket))

    def _original_legs(self, asked: set[IntentName]) -> dict[Any, list[Leg]]:
        session = self._statement()
        addresses = _addresses(session)
        return {
            (row.tenant, row.intent_id): [
                Leg(addresses[account_id], direction, amount_minor, currency)
                for account_id, direction, amount_minor, currency in session.rows("entry")[place]
            ]
            for place, row in session.rows("journal").items()
            if row.outcome is Outcome.POSTED and (row.tenant, row.intent_id) in asked
        }

    def accounts(self, names: Sequence[Name]) -> dict[Name, Account]:
        """See PostingStore."""
        rows = self._statement().rows("account")
        return {name: rows[name] for name in names if name in rows}

    def open_accounts(self, wanted: Mapping[Name, ChartPattern], chain: int) -> None:
        """See PostingStore. ON CONFLICT DO NOTHING waits for a transaction that opens the same account.

        Account numbers are never reused, not even after a rollback.
        """
        self._statement()
        session = self._statement()
        opened = []
        for name in sorted(wanted):
            self._database.accounts_made += 1
            number = self._database.accounts_made
            session.lock(("account of", *name))
            if name not in session.rows("account"):
                line = wanted[name]
                floored = None if line.floor_minor is None else Constraint(line.normal_direction, line.floor_minor)
                session.write("account", name, Account(number, floored))
                opened.append(opening_of(name, line))
        if opened:
            session.append_facts(chain, opened)

    def locked_balances(self, account_ids: Sequence[int]) -> dict[tuple[int, str], int]:
        """See PostingStore."""
        self._lock_accounts(account_ids)
        balances: dict[tuple[int, str], int] = {}
        for (account_id, currency, _), (debits, credits, _) in self._statement().rows("balance").items():
            if account_id in account_ids:
                balances[account_id, currency] = balances.get((account_id, currency), 0) + debits - credits
        return balances

    def _lock_accounts(self, account_ids: Sequence[int]) -> None:
        session = self._statement()
        for account_id in sorted(account_ids):
            session.lock(("account", account_id))

    def write_journal(self, rows: Iterable[JournalRow]) -> list[JournalRow]:
        """See PostingStore."""
        written = list(rows)
        session = self._statement()
        for row in written:
            session.insert_journal(row)
            self._database.scheduler.tell("{} writes {}", self._process.name, shown_row(row))
        return written

    def write_entries(self, rows: Sequence[JournalRow], account_ids: Mapping[Name, int]) -> Future[None]:
        """See PostingStore."""
        session = self._statement()
        added = {
            (row.lane, row.seq): [
                (account_ids[row.tenant or "", account], direction, amount_minor, currency)
                for account, direction, amount_minor, currency in row.legs
            ]
            for row in rows
            if row.legs
        }
        for place, entries in added.items():
            session.write("entry", place, entries)
        session.check_entries(added)
        return done(None)

    def add_balances(self, changes: BalanceChanges) -> Future[None]:
        """See PostingStore."""
        if changes.seqs:
            session = self._statement()
            for account_id, currency, lane, debits_minor, credits_minor, seq in zip(*changes, strict=True):
                session.add_balance((account_id, currency, lane), debits_minor, credits_minor, seq)
        return done(None)

    def add_quarantined(self, quarantined: Sequence[QuarantinedBytes]) -> None:
        """See PostingStore."""
        for raw in quarantined:
            self._statement().write("quarantine", (raw.lane, raw.seq), raw)

    def advance(self, lanes: Sequence[Lane], signed: Mapping[int, SignedHead] = MappingProxyType({})) -> None:
        """See PostingStore. The commit notifies the listeners."""
        for lane in lanes:
            session = self._statement()
            if lane.lane in signed:
                session.write("signed_head", (lane.lane, lane.next_seq), signed[lane.lane])
            session.update_lane(lane)

    def tell_traced(self, traceparent: str, lanes: Sequence[Lane]) -> None:
        """Raise AssertionError: nothing is traced here."""
        raise AssertionError(f"A batch was traced: {traceparent}, {lanes}.")


class SimulatedRelayStore(RelayStore):
    """RelayStore with the model as its server."""

    def __init__(self, database: Database, process: Process) -> None:
        super().__init__("simulated")
        self._database = database
        self._process = process

    def _open(self) -> Any:
        if self._connection is None or self._connection.closed:
            self._connection = self._database.connect(self._process)  # type: ignore[assignment]
        return self._connection

    def _statement(self) -> Session:
        with self.statements() as session:
            session.statement()  # type: ignore[attr-defined]
            return session  # type: ignore[return-value]

    def lanes(self, instance: int, instances: int) -> list[LaneEnd]:
        """See RelayStore."""
        session = self._statement()
        rows, chains = session.rows("lane"), session.rows("chain")
        return [
            *(LaneEnd(chain, chains[chain][0], 0) for chain in sorted(chains) if (-2 - chain) % instances == instance),
            *(
                LaneEnd(lane, rows[lane].next_seq, rows[lane].booked_time)
                for lane in sorted(rows)
                if lane % instances == instance
            ),
        ]

    def facts(self, chain: int, first_seq: int, facts_max: int) -> list[dict[str, Any]]:
        """See RelayStore."""
        rows = self._statement().rows("fact")
        return [rows[chain, seq] for seq in range(first_seq, first_seq + facts_max) if (chain, seq) in rows]

    def records(self, lane: int, first_seq: int, records_max: int) -> list[dict[str, Any]]:
        """See RelayStore; the same three statements."""
        session = self._statement()
        journal, quarantine = session.rows("journal"), session.rows("quarantine")
        places = [(lane, seq) for seq in range(first_seq, first_seq + records_max) if (lane, seq) in journal]
        records = [record_of(journal[place], quarantine.get(place)) for place in places]
        session = self._statement()
        addresses, entries = _addresses(session), session.rows("entry")
        for record in records:
            record["legs"] = [
                {
                    "account": addresses.get(account_id),
                    "direction": DIRECTION_NAMES[direction],
                    "amount_minor": amount_minor,
                    "currency": currency,
                }
                for account_id, direction, amount_minor, currency in entries.get((lane, record["seq"]), ())
            ]
        heads = self._statement().rows("signed_head")
        ends = range(first_seq + 1, first_seq + records_max + 1)
        return add_signatures(records, [heads[lane, end][1:] for end in ends if (lane, end) in heads])

    def wait(self, seconds: float) -> bool:  # noqa: ARG002
        """See RelayStore. Return True also after a timeout: the relay only looks once more then."""
        session = self._statement()
        self._database.scheduler.wait(lambda: self._database.commits > session.notified, idle=True)
        session.notified = self._database.commits
        return True

    def traced(self) -> list[TracedBatch]:
        """Raise AssertionError: nothing is traced here."""
        raise AssertionError("The relay asked for what was traced.")


def opening_of(name: Name, line: ChartPattern) -> dict[str, Any]:
    """Return the fact of a newly opened account as the trigger writes it, without chain and seq, at time 0."""
    return {
        "part": "account",
        "change": "added",
        "tenant": name[0],
        "name": name[1],
        "account_class": line.account_class.value,
        "normal_side": DIRECTION_NAMES[line.normal_direction],
        "floor_minor": line.floor_minor,
        "currencies": None,
        "exponent": None,
        "title": None,
        "made_time": 0,
        "author": "posting",
        "booked_time": 0,
    }


def record_of(row: JournalRow, raw: QuarantinedBytes | None) -> dict[str, Any]:
    """Return a journal row as the relay reads it, without its legs."""
    members = row._asdict()
    return {
        **members,
        "outcome": row.outcome.value,
        "intent_id": row.intent_id and str(row.intent_id),
        "reverses": row.reverses and str(row.reverses),
        "signed_from": None,
        "signature": None,
        "raw_key": raw and raw.key,
        "raw_value": raw and raw.value,
        "raw_headers": None if raw is None else [list(header) for header in raw.headers],
    }


def shown_row(row: JournalRow) -> str:
    """Return a row in words."""
    return f"lane {row.lane} seq {row.seq}: offset {row.source_offset} {row.idempotency_key or ''} {row.outcome.value}"


def _addresses(session: Session) -> dict[int, str]:
    return {account.account_id: name[1] for name, account in session.rows("account").items()}
