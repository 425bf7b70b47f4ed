"""What the ledger holds of a batch: its books, the originals of its reversals, its accounts and their balances."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from db.books import Books
from db.posting import Account, PostingStore
from domain.chart import ChartPattern
from domain.decision import Constraint, Event, Holding, IntentName, Original, find_holdings_drawn_down, mirror_legs
from domain.intents import Intent, Leg

ACCOUNTS_CACHED_MAX: Final = 200_000

Name = tuple[str, str]
"""Tenant and account address."""


class Found(NamedTuple):
    """What the ledger holds of a batch. All but `settled` leaves out intents that are settled or refused already."""

    settled: Mapping[IntentName, bytes]
    """The fingerprints of the intents that were settled before."""
    originals: Mapping[IntentName, Original]
    """The settled intents that reversals name."""
    legs: Sequence[tuple[str, Sequence[Leg]]]
    """The tenant and the legs of each intent; for a reversal also the mirrored legs of its original."""
    accounts: Mapping[Name, Account]
    """The accounts of these legs. An account is missing if no line of the chart matches it."""
    constraints: Mapping[Name, Constraint]
    """The constraints of those of the accounts that have a floor."""


class Lookups:
    """Reads and locks what the decision needs, in the posting transaction; keeps books and accounts between batches."""

    def __init__(self, store: PostingStore) -> None:
        self._store = store
        self._books: Books | None = None
        self._accounts: dict[Name, Account] = {}

    def get_books(self) -> Books:
        """Return the books that this transaction sees."""
        version = self._store.books_version()
        if self._books is None or self._books.version != version:
            self._books = self._store.books()
            self._accounts.clear()
        return self._books

    def find(self, events: Sequence[Event], settled: Mapping[IntentName, bytes], books: Books, chain: int) -> Found:
        """Lock and read the originals of reversals, find the accounts, and open missing ones.

        `chain`: the chain of facts in which the openings are recorded.
        """
        live = [event.intent for event in events if event.intent is not None and event.refusal is None]
        if settled:
            live = [intent for intent in live if (intent.tenant, intent.intent_id) not in settled]
        named = {(intent.tenant, intent.reverses): None for intent in live if intent.reverses is not None}
        originals = self._store.originals(list(named)) if named else {}
        legs = _find_touched_legs(live, originals)
        names = {(tenant, account) for tenant, touched in legs for account, _, _, _ in touched}
        accounts = self._find_accounts(names, books, chain)
        constraints = {name: account.constraint for name, account in accounts.items() if account.constraint is not None}
        return Found(settled, originals, legs, accounts, constraints)

    def _find_accounts(self, names: set[Name], books: Books, chain: int) -> dict[Name, Account]:
        """Return the accounts; open missing ones as the chart says."""
        known = self._accounts
        accounts = {name: known[name] for name in names if name in known}
        missing = sorted(names - accounts.keys())
        if not missing:
            return accounts
        accounts |= self._store.accounts(missing)
        wanted: dict[Name, ChartPattern] = {}
        for tenant, address in missing:
            line = books.charts[tenant].match(address)
            if (tenant, address) not in accounts and line is not None:
                wanted[tenant, address] = line
        if wanted:
            self._store.open_accounts(wanted, chain)
            accounts |= self._store.accounts(list(wanted))
        return accounts

    def lock_balances(self, found: Found) -> dict[Holding, int]:
        """Lock the constrained accounts that may be drawn down, and return their balances."""
        if not found.constraints:
            return {}
        names = {
            found.accounts[tenant, account].account_id: (tenant, account)
            for tenant, legs in found.legs
            for _, account, _ in find_holdings_drawn_down(tenant, legs, found.constraints)
        }
        if not names:
            return {}
        balances = self._store.locked_balances(list(names))
        return {(*names[account_id], currency): balance for (account_id, currency), balance in balances.items()}

    def remember(self, accounts: Mapping[Name, Account]) -> None:
        """Keep the accounts for later batches. Call this after the commit: a failed transaction opened no accounts."""
        if len(self._accounts) > ACCOUNTS_CACHED_MAX:
            self._accounts.clear()
        self._accounts.update(accounts)


def _find_touched_legs(
    live: Sequence[Intent], originals: Mapping[IntentName, Original]
) -> list[tuple[str, Sequence[Leg]]]:
    """Return the legs that each intent may post; for a reversal also the mirrored legs of its original."""
    if all(intent.reverses is None for intent in live):
        return [(intent.tenant, intent.legs) for intent in live]
    # If a batch has several bodies under one key, only the first may be posted: `reversed` makes the first one win.
    in_batch = {(intent.tenant, intent.intent_id): intent for intent in reversed(live) if intent.reverses is None}
    touched: list[tuple[str, Sequence[Leg]]] = []
    for intent in live:
        touched.append((intent.tenant, intent.legs))
        if intent.reverses is None:
            continue
        name = (intent.tenant, intent.reverses)
        if name in originals:
            touched.append((intent.tenant, mirror_legs(originals[name])))
        elif name in in_batch:
            legs = in_batch[name].legs
            touched.append((intent.tenant, [leg._replace(direction=-leg.direction) for leg in legs]))
    return touched
