"""The steps that move money: the example ledger, the busy day, and messages that no client of the API can send."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import orjson

from cli.demo.busy_day import make_day
from cli.demo.demo import TENANT, Demo, DemoError
from cli.demo.example import make_example
from cli.demo.rogues import make_rogues, send_rogues
from producers.importing import beancount_source, importer
from producers.importing.minor import compute_sums
from producers.importing.sender import BatchSender, Fate, ItemResult

REPLAYED_BATCHES: Final = 2
REFUSED_ITEMS: Final = 50


def read_example(demo: Demo) -> str:
    """Make the example ledger and read it."""
    path = demo.home / "data" / "example.beancount"
    make_example(path)
    source = beancount_source.read_ledger(path)
    registered = importer.list_registered_units(demo.ledger.postgres_dsn, TENANT)
    demo.prepared = importer.prepare(source, registered)
    demo.check("transactions that could not be mapped", 0, len(demo.prepared.problems))
    units = ", ".join(sorted(demo.prepared.plan.unregistered))
    return f"{len(demo.prepared.mapped.intents):,} transactions of {path.name}; units {units}"


def import_example(demo: Demo) -> str:
    """Post the example through HTTP and wait for every outcome."""
    importer.register_units(demo.ledger.postgres_dsn, TENANT, demo.prepared.plan.unregistered)
    intents = demo.prepared.mapped.intents
    results, retries = asyncio.run(importer.post(intents, demo.api_url, demo.key, demo.watch.add_sent))
    fates = Counter(result.fate for result in results)
    demo.check("transactions posted", {Fate.POSTED: len(intents)}, dict(fates))
    demo.expect("posted", "", len(intents))
    demo.sent += len(intents)
    demo.figures["imported"] = len(intents)
    _note_retries(demo, retries)
    return f"{fates[Fate.POSTED]:,} posted"


def compare_example(demo: Demo) -> str:
    """Compare every balance with beancount's own sums, and check every balance assertion."""
    differences = importer.check(demo.prepared, demo.api_url, demo.key, TENANT)
    demo.check("balances that differ from beancount's", [], [difference._asdict() for difference in differences])
    source = demo.prepared.source
    accounts = len({found.account for found in source.sums})
    return f"{len(source.sums)} balances of {accounts} accounts and {len(source.assertions)} assertions agree"


def import_again(demo: Demo) -> str:
    """Import the example again, and check that nothing is posted twice."""
    results, _ = asyncio.run(importer.post(demo.prepared.mapped.intents, demo.api_url, demo.key, lambda _items: None))
    replayed = sum(result.replayed and result.fate is Fate.POSTED for result in results)
    demo.check("transactions known at the second import", len(results), replayed)
    return f"{replayed:,} known already, none posted twice"


def write_day(demo: Demo) -> str:
    """Make the busy day in memory, and count its expected outcomes."""
    plan = demo.plan
    demo.day = make_day(
        demo.prepared.mapped.intents,
        intents=plan.intents,
        customers=plan.customers,
        batch_items=plan.batch_items,
        seed=plan.seed,
    )
    expected = demo.day.expected
    for outcome in ("posted", "duplicate", "idempotency_conflict"):
        demo.expect(outcome, "", expected.outcomes[outcome])
    for reason, count in expected.reasons.items():
        demo.expect("rejected", reason, count)
    return (
        f"{sum(map(len, demo.day.day)):,} intents of {plan.customers:,} customers, {len(expected.balances):,} balances"
    )


def fund_customers(demo: Demo) -> str:
    """Give every account that has a floor exactly what it will spend, and wait until that is posted."""
    count = sum(map(len, demo.day.funding))
    _send(demo, demo.day.funding, demo.watch.add_sent)
    demo.sent += count
    demo.watch.wait_for(("posted",), demo.sent, demo.plan.settle_seconds_max)
    return f"{count:,} opening balances posted"


