"""The state of a run: the supervisor writes it to HOME/data/run.json, and all other programs read it there."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ops.embedded import EmbeddedError, Endpoints
from ops.embedded.process import ProcessIdentity

Phase = Literal["starting", "running", "stopping", "failed"]
ProcessCondition = Literal["starting", "ready", "unready", "waiting", "stopped"]
"""The condition of one process: `unready` no longer answers; `waiting` has ended and restarts after its back-off."""


@dataclass(frozen=True)
class PartState:
    """One embedded server."""

    name: str
    pid: int | None
    port: int
    condition: ProcessCondition
    restarts: int
    log: str
    metrics_port: int | None = None
    """The port at which the part itself serves /metrics, as Kafka does."""


@dataclass(frozen=True)
class ServiceState:
    """One instance of a service; it serves /readyz and /metrics at `url`."""

    name: str
    instance: int
    pid: int | None
    port: int
    url: str
    condition: ProcessCondition
    restarts: int
    last_exit: str | None
    log: str


@dataclass(frozen=True)
class RunState:
    """One run of the supervisor: `messages` is its progress so far, `error` is the reason if it failed."""

    pid: int
    start_ticks: int
    started_time: str
    phase: Phase
    endpoints: Endpoints | None = None
    parts: tuple[PartState, ...] = ()
    services: tuple[ServiceState, ...] = ()
    messages: tuple[str, ...] = ()
    error: str | None = None

    @property
    def api_url(self) -> str | None:
        """The URL of the API, None if no API was started."""
        return next((service.url for service in self.services if service.name == "api"), None)

    @property
    def identity(self) -> ProcessIdentity:
        """The supervisor's process."""
        return ProcessIdentity(self.pid, self.start_ticks)

    def instances(self, name: str) -> tuple[ServiceState, ...]:
        """Return the instances of one service."""
        return tuple(service for service in self.services if service.name == name)


def state_file(home: Path) -> Path:
    """Return the path of a home's run.json."""
    return home / "data" / "run.json"


def write_state(home: Path, state: RunState) -> None:
    """Replace run.json in one step; only this user may read it, because the DSN holds a password."""
    path = state_file(home)
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(asdict(state), indent=2) + "\n")
    draft.replace(path)


def load_state(home: Path) -> RunState | None:
    """Return the last run that was written, running or ended; None if there was none.

    Raise EmbeddedError if run.json is not in this version's form.
    """
    path = state_file(home)
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    try:
        return _parse(json.loads(text))
    except (ValueError, TypeError, KeyError) as error:
        raise EmbeddedError(f"{path} is not what this version writes ({error}): remove that file.") from error


def read_state(home: Path) -> RunState | None:
    """Return the current run, or None if its supervisor has ended."""
    state = load_state(home)
    return state if state is not None and state.identity.is_running() else None


def _parse(document: Mapping[str, Any]) -> RunState:
    endpoints = document["endpoints"]
    return replace(
        RunState(**document),
        endpoints=None if endpoints is None else Endpoints(**endpoints),
        parts=tuple(PartState(**part) for part in document["parts"]),
        services=tuple(ServiceState(**service) for service in document["services"]),
        messages=tuple(document["messages"]),
    )
