"""The rules of reconciliation, as pure functions: each returns sentences that say what is wrong."""

from hashlib import sha256
from typing import Final

from db.reconciliation import FaultyRow, Reversed, Settled, ShardPair, SideKey
from domain.intents import DIRECTIONS, KEY_CHARACTERS_MAX, TENANT_CHARACTERS_MAX, TENANT_PATTERN, compute_intent_number
from domain.outcomes import Outcome, QuarantineReason, Reason
from streams.proof.records.canonical import compute_intent_fingerprint, make_plain_uuid, parse_uuid_number
from streams.proof.records.decoding import IntentRecord, JournalRecord, Unreadable

Asked = IntentRecord | Unreadable
"""The intent at a record's source offset, or why no intent can be read there."""

# A tenant's row holds the time at which its transaction began. Other transactions see the row only after COMMIT.
TENANT_GRACE_MICROSECONDS: Final = 60_000_000

_WITHOUT_MESSAGE: Final = (QuarantineReason.NO_RECORD.value, QuarantineReason.EMPTY.value)
_WITHOUT_TEXT: Final = (Reason.MALFORMED.value, Reason.UNSUPPORTED_TYPE.value)
OUTCOME_NAMES: Final = ("posted", "duplicate", "idempotency_conflict", "rejected", "quarantined")
_POSTED: Final = Outcome.POSTED.value
_REJECTED: Final = Outcome.REJECTED.value


def check_symmetry(record: JournalRecord) -> list[str]:
    """Check that a posted record's debits equal its credits in each currency, and that any other record has no legs."""
    legs = record["legs"]
    if record["outcome"] != _POSTED:
        return [f"It is {record['outcome']} and yet has {len(legs)} legs."] if legs else []
    if not legs:
        return ["It is posted and yet moves nothing."]
    sums: dict[str, int] = {}
    wrong = []
    for leg in legs:
        amount_minor, direction = leg["amount_minor"], DIRECTIONS.get(leg["direction"], 0)
        if amount_minor <= 0 or not direction:
            wrong.append(f"A leg is a {leg['direction']} of {amount_minor} minor units.")
        sums[leg["currency"]] = sums.get(leg["currency"], 0) + direction * amount_minor
    wrong += [
        f"Debits less credits in {currency} are {difference}, not 0."
        for currency, difference in sums.items()
        if difference
    ]
    return wrong


def find_identity_fault(intent: IntentRecord) -> str | None:
    """Return why tenant, key and id do not identify the intent; None if they do."""
    tenant, key = intent["tenant"], intent["idempotency_key"]
    if len(tenant) > TENANT_CHARACTERS_MAX or not TENANT_PATTERN.fullmatch(tenant):
        return "its tenant is no tenant's name"
    if not 0 < len(key) <= KEY_CHARACTERS_MAX or "\x00" in key:
        return "its idempotency key has no allowed form"
    if parse_uuid_number(intent["intent_id"]) != compute_intent_number(tenant, key):
        return "its id does not follow from tenant and key"
    return None


def check_readable(intent: IntentRecord) -> Asked:
    """Return the intent, or Unreadable (undecodable) if Avro decoded it but one of its ids is no UUID."""
    try:
        if intent["reverses"] is not None:
            make_plain_uuid(intent["reverses"])
        make_plain_uuid(intent["intent_id"])
    except ValueError:
        return Unreadable(QuarantineReason.UNDECODABLE, "An id is no UUID.")
    return intent


def check_quarantine(record: JournalRecord, value: bytes | None, asked: Asked) -> list[str]:
    """Check that the bytes at a quarantined offset cannot be decoded or decided, and that the record has their hash."""
    wrong = []
    if record["fingerprint"] != sha256(value or b"").digest():
        wrong.append("Its fingerprint is not that of the bytes at its offset.")
    if record["tenant"] is not None or record["intent_id"] is not None or record["type"] is not None:
        wrong.append("It is quarantined and yet names an intent.")
    reason = record["reason"]
    if isinstance(asked, Unreadable):
        # The schema may have been unknown to posting and be known now. The bytes hold no intent in either case.
        if reason not in (asked.reason.value, QuarantineReason.UNKNOWN_SCHEMA.value, QuarantineReason.POISON.value):
            wrong.append(f"It is quarantined as {reason}, but its bytes are {asked.reason.value}.")
    elif reason == QuarantineReason.IDENTITY_MISMATCH.value:
        if find_identity_fault(asked) is None:
            wrong.append("It is quarantined for its identity, which is as it should be.")
    elif reason not in (QuarantineReason.UNKNOWN_TENANT.value, QuarantineReason.POISON.value):
        wrong.append(f"It is quarantined as {reason}, but its bytes are an intent.")
    return wrong


