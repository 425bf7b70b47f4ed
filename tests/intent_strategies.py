"""Hypothesis strategies: sequences of intents over a few accounts and keys, so that intents often conflict."""

from hypothesis import strategies as st

from domain.intents import Intent, Leg
from tests.posting_model import MODEL_CHART, pair, reversal, transfer

ACCOUNTS = tuple(pattern.replace("*", number) for pattern in MODEL_CHART for number in ("1", "2"))
KEYS = tuple(f"key-{number}" for number in range(60))

keys = st.sampled_from(KEYS)
accounts = st.sampled_from(ACCOUNTS)
balanced_pairs = st.builds(pair, accounts, accounts, st.integers(1, 60), st.sampled_from(("EUR", "EUR", "EUR", "JPY")))
# Sometimes legs that no ledger may accept: unbalanced, unknown account or currency, amount zero, too few.
broken_legs = st.sampled_from(
    (
        (Leg("free:1", 1, 5, "EUR"), Leg("zero:1", -1, 6, "EUR")),
        pair("free:1", "nobody:1", 5),
        pair("free:1", "zero:1", 5, "XQX"),
        pair("free:1", "zero:1", 0),
        (Leg("free:1", 1, 5, "EUR"),),
    )
)


def _joined(pairs: list[tuple[Leg, Leg]]) -> tuple[Leg, ...]:
    return tuple(leg for two in pairs for leg in two)


balanced_legs = st.lists(balanced_pairs, min_size=1, max_size=3).map(_joined)
legs_of_transfers = st.integers(0, 9).flatmap(lambda number: balanced_legs if number else broken_legs)
transfers = st.builds(lambda key, legs: transfer(key, *legs), keys, legs_of_transfers)


def _funded(moves: list[Intent]) -> list[Intent]:
    """Put funding first, so that not every later intent is refused."""
    funding = [
        transfer(f"fund-{name}", *(pair(name, "free:1", 200) if name.startswith("till") else pair("free:1", name, 200)))
        for name in ACCOUNTS
        if not name.startswith("free")
    ]
    return funding + moves


@st.composite
def reversals(draw: st.DrawFn, originals: list[Intent]) -> Intent:
    """Draw a reversal of one of the intents: of what is left, of about half of what it asked, or of something else."""
    original = draw(st.sampled_from(originals))
    half = tuple(Leg(leg.account, -leg.direction, max(leg.amount_minor // 2, 1), leg.currency) for leg in original.legs)
    return reversal(draw(keys), original.idempotency_key, *draw(st.one_of(st.just(()), st.just(half), balanced_legs)))


@st.composite
def intent_sequences(draw: st.DrawFn, moves_max: int = 30) -> list[Intent]:
    """Draw funding, then transfers, reversals of any kind, repeats and conflicts, roughly in this order."""
    moves = draw(st.lists(transfers, min_size=1, max_size=moves_max))
    later = [draw(reversals(moves)) for _ in range(draw(st.integers(0, moves_max // 3)))]
    later += [draw(reversals(later)) for _ in range(draw(st.integers(0, 2))) if later]
    later += draw(st.lists(st.sampled_from(moves + later), max_size=moves_max // 5))
    for intent in draw(st.permutations(later)):
        moves.insert(draw(st.integers(0, len(moves))), intent)
    return _funded(moves)


def cuts(count: int) -> st.SearchStrategy[list[int]]:
    """Return a strategy of batch sizes that add up to `count`."""
    return st.lists(st.integers(1, max(count, 1)), min_size=1, max_size=count).map(lambda sizes: _fitted(sizes, count))


def _fitted(sizes: list[int], count: int) -> list[int]:
    fitted: list[int] = []
    for size in sizes:
        if sum(fitted) < count:
            fitted.append(min(size, count - sum(fitted)))
    rest = count - sum(fitted)
    return [*fitted, rest] if rest else fitted
