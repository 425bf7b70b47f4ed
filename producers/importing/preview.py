"""The preview of an import: how a file was read, before anything is posted. Pure."""

from collections import defaultdict
from decimal import Decimal
from typing import Any

from domain.money import to_decimal
from producers.importing.importer import Prepared
from producers.importing.model import format_plain_decimal, format_rfc3339


def describe(prepared: Prepared) -> dict[str, Any]:
    """Describe how the file was read, each row as it would be posted, the refused rows with reasons, and the totals."""
    intents = prepared.mapped.intents
    exponents = prepared.plan.exponents

    def amount(signed_minor: int, currency: str) -> str:
        return format(to_decimal(signed_minor, exponents[currency]), "f")

    totals: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for intent in intents:
        for leg in intent.legs:
            totals[leg.account, leg.currency][0 if leg.direction > 0 else 1] += leg.amount_minor
    times = [intent.value_time for intent in intents]
    return {
        "understood": prepared.source.understood,
        "faults": [f"{fault.place}: {fault.sentence}" for fault in prepared.source.faults],
        "first_time": format_rfc3339(min(times)) if times else None,
        "last_time": format_rfc3339(max(times)) if times else None,
        "rows": [
            {
                "line": intent.place.line,
                "value_time": format_rfc3339(intent.value_time),
                "reference": intent.reference,
                "legs": [
                    {
                        "account": leg.account,
                        "amount": amount(leg.direction * leg.amount_minor, leg.currency),
                        "currency": leg.currency,
                    }
                    for leg in intent.legs
                ],
                "idempotency_key": intent.idempotency_key,
            }
            for intent in intents
        ],
        "refused": [
            {"line": problem.place.line, "sentence": problem.sentence}
            for problem in prepared.problems
            if problem not in prepared.source.faults
        ],
        "without_money": dict(prepared.source.without_money),
        "units": prepared.plan.unregistered,
        "rounded": {
            f"{account} {currency}": format_plain_decimal(by or Decimal(0))
            for (account, currency), by in sorted(prepared.mapped.rounded.items())
            if by
        },
        "totals": [
            {
                "account": account,
                "currency": currency,
                "debits": amount(debits, currency),
                "credits": amount(credits, currency),
                "net": amount(debits - credits, currency),
            }
            for (account, currency), (debits, credits) in sorted(totals.items())
        ],
    }
