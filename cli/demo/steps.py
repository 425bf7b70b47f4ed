"""The demo from beginning to end: PARTS lists all steps, in order."""

import time
from typing import Final, NamedTuple

from rich.table import Table

from cli.demo import money, proofs, stack
from cli.demo.demo import Demo, Step


class Titled(NamedTuple):
    """A step and the title that the screen shows for it."""

    title: str
    run: Step


class Part(NamedTuple):
    """Steps that belong together."""

    heading: str
    steps: tuple[Titled, ...]


PARTS: Final = (
    Part("Start", (Titled("Start Kafka, Postgres, the registry and the services", stack.start_stack),)),
    Part(
        "A real ledger",
        (
            Titled("Make four years of a person's money with bean-example", money.read_example),
            Titled("Import it through HTTP", money.import_example),
            Titled("Compare each balance with beancount's own sums", money.compare_example),
            Titled("Import it again", money.import_again),
        ),
    ),
    Part(
        "A busy day",
        (
            Titled("Make a busy day of it, for many customers", money.write_day),
            Titled("Fund the customers", money.fund_customers),
            Titled("Send the day through HTTP", money.send_day),
            Titled("Send what must be refused or quarantined", money.send_poison),
            Titled("Wait until all is posted, relayed, reconciled, audited", money.settle),
            Titled("Send some of it again", money.send_again),
        ),
    ),
    Part(
        "The proof",
        (
            Titled("Compare all outcomes with what was sent", proofs.compare_outcomes),
            Titled("Compare all balances with what was sent", proofs.compare_balances),
            Titled("Reconcile: recompute the books from the topics", proofs.reconcile),
            Titled("Audit: verify every hash chain", proofs.verify_clean),
            Titled("Alter one row behind the ledger's back", proofs.alter),
            Titled("Audit names it", proofs.verify_altered),
            Titled("Restore it, and verify again", proofs.restore),
        ),
    ),
)


def run_steps(demo: Demo) -> None:
    """Run every step. A check that fails is shown, and the demo goes on; a LedgerlineError ends the demo."""
    for part in PARTS:
        demo.screen.heading(part.heading)
        for title, run in part.steps:
            started, checks = time.monotonic(), len(demo.checks)
            with demo.screen.step(title):
                detail = run(demo)
            seconds = time.monotonic() - started
            demo.phases[title] = round(seconds, 2)
            held = all(check.held for check in demo.checks[checks:])
            demo.screen.done(title, detail, seconds, held=held)
            for check in demo.checks[checks:]:
                if not check.held:
                    demo.screen.show(f"    [red]{check.name}: expected {check.expected}, found {check.found}[/]")


def make_summary(demo: Demo, seconds: float) -> dict[str, object]:
    """Return all figures, for machines."""
    return {
        "held": demo.held,
        "seconds": round(seconds, 1),
        **demo.figures,
        "checks": [
            {"name": check.name, "held": check.held, "expected": check.expected, "found": check.found}
            for check in demo.checks
        ],
        "phases_seconds": demo.phases,
    }


def show_summary(demo: Demo, seconds: float) -> None:
    """Print the figures as tables."""
    outcomes = Table(title="Intents", title_justify="left")
    for name in ("outcome", "expected", "found"):
        outcomes.add_column(name, justify="left" if name == "outcome" else "right")
    found, expected = demo.figures.get("outcomes", {}), demo.figures.get("expected_outcomes", {})
    outcomes.add_row("received", f"{demo.sent:,}", f"{demo.figures.get('received', 0):,}")
    for outcome in ("posted", "rejected", "duplicate", "idempotency_conflict", "quarantined"):
        outcomes.add_row(outcome, f"{expected.get(outcome, 0):,}", f"{found.get(outcome, 0):,}")
    demo.screen.show(outcomes)
    sums = Table(title="Entries", title_justify="left")
    for name in ("currency", "entries", "debits (minor units)", "credits (minor units)"):
        sums.add_column(name, justify="left" if name == "currency" else "right")
    for row in demo.figures.get("sums", [])[:5]:
        sums.add_row(row["currency"], f"{row['entries']:,}", f"{row['debits_minor']:,}", f"{row['credits_minor']:,}")
    demo.screen.show(sums)
    heads = Table(title="Heads of the hash chains", title_justify="left")
    for name in ("lane", "seq", "SHA-256"):
        heads.add_column(name, justify="left" if name == "SHA-256" else "right")
    for lane, head in demo.figures.get("heads", {}).items():
        heads.add_row(str(lane), f"{head['seq']:,}", f"{head['head'][:32]}…")
    demo.screen.show(heads)
    held = sum(check.held for check in demo.checks)
    colour = "green" if demo.held else "red"
    demo.screen.show(
        f"[bold {colour}]{held} of {len(demo.checks)} checks hold[/] after {seconds:.0f} s: "
        f"{demo.figures.get('sent_per_second', 0):,} intents/s taken, "
        f"{demo.figures.get('posted_per_second', 0):,}/s posted, "
        f"{demo.figures.get('proved_per_second', 0):,}/s proved."
    )
