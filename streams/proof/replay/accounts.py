"""The accounts that records name: finds their ids, and opens those that the chart allows."""

from collections.abc import Iterable
from typing import Final

from db.posting import PostingStore
from domain.chart import ChartPattern
from domain.facts import OPERATORS_CHAIN
from streams.proof.records.decoding import JournalRecord
from streams.proof.replay.lane_replay import ReplayRefused

ACCOUNTS_CACHED_MAX: Final = 200_000

Name = tuple[str, str]
"""Tenant and account address."""


class AccountIds:
    """The ids of accounts in the database that a replay writes. Not thread-safe."""

    def __init__(self, store: PostingStore) -> None:
        self._store = store
        self._known: dict[Name, int] = {}

    def learn(self, records: Iterable[JournalRecord]) -> dict[Name, int]:
        """Return the ids of all accounts that these records touch, and of others; open those that are not open yet.

        The accounts stay open even if the records are not written. Raise ReplayRefused if no line of a chart opens an
        account.
        """
        names = {(record["tenant"] or "", leg["account"]) for record in records for leg in record["legs"]}
        missing = sorted(names - self._known.keys())
        if not missing:
            return self._known
        if len(self._known) + len(missing) > ACCOUNTS_CACHED_MAX:
            self._known.clear()
            missing = sorted(names)
        with self._store.transaction():
            found = self._store.accounts(missing)
            wanted = self._read_lines([name for name in missing if name not in found])
            if wanted:
                self._store.open_accounts(wanted, OPERATORS_CHAIN)
                found |= self._store.accounts(list(wanted))
        self._known.update({name: account.account_id for name, account in found.items()})
        return self._known

    def _read_lines(self, names: list[Name]) -> dict[Name, ChartPattern]:
        if not names:
            return {}
        charts = self._store.books().charts
        wanted = {}
        for tenant, address in names:
            line = charts[tenant].match(address) if tenant in charts else None
            if line is None:
                raise ReplayRefused(
                    f"No chart here opens the account {address} of tenant {tenant!r}, which ledger.journal names: give"
                    " the books that open it with --books FILE, a file of `ledgerline books export`."
                )
            wanted[tenant, address] = line
        return wanted
