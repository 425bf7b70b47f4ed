"""Who asks, what the key allows, and how often: bearer API keys, scopes, rate limits."""

import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Final

from fastapi import Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from api.postgres_watch import PostgresWatch
from api.problems import Kind, Problem
from db.access import KEY_PATTERN, ApiKey, Scope, find_key, secret_hash
from db.connections import DatabaseError
from db.reads import Pool

_CACHE_SECONDS: Final = 3.0
TRUSTED_SECONDS_MAX: Final = 600.0
"""How long a key that was good is taken while Postgres is away, and cannot be asked whether it was revoked."""
_CACHE_KEYS_MAX: Final = 10_000
FAILURES_PER_MINUTE: Final = 60

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    bearerFormat="llk_<key id>_<secret>",
    description="An API key, made by `ledgerline keys add`.",
)


class Authentication:
    """The keys that were seen lately, and the rate limits of one API process."""

    def __init__(self, pool: Pool, postgres: PostgresWatch, requests_per_minute: int) -> None:
        self._pool = pool
        self._postgres = postgres
        self._known: OrderedDict[str, tuple[float, ApiKey]] = OrderedDict()
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._requests = RateLimitItemPerMinute(requests_per_minute)
        self._failures = RateLimitItemPerMinute(FAILURES_PER_MINUTE)

    async def key_of(self, credentials: str, address: str) -> ApiKey:
        """The key that these credentials are; Problem where they are none, or where `address` failed too often."""
        match = KEY_PATTERN.fullmatch(credentials)
        if match is not None:
            key = await self._find(match[1], match[2], address)
            if key is not None:
                return key
        if not await self._limiter.hit(self._failures, "failures", address):
            raise await self._limited(self._failures, "failures", address)
        raise Problem(
            Kind.UNAUTHENTICATED,
            "Send a valid key as `Authorization: Bearer llk_...`.",
            headers={"WWW-Authenticate": "Bearer"},
        )

    async def _find(self, key_id: str, secret: str, address: str) -> ApiKey | None:
        given = secret_hash(secret)
        loaded_at, known = self._known.get(key_id, (0.0, None))
        familiar = known is not None and not known.is_expired() and hmac.compare_digest(known.secret_hash, given)
        if familiar and time.monotonic() - loaded_at < _CACHE_SECONDS:
            return known
        # Whoever guesses keys does not get to ask the database for each; a key that was good a moment ago does.
        if not familiar and not await self._limiter.test(self._failures, "failures", address):
            return None
        try:
            found = await self._postgres.ask(partial(find_key, self._pool, key_id))
        except DatabaseError:
            if familiar and time.monotonic() - loaded_at < TRUSTED_SECONDS_MAX:
                return known
            raise
        if found is None:
            self._known.pop(key_id, None)
            return None
        if not hmac.compare_digest(found.secret_hash, given):
            return None
        self._known[key_id] = (time.monotonic(), found)
        self._known.move_to_end(key_id)
        while len(self._known) > _CACHE_KEYS_MAX:
            self._known.popitem(last=False)
        return found

    async def count_request(self, key: ApiKey) -> None:
        """Count one request against the key's limit; Problem where it is used up."""
        item = self._requests if key.requests_per_minute is None else RateLimitItemPerMinute(key.requests_per_minute)
        if not await self._limiter.hit(item, "requests", key.key_id):
            raise await self._limited(item, "requests", key.key_id)

    async def _limited(self, item: RateLimitItem, *identifiers: str) -> Problem:
        reset_time, remaining = await self._limiter.get_window_stats(item, *identifiers)
        seconds = max(1, math.ceil(reset_time - time.time()))
        return Problem(
            Kind.RATE_LIMITED,
            f"At most {item.amount} requests a minute are allowed: try again in {seconds} s.",
            headers={
                "Retry-After": str(seconds),
                "RateLimit-Limit": str(item.amount),
                "RateLimit-Remaining": str(remaining),
                "RateLimit-Reset": str(seconds),
            },
        )


def needs(scope: Scope) -> Callable[..., Awaitable[ApiKey]]:
    """A dependency: the request's key, counted and found to have `scope`."""

    async def authenticated(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> ApiKey:
        authentication: Authentication = request.app.state.service.authentication
        address = request.client.host if request.client is not None else "unknown"
        key = await authentication.key_of(credentials.credentials if credentials is not None else "", address)
        await authentication.count_request(key)
        if scope not in key.scopes:
            raise Problem(Kind.SCOPE_MISSING, f"This key lacks the scope {scope.value}.", required_scope=scope.value)
        return key

    return authenticated


def direct(
    scope: Scope, endpoint: Callable[[Request, ApiKey], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint behind the same check as `needs` makes, for a request that FastAPI does not see."""
    authenticated = needs(scope)

    async def answer(request: Request) -> Response:
        return await endpoint(request, await authenticated(request, await _bearer(request)))

    return answer


IntentsWriter = Annotated[ApiKey, Depends(needs(Scope.INTENTS_WRITE))]
IntentsReader = Annotated[ApiKey, Depends(needs(Scope.INTENTS_READ))]
AccountsReader = Annotated[ApiKey, Depends(needs(Scope.ACCOUNTS_READ))]
JournalReader = Annotated[ApiKey, Depends(needs(Scope.JOURNAL_READ))]
