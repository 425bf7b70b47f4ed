"""A model of Postgres with what posting and relay rely on: read committed, row locks, unique indexes, checks.

The writes of a transaction are invisible to others until its commit. Each statement sees what was committed when the
statement began, and its own transaction's writes. A statement that locks a row sees the last committed version of the
row. A transaction that writes a key which another open transaction has written waits for the end of that transaction.
Locks are granted in no fixed order, so the model covers every order that Postgres could choose, and more. If a wait
would close a cycle of waits, it fails with a deadlock error.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus

from db.connections import DatabaseError
from db.posting import Lane
from domain.facts import compute_fact_hash
from domain.journal import GENESIS_HASH, JournalRow
from domain.outcomes import Outcome
from tests.simulation.scheduler import Choice, Crashed, Scheduler

SETTLING: Final = (Outcome.POSTED, Outcome.REJECTED)
TABLES: Final = (
    "lane",
    "first_offset",
    "journal",
    "entry",
    "account",
    "balance",
    "quarantine",
    "chain",
    "fact",
    "signed_head",
)
GUARDS: Final = frozenset({"journal_pkey", "journal_settled", "lane_check", "lane_advances", "entry"})
"""What the database itself refuses. A test may remove some of these guards to see what stands behind them."""

Rows = dict[Any, Any]


class Process:
    """One life of a simulated process, as its servers know it."""

    def __init__(self, name: str, scheduler: Scheduler) -> None:
        self.name = name
        self.scheduler = scheduler
        self.is_dead = False
        self.sessions: list[Session] = []

    def step(self, menu: str) -> Choice | None:
        """Do a step of this process. Do nothing if the process is dead and only unwinds its stack."""
        return None if self.is_dead else self._living_step(menu)

    def _living_step(self, menu: str) -> Choice | None:
        try:
            return self.scheduler.step(menu)
        except Crashed:
            self.is_dead = True
            raise

    def fault(self, point: str) -> None:
        """Act as the fault hook of the real code."""
        self.scheduler.tell("{} is at '{}'", self.name, point)
        self.step("code")

    def crash_now(self) -> None:
        """Kill the process, wherever it is."""
        self.is_dead = True
        raise Crashed

    @property
    def is_in_transaction(self) -> bool:
        """Return whether one of the process's sessions has a transaction open on the server."""
        return any(session.info.transaction_status for session in self.sessions)

    def lose_sessions(self) -> None:
        """End the process's sessions on the server, because it is dead or has slept in a transaction for too long."""
        for session in self.sessions:
            session.is_ended = True
            session.let_go()


class Database:
    """All committed data, and the holder of each lock."""

    def __init__(self, scheduler: Scheduler, guards: frozenset[str] = GUARDS) -> None:
        self.scheduler = scheduler
        self.guards = guards
        self.tables: dict[str, Rows] = {name: {} for name in TABLES}
        self.holders: dict[Hashable, Session] = {}
        self.commits = 0
        self.accounts_made = 0
        self.on_commit: Callable[[dict[str, Rows]], None] = lambda _: None
        self.counts: Counter[str] = Counter()

    def connect(self, process: Process) -> "Session":
        """Open a new session; raise DatabaseError if the server cannot be reached."""
        found = process.step("statement")
        if found is not None:
            raise DatabaseError("Postgres cannot be reached: a fault.")
        session = Session(self, process)
        process.sessions.append(session)
        return session


