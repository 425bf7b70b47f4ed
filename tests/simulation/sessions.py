"""Sessions of the model and of Postgres that run the same jobs in turn, and report which session waits."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Protocol

import psycopg
from greenlet import getcurrent, greenlet

from db.posting import BalanceChanges, PostingStore
from domain.decision import IntentName
from domain.journal import JournalRow
from tests.posting_bench import eventually
from tests.simulation.scheduler import Replayed, Scheduler

WAITS = "waits"
Job = Callable[[], Any]


Change = tuple[int, str, int, int, int, int]
"""Account id, currency, lane, debits, credits, seq."""


class Undone(Exception):
    """Leaves a transaction so that it is rolled back."""


class Runner(Protocol):
    """Runs the jobs of one session one by one, and says whether a job waits for another session."""

    def begin(self, job: Job) -> Any:
        """Return what the job returns, or WAITS."""

    def finish(self) -> Any:
        """Return what the waiting job returns."""

    def outwait(self) -> None:
        """Let the waiting job wait until Postgres has looked for a cycle of waits behind it and found none."""


class Actor:
    """One session with its transaction. Its calls and their answers go into the common trace."""

    def __init__(self, name: str, store: PostingStore, runner: Runner, trace: list[Any]) -> None:
        self.store = store
        self._name, self._runner, self._trace = name, runner, trace
        self._open: AbstractContextManager[Any] | None = None

    def __getattr__(self, method: str) -> Callable[..., None]:
        def call(*arguments: Any, **named: Any) -> None:
            self._do(method, lambda: getattr(self.store, method)(*arguments, **named))

        return call

    def begin(self) -> None:
        """Begin a transaction."""
        self._open = self.store.transaction()
        self._do("begin", lambda: self._open.__enter__() and None)  # type: ignore[union-attr]

    def end(self, *, commit: bool = True) -> None:
        """Commit, or roll back."""
        found = self._open
        assert found is not None
        self._open = None
        undone = (None, None, None) if commit else (Undone, Undone(), None)
        self._do("commit" if commit else "roll back", lambda: found.__exit__(*undone))

    def settled(self, names: Sequence[IntentName]) -> None:
        """Look up which intents are already settled."""

        self._do("settled", lambda: self.store.look_up_settled(names).result())

    def write(self, rows: Sequence[JournalRow], ids: Mapping[Any, int], changes: Sequence[Change] = ()) -> None:
        """Write rows, entries and balance changes."""

        def write() -> None:
            self.store.write_journal(rows)
            self.store.write_entries(rows, ids).result()
            columns = [list(column) for column in zip(*changes, strict=True)] or [[] for _ in BalanceChanges._fields]
            self.store.add_balances(BalanceChanges._make(columns)).result()

        self._do("write", write)

    def finish(self) -> None:
        """Run the job that waited to its end, and record its answer."""
        self._note("... then", self._runner.finish())

    def outwait(self) -> None:
        """See Runner."""
        self._runner.outwait()

    def _do(self, what: str, job: Job) -> None:
        self._note(what, self._runner.begin(lambda: self._safely(job)))

    def _safely(self, job: Job) -> Any:
        try:
            return job()
        except Exception as error:  # noqa: BLE001 - the error is the answer
            found, self._open = self._open, None
            if found is not None:
                try:
                    found.__exit__(type(error), error, None)
                except Exception as told:  # noqa: BLE001 - the poster would get this error
                    return f"raises {type(told).__name__}"
            return f"raises {type(error).__name__}"

    def _note(self, what: str, answer: Any) -> None:
        self._trace.append((self._name, what, answer))


# ---------------------------------------------------------------------------------------------- the model


class Turns(Scheduler):
    """Turns without random choices and faults: a session runs until its job is done or waits."""

    def __init__(self) -> None:
        super().__init__(Replayed(()))
        self._outside = getcurrent()

    def step(self, menu: str) -> None:
        """Do nothing: no faults here."""

    def wait(self, condition: Callable[[], object], *, idle: bool = False) -> None:  # noqa: ARG002
        """Return to the script until the session is asked to finish."""
        while not condition():
            self._outside.switch()


class GreenletRunner:
    """A session of the model."""

    def begin(self, job: Job) -> Any:
        """See Runner."""
        self._answers: list[Any] = []
        self._greenlet = greenlet(lambda: self._answers.append(job()))
        return self._go_on()

    def finish(self) -> Any:
        """See Runner."""
        return self._go_on()

    def outwait(self) -> None:
        """Do nothing: the model looks for cycles at once."""

    def _go_on(self) -> Any:
        self._greenlet.switch()
        return self._answers[0] if self._greenlet.dead else WAITS


# ---------------------------------------------------------------------------------------------- Postgres


class ThreadRunner:
    """A session of Postgres, in a thread of its own."""

    def __init__(self, dsn: str) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._future: Future[Any] = Future()
        self._watch = psycopg.connect(dsn, autocommit=True)

    def begin(self, job: Job) -> Any:
        """See Runner. Postgres reports a cycle of waits only a second later, to the session that closed it."""
        waiting_before = self._waiting()
        self._future = self._thread.submit(job)
        eventually(lambda: self._future.done() or self._waiting() > waiting_before, "the job is through or waits")
        if not self._future.done() and self._in_ring():
            return self.finish()
        return self._future.result() if self._future.done() else WAITS

    def finish(self) -> Any:
        """See Runner."""
        return self._future.result(60)

    def outwait(self) -> None:
        """See Runner. Postgres looks for cycles once, one second (deadlock_timeout) after the wait began."""
        query = "SELECT 1 FROM pg_locks WHERE NOT granted AND waitstart < clock_timestamp() - interval '1.5 seconds'"
        eventually(lambda: self._watch.execute(query).fetchall(), "the job has waited for long")

    def _waiting(self) -> int:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return self._watch.execute(query).fetchall()[0][0]

    def _in_ring(self) -> bool:
        """Return whether two sessions wait for each other."""
        query = """
            SELECT 1 FROM pg_stat_activity AS a, pg_stat_activity AS b
            WHERE a.pid = ANY(pg_blocking_pids(b.pid)) AND b.pid = ANY(pg_blocking_pids(a.pid))
        """
        return bool(self._watch.execute(query).fetchall())

    def close(self) -> None:
        """End the thread and the connection that watches it."""
        self._thread.shutdown()
        self._watch.close()