def check_absence(record: JournalRecord) -> list[str]:
    """Check that the record of an offset without a committed message says so; release 0.1.0 gave the reason `empty`."""
    offset = record["source_offset"]
    if record["outcome"] != Outcome.QUARANTINED.value or record["reason"] not in _WITHOUT_MESSAGE:
        return [f"payments.intents has no message at offset {offset}."]
    if record["fingerprint"] != sha256(b"").digest() or record["tenant"] is not None or record["legs"]:
        return [f"payments.intents has no message at offset {offset}, and yet the record holds something."]
    return []


def check_faithfulness(record: JournalRecord, asked: Asked) -> list[str]:
    """Check that the record holds what the intent asked. This applies to every outcome except quarantined."""
    if isinstance(asked, Unreadable):
        return [f"It is {record['outcome']}, but no intent can be read at its offset: {asked.reason.value}."]
    fault = find_identity_fault(asked)
    if fault is not None:
        return [f"It is {record['outcome']}, but the intent at its offset should be quarantined: {fault}."]
    wrong = []
    outcome = record["outcome"]
    if record["tenant"] != asked["tenant"] or record["idempotency_key"] != asked["idempotency_key"]:
        wrong.append("Its tenant or idempotency key is not the intent's.")
    if record["intent_id"] != asked["intent_id"] and record["intent_id"] != make_plain_uuid(asked["intent_id"]):
        wrong.append("Its intent id is not the intent's.")
    if record["type"] != asked["type"]:
        wrong.append(f"Its type is {record['type']}, the intent's {asked['type']}.")
    if record["fingerprint"] != compute_intent_fingerprint(asked):
        wrong.append("Its fingerprint is not that of the intent.")
    if outcome == _POSTED and record["legs"] != asked["legs"] and (asked["legs"] or asked["type"] != "reversal"):
        wrong.append("Its legs are not those that the intent asks.")
    return wrong + _check_kept_text(record, asked)


def _check_kept_text(record: JournalRecord, asked: IntentRecord) -> list[str]:
    """Check the reference, metadata, original and value time that the record keeps from the intent.

    A posted or rejected record keeps them, unless it was rejected as malformed or as an unsupported type. Every other
    record keeps none of them. Only a posted record has a value time.
    """
    wrong = []
    is_posted = record["outcome"] == _POSTED
    is_kept = is_posted or (record["outcome"] == _REJECTED and record["reason"] not in _WITHOUT_TEXT)
    if record["reference"] != (asked["reference"] if is_kept else None):
        wrong.append("Its reference is not the intent's.")
    if record["metadata"] != (asked["metadata"] if is_kept else {}):
        wrong.append("Its metadata are not the intent's.")
    reverses = asked["reverses"] if is_kept else None
    if record["reverses"] != reverses and (reverses is None or record["reverses"] != make_plain_uuid(reverses)):
        wrong.append("It does not reverse what the intent reverses.")
    if record["value_time"] not in (_list_value_times(record, asked) if is_posted else (None,)):
        wrong.append("Its value time is not the intent's.")
    return wrong


def _list_value_times(record: JournalRecord, asked: IntentRecord) -> tuple[int, ...]:
    """Return the value times that a posted record may have: the one asked, else that of acceptance, else of booking."""
    if asked["value_time"] is not None:
        return (asked["value_time"],)
    if asked["accepted_time"]:
        return (asked["accepted_time"],)
    return (record["booked_time"], 0)  # release 0.1.0 writes 0, also while its workers are being replaced


