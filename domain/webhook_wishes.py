"""What an endpoint of a webhook wants to get, and which of many endpoints want a message."""

import re
from collections.abc import Iterable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from domain.webhooks import TYPE_START, Message

T = TypeVar("T")
FILTERS_MAX: Final = 20
ACCOUNTS_MAX: Final = 20
FILTER_PATTERN: Final = re.compile(r"\*|[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*(?:\.\*)?", re.ASCII)
ACCOUNT_PATTERN: Final = re.compile(r"[A-Za-z0-9_-]+(?::[A-Za-z0-9_-]+)*(?::\*)?", re.ASCII)
LEDGER_START: Final = "ledger."
"""Types of messages that have accounts."""


class Wish(NamedTuple):
    """What an endpoint wants to get."""

    filters: tuple[str, ...]
    accounts: tuple[str, ...] = ()
    """Only ledger records with a leg at one of these accounts. Empty: all. Capability events have no legs."""


def has_type(pattern: str, name: str) -> bool:
    """Return whether a filter has a type of messages."""
    if pattern == "*":
        return True
    return name.startswith(pattern[:-1]) if pattern.endswith(".*") else pattern == name


class WishIndex(Generic[T]):
    """Finds the endpoints that want a message, without asking the wish of each.

    The endpoints of a message's type are found once for each type. Of those that named accounts, a lookup of the
    message's accounts and of their beginnings finds the right ones.
    """

    def __init__(self, wishes: Iterable[tuple[Wish, T]]) -> None:
        """`wishes`: what each endpoint wants, and the endpoint."""
        self._wishes = list(wishes)
        self._by_type: dict[str, _OfType] = {}

    def find(self, message: Message) -> list[T]:
        """Return the endpoints whose wish the message meets, in the order in which they were given."""
        name = message.type.removeprefix(TYPE_START)
        of_type = self._by_type.get(name)
        if of_type is None:
            of_type = self._by_type[name] = _OfType(name, [wish for wish, _ in self._wishes])
        return [self._wishes[place][1] for place in of_type.find_places(message.accounts)]


class _OfType:
    """The places of the wishes that have a filter for one type."""

    def __init__(self, name: str, wishes: Sequence[Wish]) -> None:
        self._always: list[int] = []
        self._by_account: dict[str, list[int]] = {}
        """By an account's address, or by a beginning of addresses, which ends with a colon."""
        for place, wish in enumerate(wishes):
            if not any(has_type(pattern, name) for pattern in wish.filters):
                continue
            if not wish.accounts or not name.startswith(LEDGER_START):
                self._always.append(place)
                continue
            for pattern in wish.accounts:
                self._by_account.setdefault(pattern.removesuffix("*"), []).append(place)

    def find_places(self, accounts: Iterable[str]) -> list[int]:
        """Return the places of the wishes that a message with legs at these accounts meets, in order."""
        if not self._by_account:
            return self._always
        found = set(self._always)
        for account in accounts:
            found.update(self._by_account.get(account, ()))
            end = account.find(":")
            while end != -1:
                found.update(self._by_account.get(account[: end + 1], ()))
                end = account.find(":", end + 1)
        return sorted(found)


def find_wish_fault(filters: Iterable[str], accounts: Iterable[str]) -> str | None:
    """Return one sentence that says what is wrong with filters or accounts; None if nothing is."""
    wanted, at = list(filters), list(accounts)
    if not 1 <= len(wanted) <= FILTERS_MAX or len(at) > ACCOUNTS_MAX:
        return f"An endpoint has 1 to {FILTERS_MAX} filters and at most {ACCOUNTS_MAX} accounts."
    for pattern in wanted:
        if len(pattern) > 128 or not FILTER_PATTERN.fullmatch(pattern):
            return "A filter is a type such as ledger.posted, a beginning such as schedule.*, or * for all."
    for pattern in at:
        if len(pattern) > 256 or not ACCOUNT_PATTERN.fullmatch(pattern):
            return "An account is an address such as users:42:wallet, or a beginning such as users:42:*."
    return None
