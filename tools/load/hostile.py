"""One hostile tenant tries each attack that a client can make, while another tenant posts 200 intents a second.

`make load SUITE=hostile` starts its own ledger. The suite holds if the other tenant's p95 and error rate stay within
twice their quiet values of the same run, the API's memory stays below 512 MB, and no acknowledged intent is lost. k6
cannot send these requests.

Each attack runs in its own process at the lowest priority. A real attacker has other machines, so the cost of producing
an attack must not count as load of the API.
"""

import asyncio
import multiprocessing
import os
import resource
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import httpx
import orjson
import psutil

from db.books import add_tenant
from db.connections import connect
from domain.errors import LedgerlineError
from tools.load.evidence import wait_posted
from tools.load.ledger import REQUESTS_PER_MINUTE, LoadLedger, Report, make_api_key, own_ledger
from tools.load.runner import percentiles

POSTS_PER_SECOND: Final = 200
QUIET_SECONDS: Final = 15.0
ATTACK_SECONDS: Final = 20.0
"""Every attack begins with a burst. The time is long enough that the p95 shows the attack that goes on."""
FACTOR_MAX: Final = 2.0
MEMORY_BYTES_MAX: Final = 512_000_000
ENTRIES: Final = 97_500
BATCH_ITEMS: Final = 1_000
POSTED_SECONDS_MAX: Final = 300.0
POST_SECONDS_MAX: Final = 20.0
OPEN_FILES: Final = 8_192
NICE: Final = 19
HOSTILE_ADDRESS: Final = ("127.0.0.2", 0)
"""The API bounds connections by address. The attacker must not use up the bounds of the victim's address."""
PAGE: Final = "/docs/assets/swagger-ui-bundle.js"
STATEMENT: Final = "/v1/accounts/users:1:wallet/statement?currency=EUR&by=value"
FORGED: Final = "/v1/accounts?cursor=bm9ib2R5"
WRONG_KEY: Final = {"Authorization": "Bearer llk_wrong"}
GET: Final = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"


class Phase(NamedTuple):
    """The posts of the other tenant during one attack or one quiet time."""

    name: str
    posts: int
    p95_ms: float
    errors: int
    memory_bytes: int


