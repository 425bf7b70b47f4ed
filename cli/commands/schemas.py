"""`ledgerline schemas`: the project's Avro schemas in the registry."""

import typer

from cli.context import read_settings
from cli.output import Json, complain, say, show_json, show_rows
from domain.errors import LedgerlineError
from ops.run_state import read_state
from producers.compatibility import Verdict, judge_all, list_registered
from producers.deploy import register_schemas
from runtime.schema_registry import SchemaRegistry
from runtime.settings import Settings

app = typer.Typer(help="Avro schemas in the registry.", no_args_is_help=True)


def _find_registry() -> SchemaRegistry:
    """Return the registry without the other parts, so that a pipeline can check schemas without a ledger."""
    settings: Settings = read_settings()
    state = read_state(settings.home)
    url = settings.registry_url or (state.endpoints.registry_url if state and state.endpoints else None)
    if url is None:
        raise LedgerlineError("No schema registry is known: set LEDGERLINE_REGISTRY_URL, or run `ledgerline up`.")
    return settings.make_registry(url)


@app.command()
def register(as_json: Json = False) -> None:
    """Set each subject's compatibility level and register its schema; harmless to repeat. A deploy step."""
    ids = register_schemas(_find_registry())
    rows = [{"subject": subject, "id": schema_id} for subject, schema_id in ids.items()]
    show_rows("Registered schemas", rows, as_json=as_json)


@app.command("list")
def list_subjects(as_json: Json = False) -> None:
    """List what the registry holds: latest version, id, level, and whether it has the schema of avro/."""
    rows = [
        {
            "subject": found.subject,
            "version": found.version,
            "id": found.schema_id,
            "compatibility": found.level,
            "current": found.is_current,
            "file": f"avro/{found.file}",
        }
        for found in list_registered(_find_registry())
    ]
    if not as_json:
        rows = [row | {"current": "yes" if row["current"] else "no: schemas register"} for row in rows]
    columns = None if as_json else ("subject", "version", "id", "compatibility", "current")
    show_rows("Schemas", rows, as_json=as_json, columns=columns)


@app.command()
def check(as_json: Json = False) -> None:
    """Ask the registry whether it would accept each schema in avro/; register nothing. Exit code 1 if not."""
    judgements = judge_all(_find_registry())
    refused = [judgement for judgement in judgements if judgement.verdict is Verdict.REFUSED]
    if as_json:
        show_json([judgement._asdict() for judgement in judgements])
    else:
        rows = [
            {"subject": found.subject, "verdict": found.verdict.value, "level": found.level} for found in judgements
        ]
        show_rows("Schemas against the registry", rows, as_json=False)
        for found in refused:
            complain(
                f" avro/{found.file} breaks {found.level} for {found.subject}: {found.cause}",
                "[bold red]refused:[/]",
            )
        if not refused:
            say("Every schema may be registered.")
    if refused:
        raise typer.Exit(1)
