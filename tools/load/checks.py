"""The checks of a run: the API's answers to k6, compared with reconciliation's records. Pure: no clock, no I/O."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tools.load.evidence import Evidence, Record
from tools.load.k6 import K6Run

NAMED_MAX: Final = 5
AMOUNT_MINOR: Final = 100
CONFLICT: Final = "https://ledgerline.dev/problems/idempotency-conflict"
REFUSALS: Final = (429, 503)


class Check(NamedTuple):
    """One condition that must hold."""

    name: str
    limit: str
    """The required value, as text for people."""
    found: str
    held: bool


class Promised(NamedTuple):
    """The API's answers to k6 for each intent, by idempotency key."""

    acknowledged: set[str]
    refused: dict[str, dict[str, Any]]
    """Key of an intent that was not acknowledged -> the line that k6 wrote. The intent may still be posted."""
    answers: list[dict[str, Any]]
    """The answers that k6 logged in full."""
    numbered: int
    """How many acknowledged intents have a recomputed key. k6 must have counted the same number."""


def count_check(name: str, limit: int, found: int) -> Check:
    """Return a check that `found` equals `limit`."""
    return Check(name, f"{limit:,}", f"{found:,}", limit == found)


def none_check(name: str, found: Iterable[str]) -> Check:
    """Return a check that `found` is empty; it names the first NAMED_MAX."""
    named = list(found)
    more = f" and {len(named) - NAMED_MAX:,} more" if len(named) > NAMED_MAX else ""
    return Check(name, "none", f"{', '.join(named[:NAMED_MAX])}{more}" if named else "none", not named)


def promises(run: K6Run, name: str, scenarios: Mapping[str, int]) -> Promised:
    """Recompute the key of every intent that k6 sent. `scenarios` has the number of intents of one iteration.

    The keys of a scenario are numbered from 0 without gaps, and k6 logs the keys that were not acknowledged.
    """
    refused = {line["key"]: line for line in run.lines if line["kind"] == "refused"}
    answers = [line for line in run.lines if line["kind"] == "answer"]
    sent = {
        f"{name}-{scenario}-{number}"
        for scenario, items in scenarios.items()
        for number in range(items * run.count(f"iterations{{scenario:{scenario}}}"))
    }
    told = {line["key"] for line in answers if line["status"] in (200, 202)}
    acknowledged = sent - refused.keys()
    return Promised(acknowledged | told, refused, answers, len(acknowledged))


def proof_checks(name: str, run: K6Run, promised: Promised, evidence: Evidence, *, may_reject: bool) -> list[Check]:
    """Check with reconciliation's records that every acknowledged intent was settled once, and no unknown one."""
    settled: dict[str, list[Record]] = defaultdict(list)
    for record in evidence.records:
        if record.is_settled:
            settled[record.key].append(record)
    final = {"posted", "rejected"} if may_reject else {"posted"}
    wrong = [key for key, found in settled.items() if key in promised.acknowledged and found[0].outcome not in final]
    known = promised.acknowledged | promised.refused.keys() | {line["key"] for line in promised.answers}
    return [
        count_check("acknowledged intents, by k6's own count", run.count("ledgerline_acknowledged"), promised.numbered),
        none_check("acknowledged, but not settled", sorted(promised.acknowledged - settled.keys())),
        none_check("settled more than once", sorted(key for key, found in settled.items() if len(found) > 1)),
        none_check("rejected, or worse", sorted(wrong)),
        none_check("in the journal, but never sent", sorted({record.key for record in evidence.records} - known)),
        none_check("quarantined", sorted(r.key for r in evidence.records if r.outcome == "quarantined")),
        none_check("new breaks", [f"{count} {what}" for what, count in evidence.breaks.items()]),
        _sum_check(name, evidence),
    ]


def _sum_check(name: str, evidence: Evidence) -> Check:
    """Check that reconciliation's sums of each of the run's accounts equal the sums of the records that it checked."""
    moved: Counter[tuple[str, str]] = Counter()
    for record in evidence.records:
        for account, direction, amount_minor in record.legs:
            if f":{name}:" in account:
                moved[account, direction] += amount_minor
    for one in evidence.sums:
        moved[one.address, "debit"] -= one.debits_minor
        moved[one.address, "credit"] -= one.credits_minor
    return none_check(
        "accounts whose sums reconciliation has otherwise", sorted({at for (at, _), by in moved.items() if by})
    )


def refusal_checks(promised: Promised) -> list[Check]:
    """Check that every refusal is 429 or 503 and has Retry-After."""
    rude = [
        f"{key}: {line['status']}"
        for key, line in sorted(promised.refused.items())
        if line["status"] not in REFUSALS or not line["retry_after"]
    ]
    return [none_check("refused otherwise than by 429 or 503 with Retry-After", rude)]


def threshold_checks(run: K6Run) -> list[Check]:
    """Check that no threshold of k6 is broken."""
    limited = [name for name, found in run.metrics.items() if found.get("thresholds")]
    count = sum(len(run.metrics[name]["thresholds"]) for name in limited)
    return [Check(f"{count} thresholds of k6", "none broken", "; ".join(run.broken) or "none broken", not run.broken)]