def check_settlement(record: JournalRecord, settled: Settled | None) -> list[str]:
    """Check that an earlier row settled the intent.

    The row must have the same fingerprint as a duplicate, and another fingerprint than a conflict.
    """
    outcome = record["outcome"]
    if settled is None or (settled.lane == record["lane"] and settled.seq >= record["seq"]):
        return [f"It is a {outcome}, but no earlier row settles its intent."]
    is_same = settled.fingerprint == record["fingerprint"]
    if is_same != (outcome == Outcome.DUPLICATE.value):
        body = "the same" if is_same else "another"
        return [f"It is a {outcome}, but lane {settled.lane} seq {settled.seq} settled its key with {body} body."]
    return []


def check_reversal(record: JournalRecord, takes_all: bool, moved: Reversed | None) -> list[str]:
    """Check that a posted reversal mirrors its original, and that all reversals take back no more than it moved.

    `takes_all`: the intent named no legs, so nothing may be left to reverse after it.
    """
    if moved is None:
        return ["It reverses what is no posted transfer."]
    wrong = []
    sides: set[SideKey] = {
        (leg["account"], -DIRECTIONS.get(leg["direction"], 0), leg["currency"]) for leg in record["legs"]
    }
    for account, direction, currency in sorted(sides):
        there = moved.original.get((account, direction, currency), 0)
        taken = moved.taken.get((account, direction, currency), 0)
        if taken > there:
            wrong.append(
                f"Reversals take {taken} minor units of {currency} of {account} back, of {there} that were moved."
            )
    if takes_all and moved.taken != moved.original:
        wrong.append("It should reverse all that was left, and left something.")
    return wrong


def check_unknown_tenant(record: JournalRecord, made_time: int | None) -> list[str]:
    """Check that the books did not have the tenant, or got it later. Times are in microseconds since 1970."""
    if made_time is not None and made_time < record["booked_time"] - TENANT_GRACE_MICROSECONDS:
        return ["It is quarantined as its tenant was unknown, but the books had it."]
    return []


def check_shard(pair: ShardPair) -> str | None:
    """Return what is wrong with a ledger shard; None if both sides are equal, or if the ledger has a newer record.

    Each side has the seq of the last record that touched the shard. The ledger commits before the topic is written, so
    the ledger may be ahead, but never behind. If reconciliation has passed the ledger's seq, both seqs must be equal.
    """
    own, held = pair.own, pair.held
    if held is not None and (own is None or held.seq > own.seq):
        if held.seq >= pair.next_seq:
            return None
        last = "nothing" if own is None else f"seq {own.seq} last"
        return f"The ledger's shard was touched by seq {held.seq}, but by the journal {last} touched it."
    if own is None:
        return None
    if held is None:
        return f"The ledger has no shard, but the journal moved {_format_sides(own.debits_minor, own.credits_minor)}."
    if held.seq < own.seq:
        return f"The ledger's shard stands at seq {held.seq}, but seq {own.seq} touched it."
    if (held.debits_minor, held.credits_minor) != (own.debits_minor, own.credits_minor):
        return (
            f"The ledger holds {_format_sides(held.debits_minor, held.credits_minor)} at seq {held.seq},"
            f" the journal adds up to {_format_sides(own.debits_minor, own.credits_minor)}."
        )
    return None


def is_shard_proved(pair: ShardPair) -> bool:
    """Return whether both sides are equal at the same record. Only that resolves a break: a newer shard is no proof."""
    return pair.own == pair.held


def describe_faulty_row(row: FaultyRow) -> str:
    """Return what is wrong with a journal row of the ledger and its entries."""
    if not row.has_row:
        return "The ledger has no journal row here" + (f", but {row.entry_count} entries." if row.entry_count else ".")
    if row.leg_count != row.entry_count:
        return f"The journal row has {row.leg_count} legs, but {row.entry_count} entries are there."
    return "The entries do not balance."


def is_outcome_known(record: JournalRecord) -> bool:
    """Return whether the outcome is in the closed list."""
    return record["outcome"] in OUTCOME_NAMES


def _format_sides(debits_minor: int, credits_minor: int) -> str:
    return f"debits of {debits_minor} and credits of {credits_minor} minor units"
