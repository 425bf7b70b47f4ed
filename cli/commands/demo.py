"""`ledgerline demo`: move real money through all parts and services, and prove the books."""

import os
import signal
import time
from typing import Annotated, Final

import typer

from cli.commands.stack import mask_password
from cli.context import make_console_url, read_settings
from cli.demo.demo import Demo, Plan
from cli.demo.screen import Screen
from cli.demo.stack import get_demo_home, stop_stack
from cli.demo.steps import make_summary, run_steps, show_summary
from cli.output import Json, console, make_shown, say, show_json
from cli.supervision.supervisor import read_state

INTERRUPTED: Final = 130


def demo(
    intents: Annotated[int, typer.Option(min=1000, help="Intents of the busy day.")] = Plan.intents,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack up and say where it is; also KEEP=1.")] = False,
    as_json: Json = False,
) -> None:
    """Start a ledger of its own, import four years of real transactions and a busy day, prove the books, stop.

    Exit code 0 only if everything that was expected was found; 130 when interrupted, with nothing left running.
    """
    settings = read_settings()
    keep = keep or os.environ.get("KEEP", "") not in {"", "0"}
    screen = Screen(console, quiet=as_json)
    run = Demo(
        home=get_demo_home(settings),
        cache=settings.home.resolve() / "cache",
        plan=Plan(intents=intents),
        screen=screen,
        keep=keep,
    )
    # SIGTERM does the same as Ctrl-C. SIGINT is set, too: a shell may have started this process with SIGINT ignored.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    started = time.monotonic()
    finished = interrupted = False
    try:
        run_steps(run)
        finished = True
    except KeyboardInterrupt:
        interrupted = True
        screen.show("[yellow]Interrupted: stopping everything.[/]")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        if not (finished and keep):
            # A second Ctrl-C must not interrupt the stop and leave processes running.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            stop_stack(run, remove=interrupted or (finished and run.held))
    seconds = time.monotonic() - started
    if as_json:
        show_json(make_summary(run, seconds))
    else:
        show_summary(run, seconds)
        if keep:
            _show_addresses(run)
        elif not run.held:
            screen.show(f"The logs are in {make_shown(str(run.home / 'data' / 'logs'))}.")
    raise typer.Exit(0 if run.held else 1)


def _show_addresses(run: Demo) -> None:
    state = read_state(run.home)
    say("")
    say(f"The ledger stays up ({run.home}):")
    say(f"  API        {run.api_url}   documents {run.api_url}/docs")
    url = make_console_url(run.api_url, run.key if console.is_terminal else None)
    say(f"  Console    {url}")
    say(f"  Kafka      {run.ledger.kafka}")
    say(f"  Postgres   {mask_password(run.ledger.postgres_dsn)}")
    say(f"  Registry   {run.ledger.registry}")
    for service in state.services if state else ():
        say(f"  {service.name:<10} {service.url}/metrics")
    say(
        f"Look at it with `LEDGERLINE_HOME={run.home} ledgerline status`,"
        f" stop it with `LEDGERLINE_HOME={run.home} ledgerline down`."
    )
