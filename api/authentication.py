"""Authentication of requests: bearer API keys, their scopes, and rate limits."""

import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Annotated, Final

from fastapi import Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from api.addresses import NO_PROXIES, UNKNOWN, TrustedProxies, client_address
from api.gathering import Gathering
from api.parameters import require_known
from api.postgres_watch import PostgresWatch
from api.problems import Kind, Problem
from api.shares import holder_of
from db.access import KEY_PATTERN, ApiKey, Scope, find_keys, secret_hash
from db.connections import DatabaseError
from db.reads import Pool

_CACHE_SECONDS: Final = 3.0
TRUSTED_SECONDS_MAX: Final = 600.0
"""How long after its last check a key is still accepted while Postgres cannot tell whether the key was revoked."""
_CACHE_KEYS_MAX: Final = 10_000
FAILURES_PER_MINUTE: Final = 60

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    bearerFormat="llk_<key id>_<secret>",
    description="An API key, made by `ledgerline keys add`.",
)


class Authentication:
    """The keys that were used lately, and the rate limits of one API process.

    A key is checked before any limit on wrong keys, so a good key is never refused because others sent wrong ones.
    """

    def __init__(
        self,
        pool: Pool,
        postgres: PostgresWatch,
        requests_per_minute: int,
        trusted_proxies: TrustedProxies = NO_PROXIES,
    ) -> None:
        self._postgres = postgres
        self._trusted_proxies = trusted_proxies
        self._known: OrderedDict[str, tuple[float, ApiKey]] = OrderedDict()
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._requests = RateLimitItemPerMinute(requests_per_minute)
        self._failures = RateLimitItemPerMinute(FAILURES_PER_MINUTE)
        # One look-up at a time for all requests, so an attacker who guesses keys keeps at most one connection busy.
        self._keys: Gathering[str, dict[str, ApiKey]] = Gathering(partial(find_keys, pool))

    async def key_of(self, credentials: str, request: Request) -> ApiKey:
        """Return the key of these credentials. Raise Problem if they are not a valid key.

        A wrong key is answered 401, or 429 once its key id or its address has sent too many wrong keys in a minute.
        """
        match = KEY_PATTERN.fullmatch(credentials)
        if match is not None:
            key = await self._find(match[1], match[2])
            if key is not None:
                return key
        limited = [("failures of an address", self._address_group(request))]
        if match is not None and match[1] in self._known:  # invented ids are unlimited: a counter for each fills memory
            limited.append(("failures of a key", match[1]))
        refusals = [identifiers for identifiers in limited if not await self._limiter.hit(self._failures, *identifiers)]
        if refusals:
            raise await self._limited(self._failures, *refusals[0])
        raise Problem(
            Kind.UNAUTHENTICATED,
            "Send a valid key as `Authorization: Bearer llk_...`.",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _address_group(self, request: Request) -> str:
        peer = request.client.host if request.client is not None else UNKNOWN
        address = client_address(peer, request.headers.getlist("x-forwarded-for"), self._trusted_proxies)
        return address_group(address)

    async def _find(self, key_id: str, secret: str) -> ApiKey | None:
        given = secret_hash(secret)
        loaded_at, known = self._known.get(key_id, (0.0, None))
        age_seconds = time.monotonic() - loaded_at
        is_known = known is not None and not known.is_expired() and hmac.compare_digest(known.secret_hash, given)
        if known is not None and age_seconds < _CACHE_SECONDS:
            return known if is_known else None
        try:
            found = (await self._postgres.ask(partial(self._keys.ask, [key_id]))).get(key_id)
        except DatabaseError:
            if is_known and age_seconds < TRUSTED_SECONDS_MAX:
                return known
            raise
        if found is None:
            self._known.pop(key_id, None)
            return None
        self._known[key_id] = (time.monotonic(), found)
        self._known.move_to_end(key_id)
        while len(self._known) > _CACHE_KEYS_MAX:
            self._known.popitem(last=False)
        return found if hmac.compare_digest(found.secret_hash, given) else None

    async def count_request(self, key: ApiKey) -> None:
        """Count one request against the key's limit a minute. Raise Problem if the limit is used up."""
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


def address_group(address: str) -> str:
    """Return the group for which wrong keys are counted.

    That is an IPv4 address, or the /64 network of an IPv6 address, as one client usually gets a whole /64.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    return str(parsed.ipv4_mapped or ip_network((parsed, 64), strict=False))


async def _authenticate(scope: Scope, request: Request) -> ApiKey:
    """Return the request's key, counted and found to have `scope`; the query has only names that are known."""
    service = request.app.state.service
    authentication: Authentication = service.authentication
    kind, credentials = get_authorization_scheme_param(request.headers.get("authorization"))
    key = await authentication.key_of(credentials if kind.lower() == "bearer" else "", request)
    await authentication.count_request(key)
    holder_of(request).begin(key, service.shares)
    if scope not in key.scopes:
        raise Problem(Kind.SCOPE_MISSING, f"This key lacks the scope {scope.value}.", required_scope=scope.value)
    if request.scope["query_string"]:
        require_known(request)
    return key


def needs(scope: Scope) -> Callable[..., Awaitable[ApiKey]]:
    """Return a FastAPI dependency that authenticates a request and returns its key.

    It counts the request against the rate limit and the shares. It raises Problem if the key lacks `scope`, or if the
    query has a parameter that the route does not know.
    """

    async def authenticated(
        request: Request, _documented: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> ApiKey:
        return await _authenticate(scope, request)

    return authenticated


def direct(
    scope: Scope, endpoint: Callable[[Request, ApiKey], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint behind the same checks as `needs` makes, for requests that do not pass through FastAPI."""

    async def answer(request: Request) -> Response:
        return await endpoint(request, await _authenticate(scope, request))

    return answer


IntentsWriter = Annotated[ApiKey, Depends(needs(Scope.INTENTS_WRITE))]
IntentsReader = Annotated[ApiKey, Depends(needs(Scope.INTENTS_READ))]
AccountsReader = Annotated[ApiKey, Depends(needs(Scope.ACCOUNTS_READ))]
JournalReader = Annotated[ApiKey, Depends(needs(Scope.JOURNAL_READ))]
