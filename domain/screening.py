"""The rules for an intent that do not depend on balances: first its shape, then the tenant's currencies and chart.

Each function named *_refusal returns the first Refusal in the order of domain.outcomes.Reason, or None.
"""

from collections.abc import Sequence
from typing import NamedTuple

from domain.chart import Chart
from domain.intents import (
    ADDRESS_CHARACTERS_MAX,
    AMOUNT_MINOR_MAX,
    CREDIT,
    DEBIT,
    KEY_CHARACTERS_MAX,
    LEGS_MAX,
    METADATA_ENTRIES_MAX,
    METADATA_KEY_PATTERN,
    METADATA_VALUE_CHARACTERS_MAX,
    REFERENCE_CHARACTERS_MAX,
    TENANT_CHARACTERS_MAX,
    TENANT_PATTERN,
    VALUE_TIME_MAX,
    VALUE_TIME_MIN,
    Intent,
    Leg,
    compute_intent_number,
    is_address,
)
from domain.money import find_minor_unit_fault, get_exponent
from domain.outcomes import Reason

_SHOWN_CHARACTERS_MAX = 80
_SIDES = (DEBIT, CREDIT)


class Refusal(NamedTuple):
    """A reason of the closed list, and one sentence for people."""

    reason: Reason
    detail: str


def make_shown(text: str) -> str:
    """Make outside text fit for a sentence: quoted, in ASCII, cut after _SHOWN_CHARACTERS_MAX characters."""
    return ascii(text if len(text) <= _SHOWN_CHARACTERS_MAX else text[:_SHOWN_CHARACTERS_MAX] + "...")


def find_key_fault(idempotency_key: str) -> str | None:
    """Return a sentence that says why the idempotency key is not valid; None if it is valid."""
    if not 0 < len(idempotency_key) <= KEY_CHARACTERS_MAX or "\x00" in idempotency_key:
        return f"The idempotency key must have 1 to {KEY_CHARACTERS_MAX} characters and no NUL."
    return None


def find_identity_fault(intent: Intent) -> str | None:
    """Return a sentence that says why tenant, key and id do not identify the intent; None if they do."""
    if len(intent.tenant) > TENANT_CHARACTERS_MAX or not TENANT_PATTERN.fullmatch(intent.tenant):
        return f"The tenant {make_shown(intent.tenant)} is no tenant's name."
    key = intent.idempotency_key
    fault = find_key_fault(key)
    if fault is not None:
        return fault
    if intent.intent_id.int != compute_intent_number(intent.tenant, key):
        return f"The intent id {intent.intent_id} does not follow from its tenant and idempotency key."
    return None


def _find_text_fault(intent: Intent) -> str | None:
    reference, metadata = intent.reference, intent.metadata
    if reference is not None and (len(reference) > REFERENCE_CHARACTERS_MAX or "\x00" in reference):
        return f"The reference must have at most {REFERENCE_CHARACTERS_MAX} characters and no NUL."
    if len(metadata) > METADATA_ENTRIES_MAX:
        return f"There are more than {METADATA_ENTRIES_MAX} metadata entries."
    for key, value in metadata.items():
        if not METADATA_KEY_PATTERN.fullmatch(key):
            return f"The metadata key {make_shown(key)} must have 1 to 64 letters, digits, and _ . : -."
        if len(value) > METADATA_VALUE_CHARACTERS_MAX or "\x00" in value:
            return (
                f"The metadata value of {key} must have at most {METADATA_VALUE_CHARACTERS_MAX} characters and no NUL."
            )
    return None


def _find_type_fault(intent: Intent) -> str | None:
    if intent.type == "reversal" and intent.reverses is None:
        return "A reversal must say which intent it reverses."
    if intent.type == "transfer" and intent.reverses is not None:
        return "A transfer reverses nothing: leave `reverses` out, or make it a reversal."
    for account, direction, _, _ in intent.legs:
        if direction not in _SIDES:
            return "Each leg must be a debit or a credit."
        if not is_address(account):
            return (
                f"The account {make_shown(account)} is no address: it must have at most {ADDRESS_CHARACTERS_MAX}"
                " characters, in segments of A-Z, a-z, 0-9, - and _ that colons join, such as users:42:wallet."
            )
    return None


