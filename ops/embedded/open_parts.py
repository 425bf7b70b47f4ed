"""The embedded servers that require no login, as one sentence that `up` and `status` show."""

from typing import Final

from ops.run_state import RunState

_OPEN: Final = {"kafka": ("Kafka", "all topics"), "registry": ("the Schema Registry", "all schemas")}
"""The parts that the embedded stack starts without logins. Its Postgres requires a password, which is in run.json."""


def open_parts(state: RunState | None) -> str | None:
    """Return a sentence that names the parts of this run that require no login, or None if there are none."""
    started = [] if state is None else [part.name for part in state.parts]
    found = [told for name, told in _OPEN.items() if name in started]
    if not found:
        return None
    subject = " and ".join(name for name, _ in found)
    verb = "ask" if len(found) > 1 else "asks"
    reached = " and ".join(what for _, what in found)
    return (
        f"{subject[0].upper()}{subject[1:]} {verb} for no login: every program on this machine can read and write "
        f"{reached}, for every tenant (docs/SECURITY.md)."
    )
