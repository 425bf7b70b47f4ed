"""The queries of the posting transaction. streams/posting decides; this module reads and writes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar

import orjson
import psycopg
from psycopg import Connection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb, set_json_dumps

from db.binary import COPY_HEADER, COPY_TRAILER, Bigints, Texts, Uuids, make_entries, make_numerics, register
from db.books import Books, load_books
from db.kept_connection import KeptConnection
from db.queries import load
from domain.chart import ChartPattern
from domain.decision import Constraint, IntentName, Original
from domain.intents import Leg
from domain.journal import JournalRow
from domain.outcomes import Outcome
from domain.signed_heads import SignedHead

ROLE: Final = "ledgerline_posting"
SQL: Final = load("posting")
# A NOTIFY payload has at most 8,000 bytes, so it names at most this many lanes.
TRACED_LANES_MAX: Final = 300

# The columns of `copy_journal` in its order, with their types; tests/unit/test_posting_rows.py compares the two. The
# lane and the row before give a row's source topic, source offset and previous hash, so no column has them.
JOURNAL_TYPES: Final = {
    "lane": "int4",
    "seq": "int8",
    "outcome": "text",
    "reason": "text",
    "detail": "text",
    "tenant": "text",
    "intent_id": "uuid",
    "idempotency_key": "text",
    "fingerprint": "bytea",
    "type": "text",
    "reverses": "uuid",
    "reference": "text",
    "value_time": "int8",
    "booked_time": "int8",
    "hash": "bytea",
    "leg_count": "int2",
    "metadata": "jsonb",
}
# All columns before leg_count have the value of the JournalRow's field of that name.
_same_fields: Final = attrgetter(*[name for name in JOURNAL_TYPES if name not in ("leg_count", "metadata")])

ROWS_PER_WRITE: Final = 500

Result = TypeVar("Result")


class Collision(Exception):
    """Another lane settled one of the batch's intents at the same time: look up and decide again."""


class BatchRefused(Exception):
    """Postgres refused the batch because of the data of one of its events."""


class Lane(NamedTuple):
    """A lane's position in the ledger."""

    lane: int
    topic: str
    topic_id: str
    next_offset: int
    next_seq: int
    head: bytes
    booked_time: int


class Account(NamedTuple):
    """An open account."""

    account_id: int
    constraint: Constraint | None
    """None if the account has no floor."""


class BalanceChanges(NamedTuple):
    """The sums that a batch adds to each balance shard, and the last journal row that touches the shard.

    The fields are columns of equal length.
    """

    account_ids: list[int]
    currencies: list[str]
    lanes: list[int]
    debits_minor: list[int]
    credits_minor: list[int]
    seqs: list[int]


class QuarantinedBytes(NamedTuple):
    """The raw message behind a quarantined journal row; header values in hex."""

    lane: int
    seq: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, str | None]]


