"""Shares: how much of one API process may be used at once in all, by one tenant and by one key.

A request is answered 429 if the share of its key or tenant is used up, and 503 if the whole process' share is used up.
A request gives back what it holds when it ends, also if it fails.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Final

from fastapi import Request

from api.metrics import Metrics
from api.problems import Kind, Problem, make_unavailable_problem
from db.access import ApiKey
from runtime.shares import Bounds, ShareBounds

RETRY_SECONDS: Final = 1

_OF_A_KEY: Final = "key"
_OF_A_TENANT: Final = "tenant"
_OF_ALL: Final = "all"


class _Bounded:
    """A resource with bounds in all, by tenant and by key, and the answer if one of the bounds is reached."""

    def __init__(self, name: str, what: str, bounds: Bounds, metrics: Metrics) -> None:
        self.bounds = bounds
        self._name = name
        self._what = what
        self._metrics = metrics

    def refusal(self, of: str) -> Problem:
        """Count a refusal and return its answer; `of` names the bound that was reached."""
        self._metrics.share_refusals.labels(self._name, of).inc()
        if of == _OF_ALL:
            detail = f"All {self.bounds.in_all} {self._what} of this process are in use: try again in a moment."
            return make_unavailable_problem(Kind.OVERLOADED, detail, RETRY_SECONDS)
        most = self.bounds.by_key if of == _OF_A_KEY else self.bounds.by_tenant
        return Problem(
            Kind.SHARE_USED_UP,
            f"This {of} already uses all {most} {self._what} that a {of} may use at once: wait for earlier requests.",
            headers={"Retry-After": str(RETRY_SECONDS)},
            share=self._name,
            bound=of,
        )


class Share(_Bounded):
    """A resource that is taken at once or refused, without waiting. Use it in one event loop only."""

    def __init__(self, name: str, what: str, bounds: Bounds, metrics: Metrics) -> None:
        super().__init__(name, what, bounds, metrics)
        self._in_all = 0
        self._by_tenant: Counter[str] = Counter()
        self._by_key: Counter[str] = Counter()

    def take(self, key: ApiKey, amount: int = 1) -> None:
        """Take `amount` for a key. Raise Problem, and take nothing, if that would pass one of the bounds."""
        if self._by_key[key.key_id] + amount > self.bounds.by_key:
            raise self.refusal(_OF_A_KEY)
        if self._by_tenant[key.tenant] + amount > self.bounds.by_tenant:
            raise self.refusal(_OF_A_TENANT)
        if self._in_all + amount > self.bounds.in_all:
            raise self.refusal(_OF_ALL)
        self._in_all += amount
        self._by_tenant[key.tenant] += amount
        self._by_key[key.key_id] += amount

    def give_back(self, key: ApiKey, amount: int = 1) -> None:
        """Give back `amount` that was taken for a key."""
        self._in_all -= amount
        for counts, name in ((self._by_tenant, key.tenant), (self._by_key, key.key_id)):
            counts[name] -= amount
            if not counts[name]:
                del counts[name]

    @property
    def held(self) -> tuple[int, int, int]:
        """The amount held in all, the number of tenants that hold some, and the number of keys that hold some."""
        return self._in_all, len(self._by_tenant), len(self._by_key)


class _Places:
    """Semaphores by name; each exists only while a request holds it or waits for it."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._found: dict[str, tuple[asyncio.Semaphore, int]] = {}

    async def take(self, name: str) -> None:
        semaphore, users = self._found.get(name, (None, 0))
        if semaphore is None:
            semaphore = asyncio.Semaphore(self._places)
        self._found[name] = (semaphore, users + 1)
        try:
            await semaphore.acquire()
        except asyncio.CancelledError:
            self._leave(name)
            raise

    def give_back(self, name: str) -> None:
        self._found[name][0].release()
        self._leave(name)

    def _leave(self, name: str) -> None:
        semaphore, users = self._found.pop(name)
        if users > 1:
            self._found[name] = (semaphore, users - 1)


