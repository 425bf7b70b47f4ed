"""What is found of a configuration, one sentence each."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from runtime.secret_files import SettingsError


class Severity(StrEnum):
    """How bad it is: an error keeps a service from starting, a warning does not."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `about` is a variable or a part."""

    severity: Severity
    about: str
    sentence: str


def error(about: str, sentence: str) -> Finding:
    """What keeps a service from starting."""
    return Finding(Severity.ERROR, about, sentence)


def warning(about: str, sentence: str) -> Finding:
    """What works, and is hardly meant."""
    return Finding(Severity.WARNING, about, sentence)


def fine(about: str, sentence: str) -> Finding:
    """What is as it should be."""
    return Finding(Severity.OK, about, sentence)


def refuse_errors(findings: Iterable[Finding]) -> None:
    """SettingsError with the sentence of each error, where there are any."""
    sentences = [finding.sentence for finding in findings if finding.severity is Severity.ERROR]
    if sentences:
        raise SettingsError(" ".join(dict.fromkeys(sentences)))
