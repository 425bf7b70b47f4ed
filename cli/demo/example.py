"""The example ledger: four years of a person's money, made by bean-example; it is the same at every run."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from domain.errors import LedgerlineError

SEED: Final = 7
DATE_BEGIN: Final = "2022-01-01"
DATE_END: Final = "2025-12-31"
DATE_BIRTH: Final = "1985-05-12"
SECONDS_MAX: Final = 60


class ExampleError(LedgerlineError):
    """The example ledger cannot be made."""


def make_example(path: Path) -> None:
    """Run beancount's bean-example in a separate process to write `path`; raise ExampleError if that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = ["--seed", str(SEED), "--date-begin", DATE_BEGIN, "--date-end", DATE_END, "--date-birth", DATE_BIRTH]
    program = "from beancount.scripts.example import main; main()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, *options, "-o", str(path)],
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ExampleError(f"bean-example took more than {SECONDS_MAX} seconds.") from error
    if done.returncode != 0:
        trouble = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        if "No module named 'beancount'" in trouble[0]:
            raise ExampleError("The demo needs the package beancount: run `pip install 'ledgerline[import]'`.")
        raise ExampleError(f"bean-example failed: {trouble[0]}.")