class Hostile:
    """The attacks; each goes on until its process is killed."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._port = urlsplit(url).port or 80
        self._headers = {"Authorization": f"Bearer {key}"}
        self._bearer = f"Authorization: Bearer {key}\r\n".encode()

    def client(self) -> httpx.AsyncClient:
        """Return a client of the hostile tenant that connects from HOSTILE_ADDRESS."""
        transport = httpx.AsyncHTTPTransport(local_address=HOSTILE_ADDRESS[0], limits=httpx.Limits(max_connections=200))
        return httpx.AsyncClient(base_url=self._url, headers=self._headers, transport=transport, timeout=60)

    async def _send(self, begin: bytes, more: bytes) -> None:
        """Send without reading the answers, and connect again whenever the API ends the connection."""
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self._port, local_addr=HOSTILE_ADDRESS)
                try:
                    writer.write(begin)
                    while more:
                        writer.write(more)
                        await writer.drain()
                    await asyncio.sleep(60)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.05)

    async def _ask(self, count: int, ask: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]) -> None:
        async def again(client: httpx.AsyncClient) -> None:
            while True:
                with suppress(httpx.HTTPError):
                    await ask(client)

        async with self.client() as client:
            await asyncio.gather(*(again(client) for _ in range(count)))

    async def empty_legs(self) -> None:
        """4 MB of empty legs, from four clients."""
        body = orjson.dumps({"type": "transfer", "legs": [{}] * 1_333_000})
        headers = {"Content-Type": "application/json", "Idempotency-Key": "k"}
        await self._ask(4, lambda client: client.post("/v1/intents", content=body, headers=headers))

    async def pipelined(self) -> None:
        """Requests whose answers nobody reads."""
        await self._send(b"", GET * 2_000)

    async def endless_header(self) -> None:
        """A header value without end."""
        await self._send(b"GET / HTTP/1.1\r\nHost: ", b"x" * 65_536)

    async def many_headers(self) -> None:
        """20 MB of headers."""
        await self._send(b"GET / HTTP/1.1\r\n", b"".join(b"h%d: %s\r\n" % (at, b"x" * 390) for at in range(1_000)))

    async def unread_pages(self) -> None:
        """400 answers of a megabyte that nobody reads."""
        request = f"GET {PAGE} HTTP/1.1\r\nHost: a\r\n\r\n".encode() * 10
        await asyncio.gather(*(self._send(request, b"") for _ in range(400)))

    async def half_sent(self) -> None:
        """300 sockets that send nothing or half a head."""
        await asyncio.gather(*(self._send((b"", b"GET / HTTP/1.1\r\nHost")[at % 2], b"") for at in range(300)))

    async def slow_bodies(self) -> None:
        """2,100 bodies that do not come."""
        head = b"POST /v1/intents HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\n"
        request = head + self._bearer + b"Content-Length: 2000\r\n\r\n{"
        await asyncio.gather(*(self._send(request, b"") for _ in range(2_100)))

    async def event_streams(self) -> None:
        """100 event streams."""
        request = b"GET /v1/console/events HTTP/1.1\r\nHost: a\r\n" + self._bearer + b"\r\n"
        await asyncio.gather(*(self._send(request, b"") for _ in range(100)))

    async def statements(self) -> None:
        """40 statements by value date at once."""
        await self._ask(40, lambda client: client.get(STATEMENT))

    async def wrong_keys(self) -> None:
        """Keys that are wrong, as many as go."""
        await self._ask(4, lambda client: client.get("/v1/accounts", headers=WRONG_KEY))

    async def forged_cursors(self) -> None:
        """Cursors that nobody made."""
        await self._ask(4, lambda client: client.get(FORGED))

    async def require_effect(self) -> None:
        """Raise LedgerlineError unless the attacker reaches the API and gets the answers that the attacks need.

        An attack ignores the errors of its connections, so an attack that reaches nothing would seem to be held.
        """
        async with self.client() as client:
            for path, headers, status in (
                (PAGE, None, 200), (STATEMENT, None, 200), ("/v1/accounts", WRONG_KEY, 401), (FORGED, None, 400),
            ):  # fmt: skip
                try:
                    answer = await client.get(path, headers=headers)
                except httpx.HTTPError as error:
                    raise LedgerlineError(f"The attacker does not reach {path} from {HOSTILE_ADDRESS[0]}.") from error
                if answer.status_code != status:
                    raise LedgerlineError(f"{path} answered {answer.status_code} to the attacker, and not {status}.")

    async def fill(self) -> None:
        """Post the entries that the statements sort."""
        async with self.client() as client:
            for first in range(0, ENTRIES, BATCH_ITEMS):
                items = [_make_intent(1) | {"idempotency_key": f"e{at}"} for at in range(first, first + BATCH_ITEMS)]
                (await client.post("/v1/intents/batch", json=items[: ENTRIES - first])).raise_for_status()


def _make_intent(user: int) -> dict[str, object]:
    legs = [
        {"account": account, "direction": direction, "amount_minor": 1, "currency": "EUR"}
        for account, direction in (("external:bank", "debit"), (f"users:{user}:wallet", "credit"))
    ]
    return {"type": "transfer", "legs": legs}


BODY: Final = orjson.dumps(_make_intent(2))


class Victim:
    """A client that posts at a fixed rate, even if earlier posts have no answer yet."""

    def __init__(self, url: str, key: str, api: psutil.Process) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._api = api
        self.run = f"victim-{secrets.token_hex(4)}"
        self.acknowledged: set[str] = set()
        self._sent = 0

    async def watch(self, name: str, seconds: float) -> Phase:
        """Post for so many seconds; return the times, the errors and the API's memory."""
        times: list[float] = []
        errors = 0
        memory = 0

        async def post(client: aiohttp.ClientSession, key: str) -> None:
            nonlocal errors
            began = time.monotonic()
            try:
                async with client.post("/v1/intents", data=BODY, headers={"Idempotency-Key": key}) as answer:
                    await answer.read()
            except (aiohttp.ClientError, TimeoutError):
                errors += 1
            else:
                if answer.status in (200, 202):
                    self.acknowledged.add(key)
                else:
                    errors += 1
            times.append(time.monotonic() - began)

        # Not httpx: for each request it walks through all connections and waiting requests, which would limit the rate.
        connections = aiohttp.TCPConnector(limit=200, keepalive_timeout=2)
        timeout = aiohttp.ClientTimeout(total=POST_SECONDS_MAX)
        async with aiohttp.ClientSession(
            self._url, headers=self._headers, connector=connections, timeout=timeout
        ) as client:
            began = time.monotonic()
            async with asyncio.TaskGroup() as posts:
                for at in range(round(seconds * POSTS_PER_SECOND)):
                    await asyncio.sleep(max(0.0, began + at / POSTS_PER_SECOND - time.monotonic()))
                    self._sent += 1
                    posts.create_task(post(client, f"{self.run}-{self._sent}"))
                    if at % 50 == 0:
                        memory = max(memory, self._api.memory_info().rss)
        return Phase(name, len(times), percentiles(times)["p95"] * 1000, errors, memory)


