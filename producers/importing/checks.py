"""Check after an import that the ledger's own entries agree with the source.

Only the entries of this import's intents are compared. The accounts may hold other postings, earlier or later.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from decimal import Decimal
from typing import Any, Final, NamedTuple

import httpx

from domain.intents import DIRECTIONS
from domain.money import to_decimal
from producers.importing.model import Assertion, ImportingError, SourceSum, from_rfc3339

PAGE_ITEMS: Final = 1000
PAGES_MAX: Final = 100_000


class Movement(NamedTuple):
    """One entry that this import posted."""

    account: str
    currency: str
    signed_minor: int
    """Minor units; positive is a debit."""
    value_time: int
    """Microseconds since 1970-01-01 UTC."""


class Difference(NamedTuple):
    """A balance that differs from the source's, in the currency's own decimals; positive is a debit balance."""

    account: str
    currency: str
    expected: Decimal
    found: Decimal
    where: str
    """The line of the assertion, or the name of another expectation."""


class LedgerReader:
    """Reads balances and entries of one tenant through the HTTP API."""

    def __init__(self, api_url: str, api_key: str) -> None:
        self._client = httpx.Client(base_url=api_url, headers={"Authorization": f"Bearer {api_key}"}, timeout=60)

    def __enter__(self) -> "LedgerReader":
        self._client.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._client.__exit__(*error)

    def read_movements(self, accounts: Iterable[str], intent_ids: Set[str]) -> Iterator[Movement]:
        """Yield the entries of these accounts that these intents made. An account that is not open has none."""
        for account in accounts:
            for entry in self._pages(f"/v1/accounts/{account}/entries", {"limit": PAGE_ITEMS}):
                if entry["intent_id"] in intent_ids:
                    yield Movement(
                        account,
                        entry["currency"],
                        DIRECTIONS[entry["direction"]] * entry["amount_minor"],
                        from_rfc3339(entry["value_time"] or entry["booked_time"]),
                    )

    def _pages(self, path: str, parameters: Mapping[str, str | int]) -> Iterator[dict[str, Any]]:
        url = str(httpx.URL(path, params=dict(parameters)))
        for _ in range(PAGES_MAX):
            try:
                response = self._client.get(url)
            except httpx.TransportError as error:
                raise ImportingError(f"The API at {self._client.base_url} does not answer: is it running?") from error
            if response.status_code == 404:
                return
            if response.status_code != 200:
                raise ImportingError(
                    f"The API refuses to read {path} with status {response.status_code}: "
                    "the key needs the scope accounts:read."
                )
            page = response.json()
            yield from page["items"]
            if page["next"] is None:
                return
            url = page["next"]
        raise ImportingError(f"The list {path} does not end.")


def find_differing_sums(
    sums: Iterable[SourceSum],
    movements: Iterable[Movement],
    exponents: Mapping[str, int],
    rounded: Mapping[tuple[str, str], Decimal],
) -> list[Difference]:
    """Return where the posted sum is not exactly the source's own sum plus the rounding differences."""
    posted: dict[tuple[str, str], int] = defaultdict(int)
    for movement in movements:
        posted[movement.account, movement.currency] += movement.signed_minor
    differences = []
    for expected in sums:
        exponent = exponents.get(expected.currency, 0)
        found = to_decimal(posted.get((expected.account, expected.currency), 0), exponent)
        wanted = expected.amount + rounded.get((expected.account, expected.currency), Decimal(0))
        if found != wanted:
            differences.append(Difference(expected.account, expected.currency, wanted, found, "the source's final sum"))
    return differences


def find_failed_assertions(
    assertions: Iterable[Assertion],
    movements: Iterable[Movement],
    exponents: Mapping[str, int],
    rounded: Mapping[tuple[str, str], Decimal],
) -> list[Difference]:
    """Return the assertions that the posted entries, by value time, do not meet. Rounding widens the tolerance."""
    histories: dict[tuple[str, str], list[Movement]] = defaultdict(list)
    for movement in movements:
        histories[movement.account, movement.currency].append(movement)
    differences = []
    for assertion in assertions:
        currency, account = assertion.currency, assertion.account
        balance_minor = sum(
            movement.signed_minor
            for where, history in histories.items()
            if where[1] == currency and _is_in(where[0], account)
            for movement in history
            if movement.value_time < assertion.value_time
        )
        slack = sum(abs(rounded[where]) for where in rounded if where[1] == currency and _is_in(where[0], account))
        found = to_decimal(balance_minor, exponents.get(currency, 0))
        if abs(found - assertion.amount) > assertion.tolerance + slack:
            differences.append(Difference(account, currency, assertion.amount, found, str(assertion.place)))
    return differences


def _is_in(account: str, parent: str) -> bool:
    """Return whether an account is the parent itself, or lies below it."""
    return account == parent or account.startswith(f"{parent}:")
