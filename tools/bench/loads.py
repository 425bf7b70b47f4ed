"""The loads of the bench: endless transfers, each between two accounts."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

ACCOUNTS: Final = 10_000
TRANSFER_MINOR: Final = 100
FUND_MINOR: Final = 1_000_000_000
"""The initial balance of each of the ACCOUNTS with a floor: enough for years of transfers."""
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
    """Whether the debited account chooses the lane, as in the API for accounts with a floor; else lanes take turns."""


def random_load(seed: int, accounts: int = ACCOUNTS) -> Load:
    """Return transfers between random accounts without floors."""
    return Load("random", _pairs("assets:a{}", seed, accounts))


def opening(accounts: int = ACCOUNTS) -> tuple[Load, int]:
    """Return transfers that open every account of `random_load`, and their number."""
    names = [f"assets:a{number}" for number in range(accounts)]
    return Load("opening", zip(names, names[1:] + names[:1], strict=True)), accounts


def hot_load(seed: int) -> Load:
    """Return transfers from random accounts without floors to one hot account."""
    return Load("hot", ((debited, "liabilities:hot") for debited, _ in _pairs("assets:a{}", seed, ACCOUNTS)))


def constrained_load(seed: int) -> Load:
    """Return transfers between random accounts with floors: each debit draws one account down, under a lock."""
    return Load("constrained", _pairs("users:{}:wallet", seed, ACCOUNTS), is_keyed=True)


def hot_constrained_load(seed: int) -> Load:
    """Return transfers that all draw down one account with a floor."""
    pairs = (("users:hot:wallet", credited) for _, credited in _pairs("users:{}:wallet", seed, ACCOUNTS))
    return Load("hot constrained", pairs, is_keyed=True)


def funds() -> list[tuple[Load, int]]:
    """Return transfers that fund the constrained accounts for all later draws, and their number."""
    wallets = (("external:bank", f"users:{number}:wallet") for number in range(ACCOUNTS))
    return [
        (Load("funds", wallets, FUND_MINOR), ACCOUNTS),
        (Load("hot fund", iter([("external:bank", "users:hot:wallet")]), HOT_FUND_MINOR), 1),
    ]


def overdraft() -> Load:
    """Return one transfer of more than an account holds. A ledger that checks floors must reject it."""
    return Load("overdraft", iter([("users:0:wallet", "users:1:wallet")]), 2 * HOT_FUND_MINOR, is_keyed=True)


def _pairs(address: str, seed: int, accounts: int) -> Iterator[Pair]:
    names = [address.format(number) for number in range(accounts)]
    draw = random.Random(seed)  # noqa: S311 - a seeded load, no secret
    while True:
        debited = draw.randrange(accounts)
        # The credited account must differ: a transfer to the same account is not the load to measure.
        yield names[debited], names[(debited + 1 + draw.randrange(accounts - 1)) % accounts]
