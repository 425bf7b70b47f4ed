"""`ledgerline up` and `ledgerline down`: start and stop all parts and services on this machine, in the background."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final
from urllib.parse import urlsplit, urlunsplit

import typer

from cli.addresses import find_addresses
from cli.arguments import find_user_name
from cli.context import find_api_key, make_console_url, read_settings, store_api_key
from cli.output import Json, complain, console, errors, make_shown, say, show_json
from cli.supervision import supervisor
from domain.errors import LedgerlineError
from ops.embedded.open_parts import open_parts
from ops.run_state import RunState

KEY_NAME: Final = "command line"
KEY_TENANT: Final = "default"

Instances = Annotated[
    list[str] | None,
    typer.Option("--instances", metavar="NAME=COUNT", help="Number of processes of a service, such as posting=2."),
]


def up(instances: Instances = None, as_json: Json = False) -> None:
    """Start Kafka, Postgres, the Schema Registry and all services; return when every one of them is ready.

    Parts that LEDGERLINE_KAFKA_BOOTSTRAP, LEDGERLINE_POSTGRES_DSN or LEDGERLINE_REGISTRY_URL name are used, not
    started. A stack that runs already is left as it is.
    """
    from cli.configuration.findings import refuse_errors  # noqa: PLC0415 - cryptography is loaded when it is needed
    from cli.configuration.rules import find_contradictions  # noqa: PLC0415

    settings = read_settings()
    refuse_errors(find_contradictions(settings))
    if settings.server_tls is not None:
        raise LedgerlineError(
            "`ledgerline up` serves only this machine, without TLS: unset LEDGERLINE_TLS_CERTIFICATE_FILE and"
            " LEDGERLINE_TLS_KEY_FILE, or run each service by `ledgerline service`."
        )
    started = time.monotonic()
    with open_reporter(quiet=as_json) as report:
        state = supervisor.start_run(settings.home, report, instances=_parse_counts(instances))
        key_made = ensure_api_key(state)
    if as_json:
        show_json(_list_addresses(state) | {"api_key_made": key_made, "open": open_parts(state)})
        return
    say(f" after {time.monotonic() - started:.1f} s.", "[bold green]Ledgerline is up[/]")
    found = _list_addresses(state)
    if state.api_url is not None and console.is_terminal:  # show the key only to a person, never in a file
        found["Console"] = make_console_url(state.api_url, find_api_key(settings))
    for name, where in found.items():
        say(f"  {name.replace('_', ' '):<22} {where}")
    if key_made:
        say("An API key for the command line was made and stored; no other user can read it.")
    if (told := open_parts(state)) is not None:
        say(told, "[yellow]![/] ")
    for line in (
        "",
        "Next:",
        "  ledgerline intents post --debit external:bank --credit users:1:wallet --amount 25 --currency EUR",
        "  ledgerline status --watch",
        "  ledgerline down",
    ):
        say(line)


def down(as_json: Json = False) -> None:
    """Stop the services, then the parts. Data stay; `make clean` removes them."""
    settings = read_settings()
    with open_reporter(quiet=as_json) as report:
        stopped = supervisor.stop_run(settings.home, report)
    if as_json:
        show_json({"stopped": stopped})


@contextmanager
def open_reporter(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Yield a function that reports progress on standard error: a line for each step, and a spinner at a terminal."""
    started = time.monotonic()
    if quiet:
        yield lambda _message: None
        return
    with errors.status("") as spinner:

        def report(message: str) -> None:
            complain(f" {message}", f"[dim]{time.monotonic() - started:5.1f} s[/]")
            spinner.update(make_shown(message))

        yield report


def _parse_counts(texts: list[str] | None) -> dict[str, int]:
    counts: dict[str, int] = {}
    for text in texts or ():
        name, _, count = text.partition("=")
        if not name or not count.isascii() or not count.isdigit():
            raise typer.BadParameter(f"{text!r} is no number of instances: write it as posting=2.")
        counts[name] = int(count)
    return counts


def ensure_api_key(state: RunState) -> bool:
    """Make and store the command line's key if there is no active one; return True if a key was made."""
    from db.access import Scope, add_key, list_keys  # noqa: PLC0415 - psycopg is loaded when it is needed
    from db.connections import connect  # noqa: PLC0415

    settings = read_settings()
    if settings.api_key is not None:
        return False
    dsn = find_addresses(settings, state).postgres_dsn
    if dsn is None:
        raise LedgerlineError(
            "The address of the stack's Postgres is unknown: run `ledgerline down`, then `ledgerline up`."
        )
    stored = find_api_key(settings)
    with connect(dsn, "ledgerline_operator", autocommit=True) as connection:
        active = {row["key_id"] for row in list_keys(connection, KEY_TENANT) if row["revoked_time"] is None}
        if stored is not None and stored.split("_")[1:2] and stored.split("_")[1] in active:
            return False
        _, key = add_key(connection, KEY_TENANT, KEY_NAME, list(Scope), done_by=find_user_name())
    store_api_key(settings.home, key)
    return True


def _list_addresses(state: RunState) -> dict[str, Any]:
    """Return the addresses of the parts and services, without the database's password."""
    found: dict[str, Any] = {}
    if state.api_url is not None:
        url = state.api_url
        found = {"API": url, "Console": make_console_url(url), "API_documents": f"{url}/docs"}
    if state.endpoints is not None:
        found |= {
            "Kafka": state.endpoints.kafka_bootstrap,
            "Postgres": mask_password(state.endpoints.postgres_dsn),
            "Schema_Registry": state.endpoints.registry_url,
        }
    found |= {
        f"{service.name}_metrics": f"{service.url}/metrics" for service in state.services if service.instance == 0
    }
    return {name: where for name, where in found.items() if where is not None}


def mask_password(dsn: str) -> str:
    """Return a DSN that may be shown, with stars for its password; a DSN that is no URI is not shown at all."""
    parts = urlsplit(dsn)
    if not parts.hostname:
        return "as LEDGERLINE_POSTGRES_DSN says"
    if parts.password is None:
        return dsn
    return urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@")))
