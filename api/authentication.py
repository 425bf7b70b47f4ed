"""Authentication of requests: bearer API keys and rate limits."""

import hmac
import math
import time
from collections import OrderedDict
from functools import partial
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from fastapi import Request
from fastapi.security.utils import get_authorization_scheme_param
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from api.addresses import NO_PROXIES, UNKNOWN, TrustedProxies, find_client_address
from api.database import Database
from api.gathering import Gathering
from api.problems import Kind, Problem
from db.access import KEY_PATTERN, ApiKey, find_keys, hash_secret
from db.connections import DatabaseError

_CACHE_SECONDS: Final = 3.0
TRUSTED_SECONDS_MAX: Final = 600.0
"""How long after its last check a key is still accepted while Postgres cannot tell whether the key was revoked."""
_CACHE_KEYS_MAX: Final = 10_000
FAILURES_PER_MINUTE: Final = 60


class Authentication:
    """The keys that were used lately, and the rate limits of one API process.

    A key is checked before any limit on wrong keys, so a good key is never refused because others sent wrong ones.
    """

    def __init__(
        self, database: Database, requests_per_minute: int, trusted_proxies: TrustedProxies = NO_PROXIES
    ) -> None:
        self._database = database
        self._trusted_proxies = trusted_proxies
        self._known: OrderedDict[str, tuple[float, ApiKey]] = OrderedDict()
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._requests = RateLimitItemPerMinute(requests_per_minute)
        self._failures = RateLimitItemPerMinute(FAILURES_PER_MINUTE)
        # One look-up at a time for all requests, so an attacker who guesses keys keeps at most one connection busy.
        self._keys: Gathering[str, dict[str, ApiKey]] = Gathering(partial(find_keys, database.pool))

    async def key_of(self, request: Request) -> ApiKey:
        """Return the key that the request carries. Raise Problem if it carries no valid key.

        A wrong key is answered 401, or 429 once its key id or its address has sent too many wrong keys in a minute.
        """
        kind, credentials = get_authorization_scheme_param(request.headers.get("authorization"))
        match = KEY_PATTERN.fullmatch(credentials) if kind.lower() == "bearer" else None
        if match is not None:
            key = await self._find(match[1], match[2])
            if key is not None:
                return key
        limited = [("failures of an address", self._get_address_group(request))]
        if match is not None and match[1] in self._known:  # invented ids are unlimited: a counter for each fills memory
            limited.append(("failures of a key", match[1]))
        refusals = [identifiers for identifiers in limited if not await self._limiter.hit(self._failures, *identifiers)]
        if refusals:
            raise await self._make_limited_problem(self._failures, *refusals[0])
        raise Problem(
            Kind.UNAUTHENTICATED,
            "Send a valid key as `Authorization: Bearer llk_...`.",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _get_address_group(self, request: Request) -> str:
        peer = request.client.host if request.client is not None else UNKNOWN
        address = find_client_address(peer, request.headers.getlist("x-forwarded-for"), self._trusted_proxies)
        return get_address_group(address)

    async def _find(self, key_id: str, secret: str) -> ApiKey | None:
        given = hash_secret(secret)
        loaded_at, known = self._known.get(key_id, (0.0, None))
        age_seconds = time.monotonic() - loaded_at
        is_known = known is not None and not known.is_expired() and hmac.compare_digest(known.secret_hash, given)
        if known is not None and age_seconds < _CACHE_SECONDS:
            return known if is_known else None
        try:
            found = (await self._database.ask(lambda _pool: self._keys.ask([key_id]))).get(key_id)
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
            raise await self._make_limited_problem(item, "requests", key.key_id)

    async def _make_limited_problem(self, item: RateLimitItem, *identifiers: str) -> Problem:
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


def get_address_group(address: str) -> str:
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
