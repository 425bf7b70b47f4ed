"""Map account and commodity names of other systems to our addresses and units, deterministically, without collisions.

The same text can be in Unicode's form NFC or NFD, so names are compared in NFC. Apart from that, no two names share an
address, and no two commodities share a unit.
"""

import re
import unicodedata
from typing import Final

from domain.intents import ADDRESS_CHARACTERS_MAX, ADDRESS_PATTERN, CURRENCY_PATTERN

EXCHANGE_ACCOUNT_PREFIX: Final = "clearing:exchange"
ROUNDING_ACCOUNT: Final = "equity:rounding"

# The underscore is the escape character. It is escaped itself, so that no two names share an address.
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9-]")
_FOREIGN_IN_UNIT: Final = re.compile(r"[^A-Z0-9.-]")
# The results of escaping. A commodity that looks like one is escaped too, so that no two commodities share a unit.
_ESCAPED_UNIT: Final = re.compile(r"X_|.*_[0-9A-F]+_")
_UNIT_PREFIX: Final = "X_"


class AddressError(ValueError):
    """A name has no address. The message says why: a clause whose subject is the name."""


def normalize_text(text: str) -> str:
    """Return text in Unicode's form NFC, so that the same text in NFC and NFD is one account and one key."""
    return unicodedata.normalize("NFC", text)


def escape_segment(segment: str) -> str:
    """Return a segment of a name in the address alphabet. Foreign characters become _HEX_: Caf_e9_ for Café."""
    return _FOREIGN.sub(lambda match: f"_{ord(match.group()):x}_", normalize_text(segment))


def make_beancount_address(account: str, roots: dict[str, str]) -> str:
    """Return the address of a beancount account.

    `roots` maps the file's name of each of the five root accounts to ours, such as Assets to assets. Colons stay
    separators, and below the root upper and lower case stay. Raise AddressError if the root is none of the five or the
    address would be too long.
    """
    first, _, rest = account.partition(":")
    if first not in roots:
        raise AddressError("is under none of the five root accounts")
    address = ":".join([roots[first], *(escape_segment(segment) for segment in rest.split(":") if segment)])
    return check_address(address)


def make_unit_code(commodity: str, *, is_ticker: bool = False) -> str:
    """Return the code of the currency or unit in which a commodity is booked.

    A commodity that can be a code keeps its name. In any other, foreign characters become _HEX_, such as HOOL_27_A for
    HOOL'A, and X_ comes first if it does not begin with a capital. A ticker that equals an ISO 4217 code is X_CODE.
    """
    if is_ticker:
        return _UNIT_PREFIX + commodity
    if CURRENCY_PATTERN.fullmatch(commodity) and not _ESCAPED_UNIT.match(commodity):
        return commodity
    code = _FOREIGN_IN_UNIT.sub(lambda match: f"_{ord(match.group()):X}_", commodity)
    return code if re.match("[A-Z]", commodity) else _UNIT_PREFIX + code


def exchange_account(commodity: str) -> str:
    """Return the clearing account through which a commodity is exchanged for another."""
    return f"{EXCHANGE_ACCOUNT_PREFIX}:{escape_segment(commodity)}"


def check_address(address: str) -> str:
    """Return the address, or raise AddressError if it is not valid."""
    if len(address) > ADDRESS_CHARACTERS_MAX:
        raise AddressError(f"has more than {ADDRESS_CHARACTERS_MAX} characters as an address")
    if not ADDRESS_PATTERN.fullmatch(address):
        raise AddressError("is no address: segments of letters, digits, - and _, joined by colons")
    return address
