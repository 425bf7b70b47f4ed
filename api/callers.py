"""The callers of routes: what a route gets for a request once its key is known.

A route names its caller in its signature, such as `reader: AccountsReader`. So it gets a key that has the scope, and
the parts of the process that it needs, and no others.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.cursors import ListName
from api.database import Database
from api.known_books import KnownBooks
from api.lists import Page
from api.parameters import require_known
from api.parts import Parts
from api.problems import Kind, Problem
from api.shares import Shares, get_holder
from db.access import ApiKey, Scope
from db.fetch import Pool

Caller = TypeVar("Caller")
Answer = TypeVar("Answer")

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    bearerFormat="llk_<key id>_<secret>",
    description="An API key, made by `ledgerline keys add`.",
)


def get_parts(request: Request) -> Parts:
    """Return the parts of the process that answers this request."""
    parts: Parts = request.app.parts
    return parts


class Needs(Generic[Caller]):
    """A FastAPI dependency that authenticates a request, and returns its caller.

    It counts the request against the rate limit and the shares. It raises Problem if the key lacks the scope, or if the
    query has a parameter that the route does not know.
    """

    def __init__(self, scope: Scope, caller: Callable[[ApiKey, Parts], Caller]) -> None:
        self._scope = scope
        self._caller = caller

    async def __call__(
        self, request: Request, _documented: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None
    ) -> Caller:
        """Return the caller. Direct routes call this without FastAPI, which needs `_documented` for its document."""
        parts = get_parts(request)
        key = await parts.authentication.key_of(request)
        await parts.authentication.count_request(key)
        get_holder(request).begin(key, parts.shares)
        if self._scope not in key.scopes:
            detail = f"This key lacks the scope {self._scope.value}."
            raise Problem(Kind.SCOPE_MISSING, detail, required_scope=self._scope.value)
        if request.scope["query_string"]:
            require_known(request)
        return self._caller(key, parts)


class Reader(NamedTuple):
    """The caller of a route that reads Postgres. Each read waits for its turn among those of the key and its tenant.

    The reads raise Problem if the turn does not come in time, and DatabaseError as `Database` does.
    """

    key: ApiKey
    shares: Shares
    database: Database
    books: KnownBooks

    @property
    def tenant(self) -> str:
        """The tenant whose rows are read."""
        return self.key.tenant

    @property
    def units(self) -> dict[str, int]:
        """The tenant's registered units with their exponents."""
        return self.books.units(self.key.tenant)

    def page(self, name: ListName, path: str, limit: int, cursor: str | None, /, **filters: str | int | None) -> Page:
        """Return the page of the list that the request asks for, as `Page` says."""
        return Page(self.books, name, path, limit, cursor, filters)

    async def read(self, question: Callable[[Pool], Awaitable[Answer]]) -> Answer:
        """Return the answer to a question that reads a few rows."""
        async with self.shares.reads.turn(self.key):
            return await self.database.ask(question)

    async def read_much(self, question: Callable[[Pool], Awaitable[Answer]]) -> Answer:
        """Return the answer to a question that may take Postgres seconds."""
        async with self.shares.heavy_reads.turn(self.key):
            return await self.database.ask_much(question)

    async def read_in_thread(self, look_up: Callable[..., Answer], *arguments: Any) -> Answer:
        """Return the answer of a function that blocks, and that opens a connection of its own."""
        async with self.shares.heavy_reads.turn(self.key):
            return await self.database.ask_in_thread(look_up, *arguments)


def make_reader(key: ApiKey, parts: Parts) -> Reader:
    """Return the caller of a route that reads."""
    return Reader(key, parts.shares, parts.database, parts.books)


AccountsReader = Annotated[Reader, Depends(Needs(Scope.ACCOUNTS_READ, make_reader))]
IntentsReader = Annotated[Reader, Depends(Needs(Scope.INTENTS_READ, make_reader))]
JournalReader = Annotated[Reader, Depends(Needs(Scope.JOURNAL_READ, make_reader))]
