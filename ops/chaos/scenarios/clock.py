"""The clock of the services jumps, forwards and back, by libfaketime; Kafka, Postgres and the kernel keep theirs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ops.chaos.instance import ChaosError
from ops.chaos.scenarios.scenario import Scenario
from ops.chaos.trial import Trial

_LIBRARIES: Final = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1")
JUMPS: Final = ("+1h", "-2h", "+0", "-90s", "+30d")
POSTED_BETWEEN: Final = 200


def library() -> str:
    """Where libfaketime is; ChaosError where it is not installed."""
    for pattern in _LIBRARIES:
        for found in Path("/").glob(pattern.lstrip("/")):
            return str(found)
    raise ChaosError("libfaketime is not installed: run `make chaos`, which installs Debian's package faketime.")


def variables(offset_file: Path) -> Mapping[str, str]:
    """What makes a process believe the clock that the file tells; what measures durations stays true."""
    return {
        "LD_PRELOAD": library(),
        "FAKETIME_TIMESTAMP_FILE": str(offset_file),
        # Read once a second: at each look at the clock, of which a process takes thousands, it would be the load.
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def jump(trial: Trial) -> None:
    """Workers, API, relay and agents run under a clock that jumps; then they are started without it."""
    offset_file = trial.deployment.folder / "clock"
    offset_file.write_text("+0\n")
    hurt = trial.fleet.instances
    for instance in hurt:
        instance.stop()
    for instance in hurt:
        instance.start(**variables(offset_file))
    trial.fleet.wait_ready()
    for offset in JUMPS:
        trial.let_flow(POSTED_BETWEEN)
        trial.say(f"the services' clock jumps to {offset}")
        draft = offset_file.with_suffix(".draft")
        draft.write_text(f"{offset}\n")
        draft.replace(offset_file)
    trial.let_flow(POSTED_BETWEEN)
    for instance in hurt:
        instance.stop()
        instance.start()


SCENARIOS: Final = (
    Scenario(
        "clock-jumps",
        "The clock may jump: rows are never booked before the row that precedes them in their lane, and nothing else"
        " depends on it.",
        jump,
        own_ledger=True,
    ),
)
