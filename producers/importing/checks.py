"""After an import: do the ledger's own balances say what the source says?"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

import httpx

from domain.intents import DIRECTIONS
from domain.money import to_decimal
from producers.importing.model import Assertion, ImportingError, SourceSum, from_rfc3339

PAGE_ITEMS: Final = 1000
PAGES_MAX: Final = 100_000

Balances = dict[tuple[str, str], int]


class Difference(NamedTuple):
    """A balance that is not what the source says, in the currency's own decimals; positive is a debit balance."""

    account: str
    currency: str
    expected: Decimal
    found: Decimal
    where: str
    """The line of the assertion, or what else expects it."""


class LedgerReader:
    """Reads balances and entries of one tenant through the HTTP API."""

    def __init__(self, api_url: str, api_key: str) -> None:
        self._client = httpx.Client(base_url=api_url, headers={"Authorization": f"Bearer {api_key}"}, timeout=60)

    def __enter__(self) -> "LedgerReader":
        self._client.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._client.__exit__(*error)

    def balances(self, prefix: str = "") -> Balances:
        """(account, currency) -> debits less credits in minor units, of all accounts that begin with the prefix."""
        found: Balances = {}
        for item in self._pages("/v1/balances", {"prefix": prefix, "limit": PAGE_ITEMS}):
            found[item["address"], item["currency"]] = item["debits_minor"] - item["credits_minor"]
        return found

    def entries(self, account: str) -> Iterator[dict[str, Any]]:
        """All entries of one account."""
        return self._pages(f"/v1/accounts/{account}/entries", {"limit": PAGE_ITEMS})

    def _pages(self, path: str, parameters: Mapping[str, str | int]) -> Iterator[dict[str, Any]]:
        url = str(httpx.URL(path, params=dict(parameters)))
        for _ in range(PAGES_MAX):
            try:
                response = self._client.get(url)
            except httpx.TransportError as error:
                raise ImportingError(f"The API at {self._client.base_url} does not answer: is it running?") from error
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


def differing_sums(
    sums: Iterable[SourceSum],
    balances: Balances,
    exponents: Mapping[str, int],
    rounded: Mapping[tuple[str, str], Decimal],
) -> list[Difference]:
    """Where the ledger's balance is not the source's own sum, plus what rounding on request changed; exact."""
    differences = []
    for expected in sums:
        exponent = exponents.get(expected.currency, 0)
        found = to_decimal(balances.get((expected.account, expected.currency), 0), exponent)
        wanted = expected.amount + rounded.get((expected.account, expected.currency), Decimal(0))
        if found != wanted:
            differences.append(Difference(expected.account, expected.currency, wanted, found, "the source's final sum"))
    return differences


def failed_assertions(
    assertions: Iterable[Assertion], reader: LedgerReader, accounts: Iterable[str], exponents: Mapping[str, int]
) -> list[Difference]:
    """The assertions that the ledger's entries do not meet, by value time; `accounts` are all that hold something."""
    differences = []
    for assertion, balance_minor in _histories(list(assertions), reader, sorted(accounts)):
        exponent = exponents.get(assertion.currency, 0)
        found = to_decimal(balance_minor, exponent)
        if abs(found - assertion.amount) > assertion.tolerance:
            differences.append(
                Difference(assertion.account, assertion.currency, assertion.amount, found, str(assertion.place))
            )
    return differences


def _histories(
    assertions: list[Assertion], reader: LedgerReader, accounts: list[str]
) -> Iterator[tuple[Assertion, int]]:
    """Each assertion with the ledger's balance of its account, and of all accounts below it, before its value time."""
    wanted: dict[str, list[int]] = defaultdict(list)
    for number, assertion in enumerate(assertions):
        for account in accounts:
            if account == assertion.account or account.startswith(f"{assertion.account}:"):
                wanted[account].append(number)
    totals = [0] * len(assertions)
    for account, numbers in wanted.items():
        for entry in reader.entries(account):
            signed = DIRECTIONS[entry["direction"]] * entry["amount_minor"]
            value_time = from_rfc3339(entry["value_time"] or entry["booked_time"])
            for number in numbers:
                assertion = assertions[number]
                if entry["currency"] == assertion.currency and value_time < assertion.value_time:
                    totals[number] += signed
    return iter(zip(assertions, totals, strict=True))