ATTACKS: Final = (
    Hostile.empty_legs, Hostile.pipelined, Hostile.endless_header, Hostile.many_headers, Hostile.unread_pages,
    Hostile.half_sent, Hostile.slow_bodies, Hostile.event_streams, Hostile.statements, Hostile.wrong_keys,
    Hostile.forged_cursors,
)  # fmt: skip


def _attack_for_ever(number: int, url: str, key: str) -> None:
    """Run one attack until its process is killed."""
    os.nice(NICE)
    asyncio.run(ATTACKS[number](Hostile(url, key)))


@contextmanager
def _under_attack(number: int, url: str, key: str) -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(
        target=_attack_for_ever, args=(number, url, key), daemon=True
    )
    process.start()
    try:
        yield
        if not process.is_alive():
            raise LedgerlineError(f"The attack {ATTACKS[number].__name__} ended by itself: it proves nothing.")
    finally:
        process.kill()
        process.join()


def _watch_attacks(url: str, key: str, victim: Victim, report: Report) -> list[Phase]:
    asyncio.run(victim.watch("warming up", QUIET_SECONDS))
    phases = [asyncio.run(victim.watch("quiet", QUIET_SECONDS))]
    for number, attack in enumerate(ATTACKS):
        report(f"hostile: {(attack.__doc__ or '').lower()}")
        with _under_attack(number, url, key):
            phases.append(asyncio.run(victim.watch(attack.__name__.replace("_", " "), ATTACK_SECONDS)))
    return [*phases, asyncio.run(victim.watch("quiet again", QUIET_SECONDS))]


def _count_lost(target: LoadLedger, victim: Victim) -> int:
    wait_posted(target.ledger, POSTED_SECONDS_MAX)
    with connect(target.ledger.postgres_dsn, "ledgerline_operator") as connection:
        query = (
            "SELECT idempotency_key FROM ledger.journal WHERE outcome = 'posted' AND starts_with(idempotency_key, %s)"
        )
        posted = {key for (key,) in connection.execute(query, (victim.run,)).fetchall()}
    return len(victim.acknowledged - posted)


def judge_phases(phases: list[Phase], lost: int) -> tuple[str, bool]:
    """Return a table in Markdown, and whether all of it held. The worse of the two quiet phases is the measure."""
    quiet = [phase for phase in phases if phase.name.startswith("quiet")]
    p95_ms_max = FACTOR_MAX * max(phase.p95_ms for phase in quiet)
    errors_max = FACTOR_MAX * max(phase.errors / phase.posts for phase in quiet)
    lines = ["| attack | posts | p95 | errors | memory | |", "|---|--:|--:|--:|--:|---|"]
    held = not lost
    for phase in phases:
        is_held = (
            phase.p95_ms <= p95_ms_max
            and phase.errors / phase.posts <= errors_max
            and phase.memory_bytes < MEMORY_BYTES_MAX
        )
        held &= is_held
        lines.append(
            f"| {phase.name} | {phase.posts:,} | {phase.p95_ms:,.0f} ms | {phase.errors} |"
            f" {phase.memory_bytes / 1e6:,.0f} MB | {'held' if is_held else '**NOT held**'} |"
        )
    return "\n".join([*lines, "", f"{lost} acknowledged intents were lost."]), held


def run_hostile(home: Path, report: Report) -> tuple[str, bool]:
    """Run the suite on a ledger of its own; return its table in Markdown, and whether all of it held."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    with own_ledger(home / "load", home / "cache", report) as target:
        ledger = target.ledger
        with connect(ledger.postgres_dsn, "ledgerline_operator", autocommit=True) as connection:
            for tenant in ("hostile", "victim"):
                add_tenant(connection, tenant)
        report(f"hostile: posting {ENTRIES:,} entries for the statements")
        asyncio.run(Hostile(target.url, make_api_key(ledger, "hostile", REQUESTS_PER_MINUTE)).fill())
        wait_posted(ledger, POSTED_SECONDS_MAX)
        hostile_key = make_api_key(ledger, "hostile", None)
        asyncio.run(Hostile(target.url, hostile_key).require_effect())
        victim = Victim(target.url, make_api_key(ledger, "victim", REQUESTS_PER_MINUTE), target.services()["api"])
        phases = _watch_attacks(target.url, hostile_key, victim, report)
        return judge_phases(phases, _count_lost(target, victim))
