"""Choose the facts of the books' frame that the relay sends to ledger.frame next, chain by chain."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from prometheus_client import Counter, Gauge

from db.relay import LaneEnd, RelayStore
from producers.relay_positions import RelayAhead, RelayPosition

FACTS_MAX: Final = 5000
"""The most facts of one chain in one transaction."""

FACTS_RELAYED: Final = Counter("ledgerline_relay_facts", "Facts of the books' frame handed to Kafka.")
LAG_FACTS: Final = Gauge("ledgerline_relay_lag_facts", "Facts of the books' frame not yet relayed.")

Facts = dict[int, list[dict[str, Any]]]
"""Facts in order, by chain."""


def list_fact_pages(
    store: RelayStore, chains: Sequence[LaneEnd], relayed: Mapping[int, RelayPosition]
) -> list[Callable[[], Facts]]:
    """Return the chains' facts that are not yet relayed, as pages. A page reads its facts when it is called.

    Raise RelayAhead if a chain has fewer facts than were relayed. The first page raises RelayAhead if the hash at a
    chain's position is not the relayed one.
    """
    behind: dict[int, tuple[RelayPosition, int]] = {}
    for chain in chains:
        from_here = relayed.get(chain.lane, RelayPosition())
        if chain.next_seq < from_here.next_seq:
            raise RelayAhead(
                f"The facts of chain {chain.lane} were relayed up to {from_here.next_seq}, but the ledger has them up"
                f" to {chain.next_seq}: restore the ledger first, by `ledgerline replay`."
            )
        if chain.next_seq > from_here.next_seq:
            behind[chain.lane] = (from_here, chain.next_seq)
    LAG_FACTS.set(sum(next_seq - from_here.next_seq for from_here, next_seq in behind.values()))
    longest = max((next_seq - from_here.next_seq for from_here, next_seq in behind.values()), default=0)
    return [partial(_read_page, store, behind, page * FACTS_MAX) for page in range(-(-longest // FACTS_MAX))]


def _read_page(store: RelayStore, behind: Mapping[int, tuple[RelayPosition, int]], skipped: int) -> Facts:
    found: Facts = {}
    for chain, (from_here, next_seq) in behind.items():
        first_seq = from_here.next_seq + skipped
        if first_seq >= next_seq:
            continue
        facts = store.facts(chain, first_seq, min(next_seq - first_seq, FACTS_MAX))
        if skipped == 0 and facts and facts[0]["previous_hash"] != from_here.head:
            raise RelayAhead(
                f"The facts of chain {chain} were relayed up to {from_here.next_seq} with another hash than the ledger"
                " has: restore the ledger first, by `ledgerline replay`."
            )
        found[chain] = facts
    return found


def show_facts_relayed(facts: Facts) -> None:
    """Count the facts that a transaction has relayed."""
    number = sum(map(len, facts.values()))
    FACTS_RELAYED.inc(number)
    LAG_FACTS.dec(number)
