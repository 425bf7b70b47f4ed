"""Secrets that stand in files: each secret setting NAME may be given as LEDGERLINE_NAME_FILE, the file that holds it.

Made for what mounts secrets as files, such as Kubernetes and systemd. A file that everybody on the machine may read is
refused: it is no secret any more.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from domain.errors import LedgerlineError

PREFIX: Final = "LEDGERLINE_"


class SettingsError(LedgerlineError):
    """A LEDGERLINE_* variable has a value that cannot be used, or contradicts another."""


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def file_variable(name: str) -> str:
    """The environment variable that names the file of a secret setting."""
    return f"{variable(name)}_FILE"


def secret_of(name: str, environment: Mapping[str, str]) -> str | None:
    """The secret in the file that the environment names for this setting, without the line's end; None for no file.

    SettingsError where the file cannot be read, is empty or may be read by everybody, or where the secret is given
    twice.
    """
    path = environment.get(file_variable(name))
    if not path:
        return None
    if environment.get(variable(name)):
        raise SettingsError(f"{variable(name)} and {file_variable(name)} are both set: unset one of them.")
    try:
        with Path(path).open() as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingsError(f"{file_variable(name)} names {path}, which cannot be read: {cause}.") from error
    if mode & stat.S_IROTH:
        raise SettingsError(
            f"{file_variable(name)} names {path}, which everybody on this machine may read: run `chmod o= {path}`, and"
            " change the secret if others use this machine."
        )
    if not text:
        raise SettingsError(f"{file_variable(name)} names {path}, which is empty: write the secret into it.")
    return text
