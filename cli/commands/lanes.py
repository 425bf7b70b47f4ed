"""`ledgerline lanes`: add partitions to the topics of the lanes, and keep the order of each account's intents."""

from dataclasses import asdict
from typing import Annotated, Final

import typer

from cli.arguments import find_user_name
from cli.context import find_running_ledger
from cli.lanes import add_lanes
from cli.output import Json, open_progress_bar, say, show_json
from domain.topics import Topics

app = typer.Typer(help="Lanes: the partitions of payments.intents.", no_args_is_help=True)

WAIT_SECONDS: Final = 300.0
LANES_MAX: Final = 1024

Total = Annotated[int, typer.Argument(min=1, max=LANES_MAX, help="The new number of all lanes.")]
Wait = Annotated[
    float, typer.Option(min=0, help="Seconds to wait until posting and relay have reached the lanes' ends.")
]


@app.callback()
def lanes() -> None:
    """Lanes: the partitions that posting spreads over."""


@app.command()
def add(total: Total, wait: Wait = WAIT_SECONDS, as_json: Json = False) -> None:
    """Add lanes up to TOTAL: close the intake, drain the lanes, add partitions, open the intake. This is recorded.

    Clients are answered 503 with Retry-After meanwhile, for about a minute; services keep running. If the command is
    killed, the intake stays closed: run the same command again to finish. Lanes are never removed.
    """
    ledger = find_running_ledger()
    with open_progress_bar(quiet=as_json) as bar:
        steps: dict[str, int] = {}

        def progress(step: str, done: float, whole: float) -> None:
            task = steps.setdefault(step, -1)
            if task < 0:
                task = steps[step] = int(bar.add_task(step, total=whole))
            bar.update(task, completed=done, total=whole)  # type: ignore[arg-type]

        added = add_lanes(
            kafka=ledger.kafka,
            dsn=ledger.postgres_dsn,
            topics=Topics(ledger.settings.topic_prefix),
            total=total,
            done_by=find_user_name(),
            wait_seconds=wait,
            progress=progress,
        )
    if as_json:
        show_json(asdict(added))
        return
    now = f"There are {added.after} lanes now, {added.before} before."
    where = "The intake is open." if added.intake_is_open else "The intake is closed, as it was: ledgerline intake open"
    say(f"{now} {where} Workers take new lanes up within seconds: ledgerline status")
