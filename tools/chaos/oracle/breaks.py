"""Check that the agents found every planted break, and reported no other break."""

from collections.abc import Iterable

from tools.chaos.oracle.model import Findings, Planted, Plants
from tools.chaos.oracle.tables import Break


def check_breaks(breaks: Iterable[Break], plants: Plants, findings: Findings) -> None:
    """Add a fault for each planted break that was not found, and for each break that nobody planted.

    A break that nobody planted is a fault even if it is resolved by now.
    """
    missed = set(plants.all)
    for found in breaks:
        findings.counts["breaks"] += 1
        meant = [planted for planted in plants.all if _is(planted, found)]
        missed.difference_update(meant)
        if meant:
            continue
        # A break that resolved itself was a false alarm.
        check = "false_break" if found.state == "resolved" else "breaks"
        where = f"{found.found_by} {found.kind} {found.subject}"
        findings.add(check, where, f"The break is {found.state}, and nobody planted it: {found.detail}")
    for planted in sorted(missed, key=str):
        where = f"{planted.found_by} {planted.kind} lane {planted.lane} seq {planted.seq}"
        findings.add("planted", where, "The break was planted, and not found.")


def _is(planted: Planted, found: Break) -> bool:
    return (
        (planted.found_by, planted.kind) == (found.found_by, found.kind)
        and planted.lane in (None, found.lane)
        and planted.seq in (None, found.seq)
    )
