"""`ledgerline keys`: API keys, made and revoked by operators."""

import getpass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from db.access import Scope, add_key, list_keys, revoke_key
from db.connections import connect
from ops.cli.context import running_ledger
from ops.cli.output import Json, console, show_json, show_rows

app = typer.Typer(help="API keys: bearer tokens with scopes, for one tenant each.", no_args_is_help=True)

Scopes = Annotated[list[Scope] | None, typer.Option("--scope", help="What the key may do, once for each; all if none.")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What the key is for, such as checkout.")],
    tenant: Annotated[str, typer.Option(help="Whose books it opens.")] = "default",
    scope: Scopes = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="A rate limit of its own.")] = None,
    expires_days: Annotated[float | None, typer.Option(min=0, help="It ends after so many days; else never.")] = None,
    as_json: Json = False,
) -> None:
    """Make a key. It is shown this once; the database keeps only the hash of its secret."""
    with connect(running_ledger().postgres_dsn, "ledgerline_operator", autocommit=True) as connection:
        expires_time = None if expires_days is None else datetime.now(UTC) + timedelta(days=expires_days)
        scopes, author = scope or list(Scope), getpass.getuser()
        key_id, key = add_key(connection, tenant, name, scopes, requests_per_minute, expires_time, done_by=author)
    if as_json:
        show_json({"key_id": key_id, "key": key, "tenant": tenant, "scopes": sorted(scope or list(Scope))})
        return
    console.print(f"Key {key_id} of tenant {tenant}; keep it now, it is not shown again:", highlight=False)
    console.print(key, highlight=False, soft_wrap=True)


@app.command("list")
def list_all(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None, as_json: Json = False
) -> None:
    """List all keys, those that were revoked or expired too; never their secrets."""
    with connect(running_ledger().postgres_dsn, "ledgerline_operator", autocommit=True) as connection:
        rows = [row | {"scopes": " ".join(row["scopes"])} for row in list_keys(connection, tenant)]
    show_rows("API keys", rows, as_json=as_json)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The part between the two underscores, as `list` shows it.")],
    as_json: Json = False,
) -> None:
    """Revoke a key for good; running API processes notice within seconds."""
    with connect(running_ledger().postgres_dsn, "ledgerline_operator", autocommit=True) as connection:
        revoke_key(connection, key_id, done_by=getpass.getuser())
    if as_json:
        show_json({"key_id": key_id, "revoked": True})
    else:
        console.print(f"Key {key_id} is revoked.", highlight=False)
