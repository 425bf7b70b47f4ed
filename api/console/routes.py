"""GET /console and its files, which need no key, as they hold no data; and the feed of events, which needs one."""

import asyncio
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Annotated, Any, Final, NamedTuple

import orjson
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.responses import RedirectResponse

from api.authentication import Authentication
from api.callers import Needs
from api.console.feed import Feed, Pulse
from api.known_books import KnownBooks
from api.parts import Parts
from api.problems import Kind, Problem, make_unavailable_problem
from api.security_headers import PageAssets, WholeFile, make_page_headers
from api.shares import Share, get_holder
from api.views import format_decimal
from db.access import ApiKey, Scope
from db.connections import DatabaseError

router = APIRouter(include_in_schema=False)

PATH: Final = "/console"
ASSETS_PATH: Final = "/console/assets"
EVENTS_PATH: Final = "/v1/console/events"
HEARTBEAT_SECONDS: Final = 10.0
RETRY_MILLISECONDS: Final = 1000
_FOLDER: Final = str(files("api.console") / "static")

HEADERS: Final = make_page_headers()


def add_console(app: FastAPI) -> None:
    """Serve the page, its files and its events."""
    app.include_router(router)
    app.mount(ASSETS_PATH, PageAssets(_FOLDER, HEADERS))


@router.get("/")
async def home() -> Response:
    """Lead from the bare address to the console."""
    return RedirectResponse(PATH)


@router.get(PATH)
async def console() -> Response:
    """The page. It asks for a key, and does nothing without one."""
    return WholeFile(f"{_FOLDER}/index.html", headers=HEADERS, media_type="text/html")


class Watcher(NamedTuple):
    """The caller of the feed of events."""

    key: ApiKey
    feed: Feed
    event_streams: Share
    authentication: Authentication
    books: KnownBooks
    topic: str


def _make_watcher(key: ApiKey, parts: Parts) -> Watcher:
    topic = parts.configuration.topics.intents
    return Watcher(key, parts.feed, parts.shares.event_streams, parts.authentication, parts.books, topic)


@router.get(EVENTS_PATH)
async def events(
    request: Request, watcher: Annotated[Watcher, Depends(Needs(Scope.JOURNAL_READ, _make_watcher))]
) -> Response:
    """What the console shows, as server-sent events: `hello` once, then `pulse` each second."""
    if watcher.feed.is_closed:
        raise make_unavailable_problem(Kind.NOT_READY, "This process is about to end: another one will answer.")
    get_holder(request).take(watcher.event_streams)
    return EventSourceResponse(
        _stream_events(request, watcher), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )


async def _stream_events(request: Request, watcher: Watcher) -> AsyncIterator[bytes]:
    viewer = watcher.feed.join(watcher.key.tenant)
    try:
        yield _make_event("hello", _make_hello(watcher)) + b"retry: %d\n\n" % RETRY_MILLISECONDS
        while True:
            try:
                pulse = await asyncio.wait_for(viewer.pulses.get(), HEARTBEAT_SECONDS)
            except TimeoutError:
                yield format_sse_event(comment="nothing new")
                continue
            if pulse is None:
                return
            refusal = await _find_refusal(request, watcher.authentication)
            if refusal is not None:
                yield _make_event("refused", refusal.document())
                return
            yield _make_event("pulse", pulse.shared | {"symmetry": _describe_symmetry(watcher, pulse)})
    finally:
        watcher.feed.leave(viewer)


async def _find_refusal(request: Request, authentication: Authentication) -> Problem | None:
    """Return the problem if the key is not valid any more, such as a revoked one; None if it is.

    The key is looked up as for any other request.
    """
    try:
        await authentication.key_of(request)
    except Problem as problem:
        return problem
    except DatabaseError:  # the key was valid when Postgres last answered
        return None
    return None


def is_operator(key: ApiKey) -> bool:
    """Return whether the key may see the money and breaks of all tenants, rather than of its own tenant only."""
    return Scope.OPERATIONS_READ in key.scopes


def _make_hello(watcher: Watcher) -> dict[str, Any]:
    return {
        "tenant": watcher.key.tenant,
        "is_operator": is_operator(watcher.key),
        "scopes": sorted(watcher.key.scopes),
        "topic": watcher.topic,
        "history": watcher.feed.history,
    }


def _describe_symmetry(watcher: Watcher, pulse: Pulse) -> list[dict[str, Any]]:
    """Return debits and credits by currency, with minor units as text.

    They are of all tenants for an operator, else of the key's own tenant.
    """
    tenant = None if is_operator(watcher.key) else watcher.key.tenant
    units = watcher.books.units(watcher.key.tenant)
    return [
        {
            "currency": sums.currency,
            "debits_minor": str(sums.debits_minor),
            "credits_minor": str(sums.credits_minor),
            "difference_minor": str(sums.debits_minor - sums.credits_minor),
            "debits": format_decimal(sums.debits_minor, sums.currency, units),
            "credits": format_decimal(sums.credits_minor, sums.currency, units),
        }
        for sums in pulse.symmetry
        if sums.tenant == tenant
    ]


def _make_event(name: str, content: Any) -> bytes:
    return format_sse_event(event=name, data_str=orjson.dumps(content).decode())
