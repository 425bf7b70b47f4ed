"""The real processes of the services, started, stopped and killed as an operator does it."""

import json
import os
import signal
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.error import URLError

from ops.embedded.ports import pick_free
from runtime.settings import REPOSITORY_ROOT, Settings
from tests.forked import Forked, can_fork
from tests.posting_bench import eventually

START_SECONDS_MAX = 40.0


def environment_of(settings: Settings, **changes: str) -> dict[str, str]:
    """Return the variables that give a process these settings, without the LEDGERLINE_* variables of the tests."""
    named: dict[str, Any] = settings.model_dump(exclude_none=True)
    named["postgres_dsn"] = settings.postgres_dsn.get_secret_value() if settings.postgres_dsn else ""
    ours = {f"LEDGERLINE_{name.upper()}": str(value) for name, value in named.items()}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LEDGERLINE_")}
    return {**inherited, **ours, **changes}


class ServiceProcess:
    """One `ledgerline service NAME`, or another module. It is killed at the end of its `with` if it still runs."""

    def __init__(
        self, name: str, settings: Settings, folder: Path, *, module: Sequence[str] | None = None, **changes: str
    ) -> None:
        self.name = name
        self.port = pick_free()
        self.log_file = folder / f"{name}-{self.port}.log"
        port_variable = "LEDGERLINE_API_PORT" if name == "api" else "LEDGERLINE_METRICS_PORT"
        variables = environment_of(settings, **{port_variable: str(self.port), **changes})
        # A probe checks that the service answers and does not check its certificate, like a kubelet's probe.
        self.scheme = "https" if "LEDGERLINE_TLS_CERTIFICATE_FILE" in variables else "http"
        self._context = ssl.create_default_context()
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        command = module or ("cli", "service", name)
        self.process: Forked | subprocess.Popen[bytes]
        if can_fork(variables):
            self.process = Forked(command, variables, self.log_file, self.log_file)
        else:
            with self.log_file.open("wb") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", *command], cwd=REPOSITORY_ROOT, env=variables, stdout=log, stderr=log
                )

    def __enter__(self) -> "ServiceProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(10)
        if error is not None:
            sys.stderr.write(f"--- {self.name} {self.process.pid}:\n{self.log()[-4000:]}\n")

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        assert self.process.poll() is None, f"it had ended by itself: {self.log()[-2000:]}"
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self, seconds: float) -> int:
        """Send SIGTERM; return the exit code if the process ends within so many seconds."""
        assert self.process.poll() is None, f"it had ended by itself: {self.log()[-2000:]}"
        self.process.terminate()
        return self.process.wait(seconds)

    def ended(self, seconds: float = START_SECONDS_MAX) -> int:
        """Return the exit code of a process that ends by itself."""
        return self.process.wait(seconds)

    def runs(self) -> bool:
        """Return whether the process still runs."""
        return self.process.poll() is None

    def wait_until_ready(self, seconds: float = START_SECONDS_MAX) -> None:
        """Wait until /readyz answers 200."""
        eventually(lambda: not self.runs() or self._answer("readyz") is not None, f"{self.name} is ready", seconds)
        assert self.runs(), self.log()[-2000:]

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels; 0 if the metric is missing."""
        lines = self.metrics().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def metrics(self) -> str:
        """Return the text of /metrics; an empty text if the service does not answer."""
        return self._answer("metrics") or ""

    def log(self) -> str:
        """Return everything that the process wrote so far."""
        return self.log_file.read_text(errors="replace")

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one kind of event."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == name]

    def _answer(self, path: str) -> str | None:
        try:
            url = f"{self.scheme}://127.0.0.1:{self.port}/{path}"
            with urllib.request.urlopen(url, timeout=5, context=self._context) as answer:  # noqa: S310 - our own
                text: str = answer.read().decode()
                return text
        except (URLError, OSError):
            return None