def send_day(demo: Demo) -> str:
    """Send the day over several connections; return when Kafka has all intents."""
    count = sum(map(len, demo.day.day))
    demo.send_started = time.monotonic()
    with demo.screen.watch(demo.watch, demo.sent + count):
        results = _send(demo, demo.day.day, demo.watch.add_sent)
    seconds = time.monotonic() - demo.send_started
    demo.sent += count
    fates = Counter(result.fate for result in results)
    demo.check("intents taken by the API", {Fate.PENDING: count}, dict(fates))
    demo.figures["sent_per_second"] = round(count / seconds)
    return f"{count / seconds:,.0f} intents/s over {demo.plan.connections} connections"


def send_poison(demo: Demo) -> str:
    """Check that the API refuses unbalanced intents; send such intents and undecodable bytes straight to Kafka."""
    refused = _send(demo, [[_make_unbalanced(number) for number in range(REFUSED_ITEMS)]], lambda _items: None)
    demo.check(
        "unbalanced intents refused by the API",
        {"refused unbalanced": REFUSED_ITEMS},
        dict(Counter(f"{result.fate} {result.reason}" for result in refused)),
    )
    rogues = make_rogues(demo.ledger.registry, TENANT)
    for (outcome, reason), count in send_rogues(demo.ledger.kafka, demo.topics, rogues).items():
        demo.expect(outcome, reason, count)
    demo.sent += len(rogues)
    demo.watch.add_sent(len(rogues))
    return f"{REFUSED_ITEMS} refused by the API; {len(rogues)} messages past it"


def settle(demo: Demo) -> str:
    """Wait until all intents are posted, relayed, reconciled and audited."""
    with demo.screen.watch(demo.watch, demo.sent):
        posted = demo.watch.wait_for(("posted",), demo.sent, demo.plan.settle_seconds_max)
        proved = demo.watch.wait_for(("relayed", "reconciled", "audited"), demo.sent, demo.plan.settle_seconds_max)
    count = sum(map(len, demo.day.day))
    demo.figures["posted_per_second"] = round(count / (posted - demo.send_started))
    demo.figures["proved_per_second"] = round(count / (proved - demo.send_started))
    return (
        f"from HTTP to posted {demo.figures['posted_per_second']:,}/s, "
        f"to reconciled and audited {demo.figures['proved_per_second']:,}/s"
    )


def send_again(demo: Demo) -> str:
    """Send settled requests again, and check that the API answers with their outcomes and sends nothing to Kafka."""
    batches = demo.day.day[:REPLAYED_BATCHES]
    fates = Counter((result.fate, result.replayed) for result in _send(demo, batches, lambda _items: None))
    new = sum(count for (fate, replayed), count in fates.items() if fate is not Fate.CONFLICT and not replayed)
    demo.check("intents sent again that were taken anew", 0, new)
    return f"{sum(fates.values()):,} intents sent again: {sum(fates.values()) - new:,} answered from the journal"


def compute_expected_balances(demo: Demo) -> dict[tuple[str, str], int]:
    """Return every expected balance: debits minus credits, in minor units."""
    sums = Counter(compute_sums(demo.prepared.mapped.intents))
    sums.update(demo.day.expected.balances)
    return dict(sums)


def _make_unbalanced(number: int) -> bytes:
    legs = [
        {"account": "external:treasury", "direction": "debit", "amount_minor": 2, "currency": "USD"},
        {"account": "merchants:anything", "direction": "credit", "amount_minor": 1, "currency": "USD"},
    ]
    return orjson.dumps({"idempotency_key": f"unbalanced:{number}", "type": "transfer", "legs": legs})


def _send(demo: Demo, batches: Sequence[Sequence[bytes]], on_answered: Callable[[int], None]) -> list[ItemResult]:
    async def work() -> tuple[list[list[ItemResult]], int]:
        async with BatchSender(demo.api_url, demo.key, connections=demo.plan.connections) as sender:
            return await sender.send_all(batches, on_answered), sender.retries

    results, retries = asyncio.run(work())
    _note_retries(demo, retries)
    return [result for batch in results for result in batch]


def _note_retries(demo: Demo, retries: int) -> None:
    """Record HTTP retries; raise DemoError if there are any.

    A repeated request may be in Kafka twice. That is harmless, but then the expected counts are no longer exact.
    """
    demo.figures["http_retries"] = demo.figures.get("http_retries", 0) + retries
    if retries:
        raise DemoError(
            f"{retries} requests had to be sent again, so outcomes cannot be counted exactly: run it again."
        )
