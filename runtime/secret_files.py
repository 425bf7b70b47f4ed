"""Secrets in files: for each secret setting NAME, LEDGERLINE_NAME_FILE may name a file that holds the secret.

This serves platforms that mount secrets as files, such as Kubernetes and systemd. A file that everybody on the machine
may read is refused, because its content is no longer secret.
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


def get_variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def get_file_variable(name: str) -> str:
    """Return the environment variable that names the file of a secret setting."""
    return f"{get_variable(name)}_FILE"


def read_secret(name: str, environment: Mapping[str, str]) -> str | None:
    """Return the secret in the setting's file, without the line end; None if the environment names no file.

    Raise SettingsError if the file cannot be read, is empty or may be read by everybody, or if the secret is also set
    directly.
    """
    path = environment.get(get_file_variable(name))
    if not path:
        return None
    if environment.get(get_variable(name)):
        raise SettingsError(f"{get_variable(name)} and {get_file_variable(name)} are both set: unset one of them.")
    try:
        with Path(path).open() as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingsError(f"{get_file_variable(name)} names {path}, which cannot be read: {cause}.") from error
    if mode & stat.S_IROTH:
        raise SettingsError(
            f"{get_file_variable(name)} names {path}, which everybody on this machine may read: run `chmod o= {path}`,"
            " and change the secret if others use this machine."
        )
    if not text:
        raise SettingsError(f"{get_file_variable(name)} names {path}, which is empty: write the secret into it.")
    return text