class PostingStore(KeptConnection):
    """The queries of a posting worker, over one kept connection as ledgerline_posting. Not thread-safe."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn, ROLE)
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="postgres")
        self._under_way: Future[Any] | None = None
        """What was started last in this transaction."""

    def _prepare(self, connection: Connection[Any]) -> None:
        set_json_dumps(orjson.dumps, connection)
        register(connection)
        # For the arrays of a large batch, a custom plan reads the whole journal, and does so in each of the ten
        # executions before Postgres keeps a plan. The generic plan looks the rows up by index.
        connection.execute("SET plan_cache_mode = force_generic_plan")

    @contextmanager
    def transaction(self) -> Iterator[Connection[Any]]:
        """Run one transaction; raise Collision or BatchRefused if Postgres refuses the data. Outages pass unchanged.

        It ends only after what was started in it, even if an error came before the caller asked for the result: the
        connection must be free for COMMIT or ROLLBACK.
        """
        try:
            with super().transaction() as connection:
                self._under_way = None
                try:
                    yield connection
                finally:
                    if self._under_way is not None:
                        self._under_way.result()
        except psycopg.errors.UniqueViolation as error:
            raise Collision(str(error)) from error
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            raise BatchRefused(str(error)) from error

    def make_lane(self, lane: int, topic: str, topic_id: str, first_offset: int) -> None:
        """Insert the lane's row if there is none."""
        asked = {"lane": lane, "topic": topic, "topic_id": topic_id, "first_offset": first_offset}
        with self.statements() as connection:
            connection.execute(SQL["make_lane"], asked)

    def lanes(self, lanes: Iterable[int], *, lock: bool = False) -> dict[int, Lane]:
        """Return the positions of these lanes. With `lock`, no other session moves them until the transaction ends."""
        query = SQL["lock_lanes" if lock else "lanes"]
        with self.statements() as connection:
            cursor = connection.cursor(row_factory=class_row(Lane))
            return {lane.lane: lane for lane in cursor.execute(query, {"lanes": sorted(lanes)})}

    def row_hash(self, lane: int, seq: int) -> bytes | None:
        """Return the hash of one journal row, or None if there is no such row."""
        with self.statements() as connection:
            row = connection.execute(SQL["row_hash"], {"lane": lane, "seq": seq}).fetchone()
        return None if row is None else bytes(row[0])

    def books_version(self) -> int:
        """Return the version of the books that this transaction sees."""
        with self.statements() as connection:
            return int(connection.execute(SQL["books_version"]).fetchall()[0][0])

    def books(self) -> Books:
        """Return the current books."""
        with self.statements() as connection:
            return load_books(connection)

    def look_up_settled(self, names: Sequence[IntentName]) -> Future[dict[IntentName, bytes]]:
        """Start to look up the fingerprints of those intents that were settled before."""
        return self._start(_find_settled, self._open(), _make_columns(names))

    def originals(self, names: Sequence[IntentName]) -> dict[IntentName, Original]:
        """Lock the originals that reversals name against other lanes' reversals, and return those that are settled.

        Each has its legs and the amounts that earlier reversals took back.
        """
        connection = self._open()
        asked = _make_columns(names)
        connection.execute(SQL["lock_originals"], {"intent_ids": asked["intent_ids"]})
        heads = connection.execute(SQL["originals"], asked).fetchall()
        legs: dict[IntentName, list[Leg]] = {}
        for tenant, intent_id, address, direction, amount_minor, currency in connection.execute(
            SQL["original_legs"], asked
        ):
            legs.setdefault((tenant, intent_id), []).append(Leg(address, direction, amount_minor, currency))
        done: dict[IntentName, dict[tuple[str, int, str], int]] = {}
        for tenant, intent_id, address, direction, currency, amount in connection.execute(
            SQL["reversed_so_far"], asked
        ):
            done.setdefault((tenant, intent_id), {})[address, direction, currency] = amount
        return {
            (tenant, intent_id): Original(
                Outcome(outcome), kind, tuple(legs.get((tenant, intent_id), ())), done.get((tenant, intent_id), {})
            )
            for tenant, intent_id, outcome, kind in heads
        }

    def accounts(self, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Account]:
        """Return the open ones of these accounts, by tenant and address."""
        rows = self._open().execute(
            SQL["accounts"],
            {"tenants": Texts([name[0] for name in names]), "addresses": Texts([name[1] for name in names])},
            binary=True,
        )
        return {
            (tenant, address): Account(account_id, None if floor_minor is None else Constraint(direction, floor_minor))
            for account_id, tenant, address, direction, floor_minor in rows
        }

    def open_accounts(self, wanted: Mapping[tuple[str, str], ChartPattern], chain: int) -> None:
        """Open accounts as their chart lines say; an account that is open already does not change.

        The database writes a fact about each new account to `chain`. Only one process at a time may hold a chain
        (domain.facts).
        """
        lines = list(wanted.values())
        connection = self._open()
        connection.execute(SQL["name_chain"], {"chain": chain})
        connection.execute(
            SQL["open_accounts"],
            {
                "tenants": [name[0] for name in wanted],
                "addresses": [name[1] for name in wanted],
                "account_classes": [line.account_class.value for line in lines],
                "normal_directions": [line.normal_direction for line in lines],
                "floors_minor": [line.floor_minor for line in lines],
            },
        )

    def locked_balances(self, account_ids: Sequence[int]) -> dict[tuple[int, str], int]:
        """Lock the accounts in order of id, then return debits less credits by account and currency, over all lanes."""
        connection = self._open()
        asked = {"account_ids": Bigints(sorted(account_ids))}
        connection.execute(SQL["lock_accounts"], asked)
        rows = connection.execute(SQL["balances"], asked, binary=True)
        return {(account_id, currency): int(balance) for account_id, currency, balance in rows}

    def write_journal(self, rows: Iterable[JournalRow]) -> list[JournalRow]:
        """Write the batch's journal rows, and return them.

        `rows` is consumed one by one, so that Postgres reads the first rows while the last are made.
        """
        written = []
        with self._open().cursor().copy(SQL["copy_journal"]) as copy:
            copy.set_types(list(JOURNAL_TYPES.values()))
            for row in rows:
                written.append(row)
                copy.write_row(list_journal_columns(row))
        return written

    def write_entries(self, rows: Sequence[JournalRow], account_ids: Mapping[tuple[str, str], int]) -> Future[None]:
        """Send the entries of the rows; the future is done when Postgres has read and checked them."""
        with ExitStack() as copying:
            copy = copying.enter_context(self._open().cursor().copy(SQL["copy_entries"]))
            copy.write(COPY_HEADER)
            for first in range(0, len(rows), ROWS_PER_WRITE):
                copy.write(make_entries(rows[first : first + ROWS_PER_WRITE], account_ids))
            copy.write(COPY_TRAILER)
            return self._start(copying.pop_all().close)

    def add_balances(self, changes: BalanceChanges) -> Future[None]:
        """Start to add the batch's changes to the balances."""
        return self._start(_add_balances, self._open(), changes)

    def _start(self, work: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Start work on the connection in a thread, so that the caller goes on while Postgres works.

        libpq's pipeline mode is not used: in a pipeline and after one, Postgres does not count the session as idle in
        transaction, so a frozen worker would keep its lanes locked.
        """
        under_way = self._aside.submit(work, *arguments)
        self._under_way = under_way
        return under_way

    def add_quarantined(self, quarantined: Sequence[QuarantinedBytes]) -> None:
        """Store the raw bytes behind the batch's quarantined rows."""
        for raw in quarantined:
            self._open().execute(SQL["add_quarantine"], {**raw._asdict(), "headers": Jsonb(raw.headers)})

    def advance(self, lanes: Sequence[Lane], signed: Mapping[int, SignedHead] = MappingProxyType({})) -> None:
        """Store the lanes' new positions and their signed heads, and notify the relay and the API."""
        connection = self._open()
        for lane in lanes:
            head = signed.get(lane.lane)
            if head is None:
                connection.execute(SQL["advance_lane"], lane._asdict())
            else:
                connection.execute(SQL["advance_signed_lane"], {**head._asdict(), **lane._asdict()})
        payload = ",".join(f"{lane.lane}:{lane.next_offset}" for lane in lanes)
        connection.execute(SQL["notify"], {"payload": payload})

    def tell_traced(self, traceparent: str, lanes: Sequence[Lane]) -> None:
        """Notify relays that trace, at commit, of this batch's span and of the lanes' new positions."""
        stands = ",".join(f"{lane.lane}:{lane.next_seq}" for lane in lanes[:TRACED_LANES_MAX])
        self._open().execute(SQL["notify_traced"], {"payload": f"{traceparent} {stands}"})


def _find_settled(connection: Connection[Any], asked: Mapping[str, Any]) -> dict[IntentName, bytes]:
    rows = connection.execute(SQL["settled"], asked, binary=True)
    return {(tenant, intent_id): fingerprint for tenant, intent_id, fingerprint in rows}


def _add_balances(connection: Connection[Any], changes: BalanceChanges) -> None:
    if not changes.seqs:
        return
    asked = {
        "account_ids": Bigints(changes.account_ids),
        "currencies": Texts(changes.currencies),
        "lanes": Bigints(changes.lanes),
        "debits_minor": make_numerics(changes.debits_minor),
        "credits_minor": make_numerics(changes.credits_minor),
        "seqs": Bigints(changes.seqs),
    }
    connection.execute(SQL["add_balances"], asked, binary=True)


def _make_columns(names: Sequence[IntentName]) -> dict[str, Texts | Uuids]:
    return {"tenants": Texts([name[0] for name in names]), "intent_ids": Uuids([name[1] for name in names])}


def list_journal_columns(row: JournalRow) -> tuple[Any, ...]:
    """Return the values of JOURNAL_TYPES, in that order."""
    return (*_same_fields(row), len(row.legs), row.metadata or None)
