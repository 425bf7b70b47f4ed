"""What the bodies of several routes have in common: legs, and amounts as people read them.

Each body has a model, which documents it, and a function that makes it as a plain dict, which costs less.
"""

from typing import Any, Literal

from pydantic import BaseModel, Field

from domain.intents import DIRECTION_NAMES, Leg
from domain.money import get_exponent, to_decimal

Units = dict[str, int]
"""A tenant's registered units with their exponents."""
Side = Literal["debit", "credit"]
AccountClass = Literal["asset", "liability", "equity", "income", "expense"]


class LegView(BaseModel):
    """A leg as posted."""

    account: str
    direction: Side
    amount_minor: int = Field(description="Count of minor units.")
    amount: str | None = Field(None, description="amount_minor as text, with the currency's decimals.")
    currency: str


def format_decimal(amount_minor: int, currency: str, units: Units) -> str | None:
    """Return the amount with its currency's decimals, such as 12.50; None if the currency is not known (any more)."""
    return _format_amount(amount_minor, get_exponent(currency, units))


def _format_amount(amount_minor: int, exponent: int | None) -> str | None:
    return None if exponent is None else format(to_decimal(amount_minor, exponent), "f")


def make_amounts(currency: str, units: Units, **amounts_minor: int) -> dict[str, Any]:
    """Return each amount twice: `<name>_minor` in minor units, and `<name>` with the currency's decimals."""
    exponent = get_exponent(currency, units)
    view: dict[str, Any] = {f"{name}_minor": amount_minor for name, amount_minor in amounts_minor.items()}
    for name, amount_minor in amounts_minor.items():
        view[name] = _format_amount(amount_minor, exponent)
    return view


def make_leg_view(leg: Leg, units: Units) -> dict[str, Any]:
    """Return a leg as JSON."""
    return {
        "account": leg.account,
        "direction": DIRECTION_NAMES[leg.direction],
        "amount_minor": leg.amount_minor,
        "amount": format_decimal(leg.amount_minor, leg.currency, units),
        "currency": leg.currency,
    }
