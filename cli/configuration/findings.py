"""Findings about a configuration, one sentence each."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from runtime.secret_files import SettingsError


class Severity(StrEnum):
    """The severity of a finding: an error prevents the start of a service, a warning does not."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """The result of one check; `about` is the variable or the part that was checked."""

    severity: Severity
    about: str
    sentence: str


def make_error(about: str, sentence: str) -> Finding:
    """Return a finding that prevents the start of a service."""
    return Finding(Severity.ERROR, about, sentence)


def make_warning(about: str, sentence: str) -> Finding:
    """Return a finding about something that works but is probably not intended."""
    return Finding(Severity.WARNING, about, sentence)


def make_fine(about: str, sentence: str) -> Finding:
    """Return a finding about something that is right."""
    return Finding(Severity.OK, about, sentence)


def refuse_errors(findings: Iterable[Finding]) -> None:
    """Raise SettingsError with the sentence of each error, if there are any errors."""
    sentences = [finding.sentence for finding in findings if finding.severity is Severity.ERROR]
    if sentences:
        raise SettingsError(" ".join(dict.fromkeys(sentences)))
