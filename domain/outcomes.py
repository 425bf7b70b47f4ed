"""The closed list of what can happen to an intent, in the order in which posting checks.

The first one that applies is the result. docs/OUTCOMES.md documents each, and a test fails if one is missing there.
"""

from enum import StrEnum


class Outcome(StrEnum):
    """The fate of one offset of a lane."""

    QUARANTINED = "quarantined"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
    POSTED = "posted"


class QuarantineReason(StrEnum):
    """Why an offset has no intent that can be decoded and decided, in order of precedence."""

    NO_RECORD = "no_record"
    EMPTY = "empty"
    BAD_MAGIC = "bad_magic"
    UNKNOWN_SCHEMA = "unknown_schema"
    WRONG_SCHEMA = "wrong_schema"
    UNDECODABLE = "undecodable"
    IDENTITY_MISMATCH = "identity_mismatch"
    UNKNOWN_TENANT = "unknown_tenant"
    POISON = "poison"


class Reason(StrEnum):
    """Why an intent was rejected, in order of precedence."""

    MALFORMED = "malformed"
    UNSUPPORTED_TYPE = "unsupported_type"
    NO_LEGS = "no_legs"
    TOO_MANY_LEGS = "too_many_legs"
    INVALID_AMOUNT = "invalid_amount"
    UNBALANCED = "unbalanced"
    VALUE_TIME_OUT_OF_RANGE = "value_time_out_of_range"
    UNKNOWN_CURRENCY = "unknown_currency"
    UNKNOWN_ACCOUNT = "unknown_account"
    CURRENCY_NOT_ALLOWED = "currency_not_allowed"
    ORIGINAL_NOT_FOUND = "original_not_found"
    ORIGINAL_NOT_REVERSIBLE = "original_not_reversible"
    REVERSAL_EXCEEDS_ORIGINAL = "reversal_exceeds_original"
    AMOUNT_OVERFLOW = "amount_overflow"
    INSUFFICIENT_FUNDS = "insufficient_funds"
