"""Account and commodity names of other systems as addresses and units of ours, deterministically, without collisions.

Text in Unicode's forms NFC and NFD is the same text, so names are compared in NFC. Beyond that no two names share an
address, and no two commodities share a unit.
"""

import re
import unicodedata
from typing import Final

from domain.intents import ADDRESS_CHARACTERS_MAX, ADDRESS_PATTERN, CURRENCY_PATTERN

EXCHANGE_ACCOUNT_PREFIX: Final = "clearing:exchange"
ROUNDING_ACCOUNT: Final = "equity:rounding"

# The underscore is the escape sign, so that one in the source is escaped too: no two names share an address.
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9-]")
_FOREIGN_IN_UNIT: Final = re.compile(r"[^A-Z0-9.-]")
# What escaping makes: a commodity that looks like it is escaped itself, so that no two share a unit.
_ESCAPED_UNIT: Final = re.compile(r"X_|.*_[0-9A-F]+_")
_UNIT_PREFIX: Final = "X_"


class AddressError(ValueError):
    """A name that has no address; the message says why, in words that follow on from the name."""


def normalize_text(text: str) -> str:
    """Text in Unicode's form NFC, so that the same text in NFC and NFD is one account and one key."""
    return unicodedata.normalize("NFC", text)


def escaped(segment: str) -> str:
    """One segment of a name in the address alphabet: each foreign character as _HEX_, such as Caf_e9_ for Café."""
    return _FOREIGN.sub(lambda match: f"_{ord(match.group()):x}_", normalize_text(segment))


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


def unit_code(commodity: str, *, is_ticker: bool = False) -> str:
    """The code of the currency or unit that a commodity is booked in.

    A commodity that can be a code keeps its name. Another has its foreign characters as _HEX_, such as HOOL_27_A for
    HOOL'A, after X_ if its first character is no capital. A ticker that equals an ISO 4217 code becomes X_CODE.
    """
    if is_ticker:
        return _UNIT_PREFIX + commodity
    if CURRENCY_PATTERN.fullmatch(commodity) and not _ESCAPED_UNIT.match(commodity):
        return commodity
    code = _FOREIGN_IN_UNIT.sub(lambda match: f"_{ord(match.group()):X}_", commodity)
    return code if re.match("[A-Z]", commodity) else _UNIT_PREFIX + code


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
