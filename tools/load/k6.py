"""Run a script of ops/k6 with the real k6, and read its summary at the end.

k6 must not use the network for itself: no usage report, no look-up of extensions, its own API on a loopback port.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any, Final, NamedTuple

from domain.errors import LedgerlineError
from runtime.settings import REPOSITORY_ROOT

SCRIPTS: Final = REPOSITORY_ROOT / "ops" / "k6"
LOOK_SECONDS: Final = 0.5
_SECRETIVE: Final = {"K6_NO_USAGE_REPORT": "true", "K6_AUTO_EXTENSION_RESOLUTION": "false"}
# The only variables that k6 inherits. Any other could be an option of k6 or a variable of a script.
_INHERITED: Final = ("PATH", "HOME", "TMPDIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
_HELD: Final = 0
_THRESHOLD_BROKEN: Final = 99

Watch = Callable[[float], None]
"""Called every LOOK_SECONDS while k6 runs, with the seconds since its start."""


class MissingK6(LedgerlineError):
    """k6 is not installed."""


class K6Error(LedgerlineError):
    """k6 could not run the script."""


class K6Run(NamedTuple):
    """The results of one run."""

    metrics: Mapping[str, Mapping[str, Any]]
    """By name, such as `http_req_duration` or `http_req_duration{scenario:posts}`; durations in milliseconds."""
    lines: list[dict[str, Any]]
    """The lines that the script logged, in order."""
    broken: list[str]
    """The thresholds that did not hold, such as `http_req_duration{scenario:posts}: p(95)<=500`."""
    seconds: float
    processor_seconds: float
    """Processor seconds of k6 itself."""

    def count(self, name: str) -> int:
        """Return the sum of a counter; 0 if nothing was added to it."""
        return int(self.metrics.get(name, {}).get("count", 0))


def k6_binary() -> str:
    """Return the path of k6, beside this Python or on the PATH. Raise MissingK6 if there is none."""
    found = shutil.which("k6", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        raise MissingK6("k6 is not installed: run `make install`, which brings it.")
    return found


def run_k6(
    script: str, *, url: str, key: str, variables: Mapping[str, str], watch: Watch = lambda _seconds: None
) -> K6Run:
    """Run ops/k6/SCRIPT to its end. Raise K6Error if it fails. k6 gets the key in its environment."""
    with tempfile.TemporaryDirectory(prefix="ledgerline-k6-") as name:
        folder = Path(name)
        summary, lines, log = folder / "summary.json", folder / "lines", folder / "log"
        command = [
            *(k6_binary(), "run", "--quiet", "--no-color", "--no-usage-report", "--address", "127.0.0.1:0"),
            *("--log-format", "raw", "--console-output", str(lines), "--summary-export", str(summary)),
            str(SCRIPTS / script),
        ]
        own_before, started = seconds_of_children(), time.monotonic()
        with log.open("w") as output:
            inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
            environment = inherited | _SECRETIVE | dict(variables) | {"URL": url, "KEY": key}
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
            try:
                code = _wait(process, watch)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        if code not in (_HELD, _THRESHOLD_BROKEN) or not summary.exists():
            raise K6Error(f"k6 could not run {script} ({_cause(log)}): mend that, and run it again.")
        metrics = json.loads(summary.read_text())["metrics"]
        seconds = time.monotonic() - started
        return K6Run(metrics, _lines(lines), broken_thresholds(metrics), seconds, seconds_of_children() - own_before)


def broken_thresholds(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return each threshold that did not hold. k6 exports true for a broken threshold."""
    return [
        f"{name}: {threshold}"
        for name, found in sorted(metrics.items())
        for threshold, is_broken in found.get("thresholds", {}).items()
        if is_broken
    ]


def seconds_of_children() -> float:
    """Return the processor seconds of all child processes that have ended."""
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _wait(process: subprocess.Popen[bytes], watch: Watch) -> int:
    started = time.monotonic()
    while True:
        try:
            return process.wait(LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            watch(time.monotonic() - started)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]


def _cause(log: Path) -> str:
    """Return the last line of k6's log that is no line of a stack trace: it says what went wrong."""
    lines = (line.strip() for line in log.read_text().splitlines())
    said = [line for line in lines if line and not line.startswith("at ")]
    return said[-1][:300] if said else "it said nothing"
