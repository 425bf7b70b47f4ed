"""The steps that start and stop the demo's own stack: a separate ledger beside any that already runs."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cli.commands.stack import ensure_api_key
from cli.context import find_api_key, find_running_ledger
from cli.demo.demo import Demo, DemoError
from cli.demo.watching import PipelineWatch
from cli.supervision import supervisor
from runtime.settings import Settings

# The demo alters rows as a superuser: it must never use a ledger that the environment names for real work.
_NAMES_A_LEDGER: Final = ("KAFKA_BOOTSTRAP", "POSTGRES_DSN", "REGISTRY_URL", "API_URL", "API_KEY", "TOPIC_PREFIX")
_FASTER: Final = {"LEDGERLINE_AUDIT_SWEEP_SECONDS": "2", "LEDGERLINE_AUDIT_CHECKPOINT_SECONDS": "5"}


def get_demo_home(settings: Settings) -> Path:
    """Return the demo's own home: the folder `demo` in the configured home."""
    return settings.home.resolve() / "demo"


def make_own_environment(home: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the demo's processes: with its own home, without the ledger that the caller named."""
    named = {f"LEDGERLINE_{name}" for name in _NAMES_A_LEDGER}
    kept = {name: value for name, value in environment.items() if name not in named}
    return _FASTER | kept | {"LEDGERLINE_HOME": str(home)}


def start_stack(demo: Demo) -> str:
    """Start Kafka, Postgres, the registry and the services with empty books."""
    supervisor.stop_run(demo.home, demo.screen.note)
    shutil.rmtree(demo.home, ignore_errors=True)
    environment = make_own_environment(demo.home, os.environ)
    os.environ.clear()
    os.environ.update(environment)
    state = supervisor.start_run(demo.home, demo.screen.note, tied=not demo.keep, cache=demo.cache)
    ensure_api_key(state)
    demo.ledger = find_running_ledger()
    key = find_api_key(demo.ledger.settings)
    if key is None:
        raise DemoError("The stack's API key was not stored: look at the folder of the demo.")
    demo.key = key
    demo.watch = PipelineWatch(demo.ledger.postgres_dsn, tuple(service.url for service in state.instances("relay")))
    demo.watch.__enter__()
    return f"API at {demo.api_url}"


def stop_stack(demo: Demo, *, remove: bool) -> None:
    """Stop all that `start_stack` started; with `remove`, delete data and logs, too. Harmless if nothing runs."""
    if hasattr(demo, "watch"):
        demo.watch.__exit__(None, None, None)
    supervisor.stop_run(demo.home, demo.screen.note)
    if remove:
        shutil.rmtree(demo.home, ignore_errors=True)
