"""Which embedded servers ask nobody for a name, as one sentence that `up` and `status` show."""

from typing import Final

from ops.run_state import RunState

_OPEN: Final = {"kafka": ("Kafka", "all topics"), "registry": ("the Schema Registry", "all schemas")}
"""What the embedded stack starts without logins. Its Postgres asks for a password, which is in run.json."""


def open_parts(state: RunState | None) -> str | None:
    """Say which parts of this run are open to every program on the machine; None where it started none of them."""
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
