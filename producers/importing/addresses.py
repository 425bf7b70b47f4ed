"""Account names of other systems as addresses of ours, deterministically and without collisions."""

import re
from typing import Final

from domain.intents import ADDRESS_CHARACTERS_MAX, ADDRESS_PATTERN

EXCHANGE_ACCOUNT_PREFIX: Final = "clearing:exchange"
ROUNDING_ACCOUNT: Final = "equity:rounding"

# The underscore is the escape sign, so that one in the source is escaped too: no two names share an address.
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9-]")


class AddressError(ValueError):
    """A name that has no address; the message says why, in words that follow on from the name."""


def escaped(segment: str) -> str:
    """One segment of a name in the address alphabet: each foreign character as _HEX_, such as Caf_e9_ for Café."""
    return _FOREIGN.sub(lambda match: f"_{ord(match.group()):x}_", segment)


def beancount_address(account: str, roots: dict[str, str]) -> str:
    """The address of a beancount account.

    `roots` leads from the file's name of each of the five classes to ours, such as Assets to assets. A colon keeps
    its meaning and the case is kept below the root. AddressError where the root is none of the five or the address
    would be too long.
    """
    first, _, rest = account.partition(":")
    if first not in roots:
        raise AddressError("is under none of the five root accounts")
    address = ":".join([roots[first], *(escaped(segment) for segment in rest.split(":") if segment)])
    return checked_address(address)


def exchange_account(commodity: str) -> str:
    """The clearing account over which a commodity is exchanged against another."""
    return f"{EXCHANGE_ACCOUNT_PREFIX}:{escaped(commodity)}"


def checked_address(address: str) -> str:
    """The address itself, or AddressError where it is none."""
    if len(address) > ADDRESS_CHARACTERS_MAX:
        raise AddressError(f"has more than {ADDRESS_CHARACTERS_MAX} characters as an address")
    if not ADDRESS_PATTERN.fullmatch(address):
        raise AddressError("is no address: segments of letters, digits, - and _, joined by colons")
    return address
