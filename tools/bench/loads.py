"""What the bench asks to be posted: endless transfers between two accounts each."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

ACCOUNTS: Final = 10_000
TRANSFER_MINOR: Final = 100
FUND_MINOR: Final = 1_000_000_000
"""What each account of ACCOUNTS begins with where it has a floor: transfers of years."""
HOT_FUND_MINOR: Final = 1_000_000_000_000_000

Pair = tuple[str, str]
"""The debited and the credited account of one transfer."""


@dataclass(frozen=True)
class Load:
    """Transfers of one kind, of `amount_minor` EUR cents each."""

    name: str
    pairs: Iterator[Pair]
    amount_minor: int = TRANSFER_MINOR
    is_keyed: bool = False
    """Whether the debited account chooses the lane, as the API has it for one that can run dry; else all in turn."""


def random_load(seed: int, accounts: int = ACCOUNTS) -> Load:
    """Between random accounts without floors."""
    return Load("random", _pairs("assets:a{}", seed, accounts))


def opening(accounts: int = ACCOUNTS) -> tuple[Load, int]:
    """Transfers that open every account of `random_load`, and how many they are."""
    names = [f"assets:a{number}" for number in range(accounts)]
    return Load("opening", zip(names, names[1:] + names[:1], strict=True)), accounts


def hot_load(seed: int) -> Load:
    """The same with one account on every transfer."""
    return Load("hot", ((debited, "liabilities:hot") for debited, _ in _pairs("assets:a{}", seed, ACCOUNTS)))


def constrained_load(seed: int) -> Load:
    """Between random accounts with floors: each debit draws one down, under a lock."""
    return Load("constrained", _pairs("users:{}:wallet", seed, ACCOUNTS), is_keyed=True)


def hot_constrained_load(seed: int) -> Load:
    """One account with a floor is drawn down by every transfer."""
    pairs = (("users:hot:wallet", credited) for _, credited in _pairs("users:{}:wallet", seed, ACCOUNTS))
    return Load("hot constrained", pairs, is_keyed=True)


def funds() -> list[tuple[Load, int]]:
    """Transfers that open the constrained accounts with what they need to be drawn down, and how many they are."""
    wallets = (("external:bank", f"users:{number}:wallet") for number in range(ACCOUNTS))
    return [
        (Load("funds", wallets, FUND_MINOR), ACCOUNTS),
        (Load("hot fund", iter([("external:bank", "users:hot:wallet")]), HOT_FUND_MINOR), 1),
    ]


def overdraft() -> Load:
    """One transfer of more than an account holds, which a ledger that checks its floors refuses."""
    return Load("overdraft", iter([("users:0:wallet", "users:1:wallet")]), 2 * HOT_FUND_MINOR, is_keyed=True)


def _pairs(address: str, seed: int, accounts: int) -> Iterator[Pair]:
    names = [address.format(number) for number in range(accounts)]
    draw = random.Random(seed)  # noqa: S311 - a seeded load, no secret
    while True:
        debited = draw.randrange(accounts)
        # Another one: a transfer to oneself is not what is measured.
        yield names[debited], names[(debited + 1 + draw.randrange(accounts - 1)) % accounts]
