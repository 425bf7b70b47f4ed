"""`ledgerline keys`: make, list and revoke API keys, as an operator."""

import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from cli.arguments import find_user_name
from cli.context import find_running_ledger
from cli.output import Json, complain, say, show_json, show_rows
from db.access import AccessError, Scope, add_key, list_keys, revoke_key
from db.connections import connect

app = typer.Typer(help="API keys: bearer tokens with scopes, for one tenant each.", no_args_is_help=True)

EXPIRES_DAYS_MAX: Final = 36_525
"""A hundred years."""

Scopes = Annotated[
    list[Scope] | None,
    typer.Option("--scope", help="A scope of the key; repeat it for more. The command asks if it is left out."),
]

MEANINGS: Final = {
    Scope.INTENTS_WRITE: "post intents",
    Scope.INTENTS_READ: "ask what became of intents",
    Scope.ACCOUNTS_READ: "read accounts, balances, entries, statements and reports",
    Scope.JOURNAL_READ: "read the journal, proofs and the console's events",
    Scope.SCHEDULES_WRITE: "make, change and end schedules",
    Scope.SCHEDULES_READ: "read schedules and their occurrences",
    Scope.OPERATIONS_READ: "see all tenants' sums and breaks; for operators",
    Scope.WEBHOOKS_READ: "see webhooks and their deliveries",
    Scope.WEBHOOKS_WRITE: "add, change, test and replay webhooks",
}


def parse_scopes(answer: str) -> list[Scope]:
    """Return the scopes that a person typed, separated by spaces or commas; raise AccessError for none or unknown."""
    names = answer.replace(",", " ").split()
    unknown = [name for name in names if name not in list(Scope)]
    if unknown or not names:
        what = f"{unknown[0]!r} is no scope" if unknown else "A key without a scope can do nothing"
        raise AccessError(f"{what}: name some of {', '.join(Scope)}.")
    return [Scope(name) for name in names]


def _choose_scopes(given: list[Scope] | None) -> list[Scope]:
    """Return the scopes of the options, else those that a person types at a terminal; there are no default scopes."""
    if given:
        return given
    if sys.stdin is None or not sys.stdin.isatty():
        raise AccessError(
            "Name the key's scopes, one --scope for each: "
            f"{', '.join(Scope)}. A service that posts needs intents:write, and intents:read to ask later."
        )
    complain("What may the key do? Name one scope or more, with spaces between them:")
    for scope, meaning in MEANINGS.items():
        complain(f"  {scope.value:<16} {meaning}")
    return parse_scopes(typer.prompt("Scopes", err=True))


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What the key is for, such as checkout.")],
    tenant: Annotated[str, typer.Option(help="The tenant whose books the key opens.")] = "default",
    scope: Scopes = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="The key's own rate limit.")] = None,
    expires_days: Annotated[
        float | None, typer.Option(min=0, help="The key expires after so many days; never if left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key with the scopes that you name. The key is shown only now; the database keeps its hash."""
    expires_time = None if expires_days is None else _compute_time_in(expires_days)
    scopes, author = _choose_scopes(scope), find_user_name()
    with connect(find_running_ledger().postgres_dsn, "ledgerline_operator", autocommit=True) as connection:
        key_id, key = add_key(connection, tenant, name, scopes, requests_per_minute, expires_time, done_by=author)
    names = sorted(set(scopes))
    if as_json:
        show_json({"key_id": key_id, "key": key, "tenant": tenant, "scopes": names})
        return
    say(f"Key {key_id} of tenant {tenant} may {', '.join(names)}; keep it now, it is not shown again:")
    say(key)


def _compute_time_in(days: float) -> datetime:
    if days > EXPIRES_DAYS_MAX:
        raise typer.BadParameter(
            f"a key may last {EXPIRES_DAYS_MAX:,} days at most; leave it out for one that never ends.",
            param_hint="--expires-days",
        )
    return datetime.now(UTC) + timedelta(days=days)


@app.command("list")
def list_all(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None, as_json: Json = False
) -> None:
    """List all keys, revoked and expired ones too, without their secrets."""
    with connect(find_running_ledger().postgres_dsn, "ledgerline_operator", autocommit=True) as connection:
        rows = [row | {"scopes": " ".join(row["scopes"])} for row in list_keys(connection, tenant)]
    show_rows("API keys", rows, as_json=as_json)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The part between the two underscores, as `list` shows it.")],
    as_json: Json = False,
) -> None:
    """Revoke a key for good; running API processes notice within seconds."""
    with connect(find_running_ledger().postgres_dsn, "ledgerline_operator", autocommit=True) as connection:
        revoke_key(connection, key_id, done_by=find_user_name())
    if as_json:
        show_json({"key_id": key_id, "revoked": True})
    else:
        say(f"Key {key_id} is revoked.")
