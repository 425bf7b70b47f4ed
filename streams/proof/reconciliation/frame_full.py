"""The full check of the books' frame: every fact of the topic against every row of the tables, in one snapshot."""

import time
from typing import Any, Final

from db import reconciled_frame as db
from domain.breaks import BreakKind, Finding
from domain.facts import Change, FrameKey, FrameValues, compute_fact_hash, get_fact_key, get_fact_values
from domain.journal import GENESIS_HASH
from streams.proof.reconciliation.frame import FrameSource, TakenFacts, find_row_fault, make_chain_subject
from streams.proof.records.pages import SourceAway

READ_SECONDS: Final = 2.0
SILENCE_SECONDS_MAX: Final = 30.0
FACTS_PER_QUERY: Final = 20_000


def compare_frame(connection: Any, source: FrameSource, grace_seconds: float) -> list[Finding]:
    """Return the differences between the topic's facts, the ledger's facts and the ledger's tables.

    `grace_seconds`: how long to wait for facts of the snapshot that the relay has not sent yet. Raise SourceAway if
    the broker falls silent.
    """
    pairs = db.read_chain_pairs(connection)
    bounds = {pair.chain: pair.held_next_seq for pair in pairs}
    hashes: dict[int, list[bytes]] = {chain: [] for chain in bounds}
    taken = TakenFacts({})
    told = _read(source, bounds, hashes, taken, grace_seconds)
    findings = [*taken.findings]
    for pair in pairs:
        findings += _find_chain_faults(connection, pair, hashes[pair.chain], taken.chains)
    missing = dict(told)
    for key, held in db.read_all_held(connection):
        finding = find_row_fault(db.RowPair(key, missing.pop(key, None), held))
        if finding is not None:
            findings.append(finding)
    lost = (find_row_fault(db.RowPair(key, values, None)) for key, values in missing.items())
    return findings + [finding for finding in lost if finding is not None]


def _read(
    source: FrameSource, bounds: dict[int, int], hashes: dict[int, list[bytes]], taken: TakenFacts, grace_seconds: float
) -> dict[FrameKey, FrameValues]:
    """Read the topic from its beginning; return the rows by the snapshot's facts, and append the facts' hashes."""
    told: dict[FrameKey, FrameValues] = {}
    offset, grace_ends = 0, time.monotonic() + grace_seconds
    heard_at = time.monotonic()
    while True:
        taken.facts.clear()
        before, offset = offset, source.read(offset, READ_SECONDS, taken)
        for fact in taken.facts:
            if fact["seq"] >= bounds.get(fact["chain"], 0):
                continue
            hashes[fact["chain"]].append(fact["hash"])
            if fact["change"] == Change.REMOVED:
                told.pop(get_fact_key(fact), None)
            else:
                told[get_fact_key(fact)] = get_fact_values(fact)
        now = time.monotonic()
        if offset != before:
            heard_at = now
            grace_ends = max(grace_ends, now + min(grace_seconds, READ_SECONDS))
        is_whole = all(taken.chains.get(chain, (0, b""))[0] >= bound for chain, bound in bounds.items())
        if source.is_at_end and (is_whole or now > grace_ends):
            return told
        if now - heard_at > SILENCE_SECONDS_MAX:
            raise SourceAway("Kafka does not hand over ledger.frame: look whether the broker is up.")


def _find_chain_faults(connection: Any, pair: db.ChainPair, hashes: list[bytes], chains: Any) -> list[Finding]:
    """Compare a chain of the topic with the chain that reconciliation has stored, and with the ledger's own facts."""
    chain, wrong = pair.chain, []
    next_seq = chains.get(chain, (0, GENESIS_HASH))[0]
    if next_seq < pair.held_next_seq:
        wrong.append(f"The ledger has facts up to seq {pair.held_next_seq - 1}; the topic ends before seq {next_seq}.")
    if next_seq < pair.own_next_seq:
        wrong.append(f"The topic has brought {pair.own_next_seq} facts, and now has {next_seq}.")
    elif 0 < pair.own_next_seq <= len(hashes) and hashes[pair.own_next_seq - 1] != pair.own_head:
        wrong.append(f"The topic's fact seq {pair.own_next_seq - 1} is not the one that it has brought before.")
    if pair.held_next_seq < pair.own_next_seq:
        wrong.append(f"The ledger has {pair.held_next_seq} facts, the topic {pair.own_next_seq}.")
    unlike = _find_first_unlike(connection, chain, hashes[: pair.held_next_seq])
    if unlike is not None:
        wrong.append(f"The ledger's fact seq {unlike} is not the one that the topic has.")
    return [Finding(BreakKind.FRAME, make_chain_subject(chain), detail) for detail in wrong]


def _find_first_unlike(connection: Any, chain: int, hashes: list[bytes]) -> int | None:
    """Return the first seq at which the ledger lacks the topic's fact or has another one; None if there is none."""
    head = GENESIS_HASH
    for first in range(0, len(hashes), FACTS_PER_QUERY):
        last = min(first + FACTS_PER_QUERY, len(hashes))
        held = {fact["seq"]: fact for fact in db.read_held_facts(connection, chain, first, last - first)}
        for seq in range(first, last):
            if seq not in held:
                return seq
            head = compute_fact_hash(head, held[seq])
            if not head == held[seq]["hash"] == hashes[seq]:
                return seq
    return None