class Turns(_Bounded):
    """A resource, such as a connection, for which a request waits a bounded time. Use it in one event loop only.

    A request waits at the gate of its key, then of its tenant, then of all. So at the last gate a tenant never has more
    requests than its share, and other tenants do not wait behind the rest of its queue.
    """

    def __init__(self, name: str, what: str, bounds: Bounds, metrics: Metrics, wait_seconds: float) -> None:
        super().__init__(name, what, bounds, metrics)
        self._wait_seconds = wait_seconds
        self._gates = (
            (_OF_A_KEY, _Places(bounds.by_key)),
            (_OF_A_TENANT, _Places(bounds.by_tenant)),
            (_OF_ALL, _Places(bounds.in_all)),
        )

    @asynccontextmanager
    async def turn(self, key: ApiKey) -> AsyncIterator[None]:
        """Hold one place as long as the block lasts. Raise Problem if none gets free in time."""
        names = (key.key_id, key.tenant, "")
        passed: list[tuple[_Places, str]] = []
        try:
            try:
                async with asyncio.timeout(self._wait_seconds):
                    for (of, places), name in zip(self._gates, names, strict=True):
                        with self._queued() if of == _OF_ALL else nullcontext():
                            await places.take(name)
                        passed.append((places, name))
            except TimeoutError as error:
                raise self.refusal(self._gates[min(len(passed), 2)][0]) from error
            yield
        finally:
            for places, name in reversed(passed):
                places.give_back(name)

    @contextmanager
    def _queued(self) -> Iterator[None]:
        """Count a request as one that waits for a connection."""
        self._metrics.queued_reads += 1
        try:
            yield
        finally:
            self._metrics.queued_reads -= 1


class Holder:
    """The shares that one request holds; it lives as long as the request does."""

    __slots__ = ("_body_bytes", "_held", "_key")

    def __init__(self) -> None:
        self._held: list[tuple[Share, int]] = []
        self._key: ApiKey | None = None
        self._body_bytes: Share | None = None

    def begin(self, key: ApiKey, shares: "Shares") -> None:
        """Hold one request of this key from now on, and count the bytes of its body from now on.

        Raise Problem if a bound on requests is reached.
        """
        self._key = key
        self.take(shares.requests)
        self._body_bytes = shares.body_bytes

    def take(self, share: Share, amount: int = 1) -> None:
        """Hold `amount` more; raise Problem if that would pass a bound. Before `begin` this does nothing."""
        if self._key is not None:
            share.take(self._key, amount)
            self._held.append((share, amount))

    def take_body(self, count: int) -> None:
        """Hold the bytes of the body that have just arrived. Before `begin` this does nothing."""
        if self._body_bytes is not None and count:
            self.take(self._body_bytes, count)

    def give_back(self) -> None:
        """Give everything back."""
        if self._key is not None:
            for share, amount in self._held:
                share.give_back(self._key, amount)
            self._held.clear()


def get_holder(request: Request) -> Holder:
    """Return the request's holder, which api/middleware.py has put into its scope."""
    holder: Holder = request.scope["state"]["holder"]
    return holder


class Shares:
    """All shares of one process."""

    def __init__(self, bounds: ShareBounds, metrics: Metrics) -> None:
        wait_seconds = bounds.read_wait_seconds
        self.requests = Share("requests", "requests under way", bounds.requests, metrics)
        self.body_bytes = Share("body_bytes", "bytes of bodies under way", bounds.body_bytes, metrics)
        self.event_streams = Share("event_streams", "event streams", bounds.event_streams, metrics)
        self.reads = Turns("reads", "connections for reads", bounds.reads, metrics, wait_seconds)
        self.heavy_reads = Turns(
            "heavy_reads", "connections for heavy reads", bounds.heavy_reads, metrics, wait_seconds
        )
