"""Parameters: those that several routes have, the names that a route knows, and a sentence for each invalid value."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from fastapi import Path, Query, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from api.nearest import find_nearest
from api.problems import Kind, Problem
from api.times import PATTERN, explain, from_rfc3339
from domain.intents import ADDRESS_CHARACTERS_MAX, ADDRESS_PATTERN

Address = Annotated[
    str,
    Path(
        description="The account's address, such as users:42:wallet.",
        json_schema_extra={"pattern": f"^{ADDRESS_PATTERN.pattern}$"},
    ),
]
Currency = Annotated[
    str, Query(pattern=r"^[A-Z][A-Z0-9._-]{0,23}$", description="ISO 4217 code or registered unit.", examples=["EUR"])
]
Moment = Annotated[
    str | None,
    # The schema only documents the pattern. `parse_moment` checks the text, and explains a fault in a sentence.
    Query(
        description="A time by RFC 3339, with an offset.",
        examples=["2026-01-31T12:00:00Z"],
        json_schema_extra={"format": "date-time", "pattern": PATTERN},
    ),
]

_NAME_CHARACTERS_SHOWN_MAX: Final = 60

_PATTERNS: Final = {
    "currency": "is a currency or a registered unit in capitals, such as EUR or BTC",
    "prefix": "is the beginning of an address: letters, digits, and the signs _ : and -, such as users:42:",
}
_FAULTS: Final = {
    "missing": "is missing: this list needs it",
    "int_parsing": "is a whole number, such as 100",
    "int_from_float": "is a whole number, such as 100",
    "uuid_parsing": "is an id as answered when the intent was posted, such as 01890a5d-ac96-774b-bcce-b302099a8057",
    "string_pattern_mismatch": "has characters that are not taken here",
}


def require_known(request: Request) -> None:
    """Raise Problem if a query has a name that the route does not know, or has a name twice.

    If a misspelt filter were ignored, the answer would hold rows that the caller did not ask for.
    """
    known = list_known_names(request.scope.get("route"))
    given = Counter(name for name, _ in request.query_params.multi_items())
    for name, count in given.items():
        shown = name[:_NAME_CHARACTERS_SHOWN_MAX]
        if name not in known:
            nearest = find_nearest(shown, known)
            if nearest is not None:
                advice = f"is {nearest} meant?"
            elif known:
                advice = f"there are {', '.join(known)}."
            else:
                advice = "this address takes none."
            problem = Problem(
                Kind.UNKNOWN_PARAMETER, f"There is no parameter {shown!r} here: {advice}", parameter=shown
            )
            if nearest is not None:
                problem.members["nearest"] = nearest
            raise problem
        if count > 1:
            raise Problem(
                Kind.BAD_REQUEST, f"The parameter {name} is given {count} times: give it once.", parameter=name
            )


def list_known_names(route: BaseRoute | None) -> tuple[str, ...]:
    """Return the names that a route's query may have. Endpoints that are called without FastAPI take none."""
    if not isinstance(route, APIRoute):
        return ()
    return tuple(_list_names(route.dependant))


def _list_names(dependant: Dependant) -> list[str]:
    below = [name for inner in dependant.dependencies for name in _list_names(inner)]
    return [field.alias for field in dependant.query_params] + below


def describe_fault(error: Mapping[str, Any]) -> dict[str, str]:
    """Return one of FastAPI's errors as the parameter's name and a sentence that says which values are valid."""
    place = [str(part) for part in error["loc"]]
    name, kind = place[-1], str(error["type"])
    what = _PATTERNS.get(name) if kind == "string_pattern_mismatch" else None
    if name == "currency" and kind == "string_pattern_mismatch" and str(error.get("input", "")).isalpha():
        what = "is written in capitals, such as EUR"
    if kind in ("enum", "literal_error"):
        what = f"is one of {error['ctx']['expected']}"
    what = what or _FAULTS.get(kind)
    message = str(error["msg"])
    told = what or f"cannot be taken: {message[:1].lower()}{message[1:]}"
    return {"parameter": ".".join(place), "detail": f"The parameter {name} {told}."}


def make_invalid_problem(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """Return the problem that lists FastAPI's errors; its detail is the sentence of the first."""
    faults = [describe_fault(error) for error in errors]
    more = f" {len(faults) - 1} more in `errors`." if len(faults) > 1 else ""
    return Problem(Kind.INVALID_REQUEST, faults[0]["detail"] + more, errors=faults)


def check_address(address: str) -> str:
    """Return the address of an account. Raise Problem if no account can have it."""
    if len(address) > ADDRESS_CHARACTERS_MAX or not ADDRESS_PATTERN.fullmatch(address):
        raise make_not_open_problem(address)
    return address


def make_not_open_problem(address: str) -> Problem:
    """Return the problem for an address without an open account."""
    return Problem(
        Kind.ACCOUNT_NOT_FOUND,
        "No account is open at this address; one opens with the first intent posted to it.",
        address=address[:ADDRESS_CHARACTERS_MAX],
    )


def parse_moment(text: str | None, name: str) -> int | None:
    """Return the parameter `name` in microseconds since 1970 UTC; None if it is not given.

    Raise Problem, with an example, if the text is not a date-time.
    """
    if text is None:
        return None
    try:
        return from_rfc3339(text)
    except ValueError as error:
        detail = f"The parameter {name} {explain(text)}."
        faults = [{"parameter": f"query.{name}", "detail": detail}]
        raise Problem(Kind.INVALID_REQUEST, detail, errors=faults) from error


def parse_period(since: str | None, until: str | None) -> tuple[int | None, int | None]:
    """Return both moments. Raise Problem if the period ends before it begins, as that would always show no rows."""
    begin, end = parse_moment(since, "since"), parse_moment(until, "until")
    if begin is not None and end is not None and begin > end:
        raise Problem(
            Kind.BAD_REQUEST,
            f"The period ends before it begins: since ({since}) is later than until ({until}). Change them round?",
            parameter="since",
        )
    return begin, end