def refuse_legs(legs: Sequence[Leg]) -> Refusal | None:
    """Refuse legs if an amount is out of range or if debits and credits differ in a currency."""
    sums: dict[str, int] = {}
    for _, direction, amount_minor, currency in legs:
        if not 0 < amount_minor <= AMOUNT_MINOR_MAX:
            return Refusal(Reason.INVALID_AMOUNT, f"An amount must be from 1 to {AMOUNT_MINOR_MAX} minor units.")
        sums[currency] = sums.get(currency, 0) + direction * amount_minor
    for currency, difference in sums.items():
        if difference:
            side = "Debits" if difference > 0 else "Credits"
            return Refusal(
                Reason.UNBALANCED, f"{side} in {make_shown(currency)} are {abs(difference)} minor units too many."
            )
    return None


def refuse_shape(intent: Intent) -> Refusal | None:
    """Refuse an intent for what is wrong without a look at the books; the API checks the same before it accepts one."""
    fault = _find_text_fault(intent) or _find_type_fault(intent)
    if fault is not None:
        return Refusal(Reason.MALFORMED, fault)
    if intent.type not in ("transfer", "reversal"):
        return Refusal(Reason.UNSUPPORTED_TYPE, f"Intents of type {make_shown(intent.type)} are not supported.")
    leg_count = len(intent.legs)
    if leg_count < 2 and (intent.type == "transfer" or leg_count == 1):
        return Refusal(Reason.NO_LEGS, "At least two legs are needed: a debit and a credit.")
    if leg_count > LEGS_MAX:
        return Refusal(Reason.TOO_MANY_LEGS, f"There are {leg_count} legs; the limit is {LEGS_MAX}.")
    refusal = refuse_legs(intent.legs)
    if refusal is not None:
        return refusal
    value_time = get_value_time(intent)
    if value_time is not None and not VALUE_TIME_MIN <= value_time < VALUE_TIME_MAX:
        return Refusal(Reason.VALUE_TIME_OUT_OF_RANGE, "The value time must lie in the years 1900 to 2199.")
    return None


def get_value_time(intent: Intent) -> int | None:
    """Return the value time that was asked for, else the time of acceptance; microseconds since 1970.

    Return None if the intent has neither: then it takes effect when it is booked. A time of acceptance of 0 counts as
    missing, because 0 is the schema's default.
    """
    if intent.value_time is not None:
        return intent.value_time
    return intent.accepted_time or None


def refuse_by_books(legs: Sequence[Leg], chart: Chart, units: dict[str, int]) -> Refusal | None:
    """Refuse legs if the books lack a currency or an account, or if the chart forbids the currency in the account."""
    for leg in legs:
        if get_exponent(leg.currency, units) is None:
            return Refusal(Reason.UNKNOWN_CURRENCY, _make_unknown_currency_sentence(leg.currency, units))
    refusal = None
    for account, _, _, currency in legs:
        line = chart.match(account)
        if line is None:
            return Refusal(
                Reason.UNKNOWN_ACCOUNT, f"No pattern of the chart matches the account {make_shown(account)}."
            )
        if refusal is None and line.currencies is not None and currency not in line.currencies:
            refusal = Refusal(
                Reason.CURRENCY_NOT_ALLOWED, f"The chart does not allow {currency} in {make_shown(account)}."
            )
    return refusal


def find_currency_fault(legs: Sequence[Leg], units: dict[str, int]) -> str | None:
    """Why a currency of the legs is none whatever may be registered, in a sentence; None if the books must decide."""
    for leg in legs:
        fault = find_minor_unit_fault(leg.currency)
        if fault is not None and leg.currency not in units:  # An early release took XAU for a unit's code.
            return f"{leg.currency} {fault}"
    return None


def _make_unknown_currency_sentence(code: str, units: dict[str, int]) -> str:
    fault = find_minor_unit_fault(code)
    if fault is not None:
        return f"{code} {fault}"
    capitals = code.upper()
    if get_exponent(capitals, units) is not None:
        return f"{make_shown(code)} is no currency: write it in capital letters, {capitals}."
    return f"{make_shown(code)} is neither an ISO 4217 code nor a registered unit."