def posted_check(records: Sequence[Record], promised: Promised, within_seconds: float, ratio_min: float) -> Check:
    """Check the share of acknowledged intents that were settled within so many seconds of their acceptance."""
    ratio = posted_ratio(records, promised.acknowledged, within_seconds)
    return Check(f"settled within {within_seconds:.1f} s", f">= {ratio_min:.2%}", f"{ratio:.2%}", ratio >= ratio_min)


def posted_ratio(records: Iterable[Record], acknowledged: set[str], within_seconds: float) -> float:
    """Return the share of acknowledged intents that were settled in time; 1 if none was acknowledged."""
    soon = {r.key for r in records if r.is_settled and r.seconds <= within_seconds and r.key in acknowledged}
    return len(soon) / len(acknowledged) if acknowledged else 1.0


def storm_checks(promised: Promised, evidence: Evidence) -> list[Check]:
    """Check that each key has one posting and one id, that the posted body gets 200, and every other body 422."""
    storm = [line for line in promised.answers if line["asked"] != "setup"]
    by_key: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in storm:
        by_key[line["key"]].append(line)
    settled = {record.key: record for record in evidence.records if record.is_settled}
    several_ids, several_bodies, odd = [], [], []
    for key, lines in sorted(by_key.items()):
        ids = {line["intent_id"] for line in lines if line["intent_id"]}
        if key not in settled or ids != {settled[key].intent_id}:
            several_ids.append(key)
        taken = {line["asked"].removeprefix("again ") for line in lines if line["status"] in (200, 202)}
        if len(taken) != 1:
            several_bodies.append(f"{key}: {', '.join(sorted(taken)) or 'no'} body")
        odd += [f"{key} {line['asked']}: {line['status']}" for line in lines if not _is_due(line)]
    outcomes = Counter(record.outcome for record in evidence.records)
    lanes: dict[str, set[int]] = defaultdict(set)
    for record in evidence.records:
        lanes[record.key].add(record.lane)
    crossed = sum(len(found) > 1 for found in lanes.values())
    return [
        count_check("keys of the storm that were posted", len(by_key), sum(key in settled for key in by_key)),
        none_check("keys whose answers have another id than the journal", several_ids),
        none_check("keys that took more than one body", several_bodies),
        none_check("answers other than 200, or 422 idempotency-conflict", odd),
        Check(
            "deliveries that moved nothing",
            "> 0",
            f"{outcomes['duplicate']:,} duplicate, {outcomes['idempotency_conflict']:,} in conflict",
            outcomes["duplicate"] + outcomes["idempotency_conflict"] > 0,
        ),
        Check("keys that met in two lanes", "> 0", f"{crossed:,}", crossed > 0),
    ]


def _is_due(line: Mapping[str, Any]) -> bool:
    if line["status"] == 422:
        return bool(line["problem"] == CONFLICT)
    is_again = line["asked"].startswith("again ")
    return bool(line["status"] == 200 and line["result"] == "posted" and (line["replayed"] or not is_again))


def hot_checks(name: str, run: K6Run, promised: Promised, evidence: Evidence) -> list[Check]:
    """Check that no credit of the hot account is lost, and that the account with a floor gave all it had, not more."""
    hot, floored = f"liabilities:{name}:hot", f"users:{name}:wallet"
    sums = {found.address: found for found in evidence.sums}
    credits = [key for key in promised.acknowledged if key.startswith(f"{name}-credits-")]
    credited = sums[hot].credits_minor if hot in sums else 0
    held, lowest, funds = _walk(evidence.records, floored)
    draws = [record for record in evidence.records if record.key.startswith(f"{name}-draws-") and record.is_settled]
    posted = sum(record.outcome == "posted" for record in draws)
    reasons = {record.reason for record in draws if record.outcome == "rejected"}
    looks = run.count("iterations{scenario:watch}")
    short = "insufficient_funds"
    by_key = {record.key: record.outcome for record in draws}
    lies = [line["key"] for line in promised.answers
            if line["asked"] == "draw" and line["result"] in ("posted", "rejected")
            and line["result"] != by_key.get(line["key"])]  # fmt: skip
    return [
        count_check("credits of the hot account, in minor units", AMOUNT_MINOR * len(credits), credited),
        count_check("draws of the account with a floor that were posted", funds // AMOUNT_MINOR, posted),
        Check("why the others were rejected", short, ", ".join(sorted(reasons)), reasons == {short}),
        Check("its lowest balance, in minor units", ">= 0", f"{lowest:,}", lowest >= 0),
        count_check("its balance at the end", 0, held),
        none_check("draws that the API and the journal tell differently", lies),
        Check("looks at its balance", "> 0", f"{looks:,}", looks > 0),
    ]  # fmt: skip


def _walk(records: Sequence[Record], account: str) -> tuple[int, int, int]:
    """Return the account's last balance, its lowest balance and its funds, on the credit side. Funds precede draws."""
    moves = [
        (direction == "debit", record.lane, record.seq, amount_minor)
        for record in records
        for address, direction, amount_minor in record.legs
        if address == account
    ]
    balance = lowest = funds = 0
    for is_debit, _, _, amount_minor in sorted(moves):
        balance += -amount_minor if is_debit else amount_minor
        funds += 0 if is_debit else amount_minor
        lowest = min(lowest, balance)
    return balance, lowest, funds