class Session:
    """One connection, as psycopg shows it, and its server side."""

    def __init__(self, database: Database, process: Process) -> None:
        self._database = database
        self._process = process
        self._own: dict[str, Rows] | None = None
        self._locks: list[Hashable] = []
        self._waits_for: Hashable | None = None
        self.closed = False
        self.is_ended = False
        """True once the server has ended the session. The client finds out at its next statement and closes then."""
        self.notified = database.commits

    @property
    def info(self) -> SimpleNamespace:
        idle = self._own is None
        return SimpleNamespace(transaction_status=TransactionStatus.IDLE if idle else TransactionStatus.INTRANS)

    def close(self) -> None:
        """Close the connection; the server rolls back what is open."""
        self.closed = True
        if not self._process.is_dead:
            self.let_go()

    # ------------------------------------------------------------------------------------------ transactions

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Do as psycopg's transaction(): COMMIT at the end, ROLLBACK if an exception leaves the block."""
        self._own = {name: {} for name in TABLES}
        try:
            yield
        except BaseException:
            # A dead process sends no ROLLBACK. lose_sessions does what the server then does.
            if not self._process.is_dead and not self.closed:
                self.let_go()
            raise
        self._commit()

    def _commit(self) -> None:
        tell, name = self._database.scheduler.tell, self._process.name
        choice = self._process.step("commit")
        what = "" if choice is None else choice.what
        self._alive()
        if what in ("", "answer lost"):
            self._apply()
        if what == "":
            tell("{} commits", name)
            self._process.step("code")
            return
        tell("{} sends COMMIT: {}", name, what)
        if what in ("commit late", "crash in commit"):
            commits = what == "crash in commit" or choice is None or choice.number % 3 != 0
            self._orphan(commits=commits)
        self._break("the server closed the connection in the commit", crash=what == "crash in commit")

    def _orphan(self, *, commits: bool) -> None:
        """Leave the transaction open on the server, which ends it later. Its locks are held until then."""
        orphan = Session(self._database, Process(f"{self._process.name} (gone)", self._database.scheduler))
        orphan._own, orphan._locks = self._own, self._locks
        for key in self._locks:
            self._database.holders[key] = orphan
        self._own, self._locks = None, []
        what = f"the COMMIT of {self._process.name} arrives late" if commits else f"{self._process.name} is rolled back"
        self._database.scheduler.later(what, orphan._apply if commits else orphan.let_go)

    def _break(self, why: str, *, crash: bool = False) -> None:
        self.let_go()
        self.closed = True
        if crash:
            self._process.crash_now()
        raise psycopg.OperationalError(why)

    def _apply(self) -> None:
        """Commit at one instant."""
        own, self._own = self._own, None
        assert own is not None
        for name, rows in own.items():
            self._database.tables[name].update(rows)
        self._release()
        self._database.commits += 1
        self._database.on_commit(own)

    def let_go(self) -> None:
        """Roll back what is open on the server, and release all locks."""
        self._own = None
        self._release()

    def _release(self) -> None:
        for key in self._locks:
            if self._database.holders.get(key) is self:
                del self._database.holders[key]
        self._locks = []

    # ------------------------------------------------------------------------------------------ statements

    def _alive(self) -> None:
        if self.is_ended:
            self.closed = True
        if self.closed:
            raise psycopg.OperationalError("the connection is closed")

    def statement(self) -> None:
        """Send a statement to the server, unless the connection breaks at it."""
        self._alive()
        choice = self._process.step("statement")
        self._alive()
        if choice is not None:
            self._database.scheduler.tell("{} loses its connection to Postgres", self._process.name)
            if self._own is not None and choice.number % 2:
                self._orphan(commits=False)
            self._break("the server closed the connection")

    def rows(self, table: str) -> Rows:
        """Return what the statement sees of a table, by key."""
        committed = self._database.tables[table]
        return {**committed, **self._own[table]} if self._own is not None and self._own[table] else committed

    def write(self, table: str, key: Any, row: Any) -> None:
        """Write a row that is locked. Outside of a transaction the write is committed at once."""
        if self._own is None:
            self._database.tables[table][key] = row
        else:
            self._own[table][key] = row

    def lock(self, key: Hashable) -> None:
        """Wait for the lock on a row, a key or an advisory lock, and hold it until the transaction ends."""
        holders = self._database.holders
        while holders.get(key, self) is not self:
            self._wait(key)
            self._alive()
        if holders.get(key) is None and self._own is not None:
            holders[key] = self
            self._locks.append(key)

    def _wait(self, key: Hashable) -> None:
        scheduler, holders, name = self._database.scheduler, self._database.holders, self._process.name
        self._database.counts["waits"] += 1
        blocker: Session | None = holders[key]
        scheduler.tell("{} waits for {}, which {} holds", name, _shown(key), holders[key]._process.name)
        while blocker is not None and blocker is not self:
            blocker = holders.get(blocker._waits_for) if blocker._waits_for is not None else None
        if blocker is self:
            self._database.counts["deadlocks"] += 1
            scheduler.tell("{} would close a ring of waits and is refused", name)
            raise psycopg.errors.DeadlockDetected("deadlock detected")
        if self._process.step("wait") is not None:
            scheduler.tell("{} has waited too long", name)
            raise psycopg.errors.LockNotAvailable("canceling statement due to lock timeout")
        self._waits_for = key
        try:
            scheduler.wait(lambda: key not in holders)
        finally:
            self._waits_for = None

    # ------------------------------------------------------------------------------------------ writes that are checked

    def insert_journal(self, row: JournalRow) -> None:
        """Insert a journal row. Its checks and unique indexes are applied in the order of Postgres."""
        quarantined, posted = row.outcome is Outcome.QUARANTINED, row.outcome is Outcome.POSTED
        _check(quarantined == (row.intent_id is None), "journal_check")
        _check(posted == bool(row.legs), "journal_check1")
        _check((row.outcome in (Outcome.REJECTED, Outcome.QUARANTINED)) == (row.reason != ""), "journal_check2")
        self._unique("journal_pkey", (row.lane, row.seq), lambda other: (other.lane, other.seq))
        if row.outcome in SETTLING:
            self._unique("journal_settled", (row.intent_id,), _settled_id)
        self.write("journal", (row.lane, row.seq), row)

    def _unique(self, index: str, key: tuple[Any, ...], key_of: Callable[[JournalRow], Any]) -> None:
        if index not in self._database.guards:
            return
        self.lock((index, *key))
        if any(key_of(other) == key for other in self.rows("journal").values()):
            self._database.counts[index] += 1
            self._database.scheduler.tell("{} is refused: {} has {}", self._process.name, index, _shown(key))
            raise psycopg.errors.UniqueViolation(f"duplicate key value violates {index}: {key}")

    def check_entries(self, added: Rows) -> None:
        """Do as the trigger entry_balances, at the end of the statement."""
        if "entry" not in self._database.guards:
            return
        for place, entries in added.items():
            sums: Counter[str] = Counter()
            for _, direction, amount_minor, currency in entries:
                sums[currency] += direction * amount_minor
            row = self.rows("journal").get(place)
            _check(not any(sums.values()), "entry_balances")
            _check(row is not None and len(row.legs) == len(entries), "entry_legs")

    def add_balance(self, key: tuple[int, str, int], debits_minor: int, credits_minor: int, seq: int) -> None:
        """Insert a balance shard or add to it, as ON CONFLICT DO UPDATE does."""
        self.lock(("balance", *key))
        debits, credits, _ = self.rows("balance").get(key, (0, 0, 0))
        self.write("balance", key, (debits + debits_minor, credits + credits_minor, seq))

    def append_facts(self, chain: int, facts: list[dict[str, Any]]) -> None:
        """Do as the function append_facts, which the trigger of accounts calls. Lock the chain's row."""
        self.lock(("chain", chain))
        next_seq, head = self.rows("chain").get(chain, (0, GENESIS_HASH))
        for fact in facts:
            told = {**fact, "chain": chain, "seq": next_seq, "previous_hash": head}
            next_seq, head = next_seq + 1, compute_fact_hash(head, told)
            self.write("fact", (chain, next_seq - 1), {**told, "hash": head})
        self.write("chain", chain, (next_seq, head))

    def update_lane(self, lane: Lane) -> None:
        """Move a lane, with its check and the trigger lane_advances."""
        self.lock(("lane", lane.lane))
        before = self.rows("lane")[lane.lane]
        if "lane_check" in self._database.guards:
            first_offset = self.rows("first_offset")[lane.lane]
            _check(lane.next_offset - first_offset == lane.next_seq, "lane_check")
        self.write("lane", lane.lane, before._replace(**lane._asdict()))
        if "lane_advances" in self._database.guards:
            journal, entries = self.rows("journal"), self.rows("entry")
            places = [(lane.lane, seq) for seq in range(before.next_seq, lane.next_seq)]
            _check(all(place in journal for place in places), "lane_advances")
            _check(all(len(entries.get(place, ())) == len(journal[place].legs) for place in places), "lane_advances")
            _check(not places or journal[places[-1]].hash == lane.head, "lane_advances")


def _settled_id(row: JournalRow) -> Any:
    return (row.intent_id,) if row.outcome in SETTLING else None


def _check(holds: bool, constraint: str) -> None:
    if not holds:
        raise psycopg.errors.CheckViolation(f"violates check constraint {constraint}")


def _shown(key: Hashable) -> str:
    return " ".join(map(str, key)) if isinstance(key, tuple) else str(key)
