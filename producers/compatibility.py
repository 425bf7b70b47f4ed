"""Check whether the project's schemas are compatible with those in the registry. Nothing is registered here."""

import json
from enum import StrEnum
from typing import Any, Final, NamedTuple

import httpx

from domain.topics import SUBJECTS
from producers.published_schemas import is_published
from producers.schema_rules import find_invalidity, list_losses
from runtime.schema_registry import SchemaRegistry
from runtime.schemas import SchemaError, read_schema_text

MEDIA_TYPE: Final = "application/vnd.schemaregistry.v1+json"
REQUEST_SECONDS_MAX: Final = 10.0


class Verdict(StrEnum):
    """What the registry says of a schema."""

    NEW = "new"
    SAME = "same"
    COMPATIBLE = "compatible"
    REFUSED = "refused"


class Judgement(NamedTuple):
    """The verdict on one subject. `cause` says why it is refused, or which versions were left out."""

    subject: str
    file: str
    level: str
    verdict: Verdict
    cause: str


class RegisteredSubject(NamedTuple):
    """What the registry holds for one of the project's subjects. A field is None if the registry has no value."""

    subject: str
    file: str
    level: str | None
    wanted_level: str
    version: int | None
    schema_id: int | None
    is_current: bool
    """Whether one of the subject's versions is the project's own schema, as in avro/."""


class Registry:
    """A client for the two requests that the deploy client does not make well. Use it in a `with` statement."""

    def __init__(self, registry: SchemaRegistry) -> None:
        self._client = httpx.Client(
            base_url=registry.url.rstrip("/") + "/",
            headers={"Accept": MEDIA_TYPE},
            timeout=REQUEST_SECONDS_MAX,
            auth=(registry.username, registry.password or "") if registry.username is not None else None,
            verify=registry.make_ssl_context() or True,
        )

    def __enter__(self) -> "Registry":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return the JSON answer, or None for 404. Raise SchemaError if the registry is away or answers otherwise."""
        try:
            answer = self._client.request(method, path, json=body, headers={"Content-Type": MEDIA_TYPE})
            if answer.status_code == httpx.codes.NOT_FOUND:
                return None
            answer.raise_for_status()
            return answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise SchemaError(f"The schema registry did not answer {method} {path} ({error}).") from error

    def judge(self, subject: str) -> Judgement:
        """Judge whether the project's schema may be registered. Versions that Ledgerline never had do not count."""
        file, level = SUBJECTS[subject]
        wrong = find_invalidity(read_schema_text(subject))
        if wrong is not None:
            return Judgement(subject, file, level, Verdict.REFUSED, wrong)
        body = {"schema": read_schema_text(subject), "schemaType": "AVRO"}
        if self._ask("POST", f"subjects/{subject}", body) is not None:
            return Judgement(subject, file, level, Verdict.SAME, "")
        answer = self._ask("POST", f"compatibility/subjects/{subject}/versions?verbose=true", body)
        if answer is None:
            return Judgement(subject, file, level, Verdict.NEW, "")
        faults, strangers = self._find_faults(subject, level)
        if faults:
            return Judgement(subject, file, level, Verdict.REFUSED, "; ".join(faults))
        if answer["is_compatible"]:
            return Judgement(subject, file, level, Verdict.COMPATIBLE, "")
        # Confluent's registry and Karapace say why in `messages`, Apicurio in `reason`.
        cause = answer.get("reason") or "; ".join(answer.get("messages") or ()) or "the registry does not say why"
        if strangers:
            numbers = ", ".join(map(str, strangers))
            cause = f"not judged by version {numbers}, which Ledgerline never had ({cause})"
            return Judgement(subject, file, level, Verdict.COMPATIBLE, cause)
        return Judgement(subject, file, level, Verdict.REFUSED, cause)

    def _find_faults(self, subject: str, level: str) -> tuple[list[str], list[int]]:
        """Return our rules' faults of the schema against each version of ours, and the versions that are not ours."""
        own = json.loads(read_schema_text(subject))
        found: dict[str, None] = {}
        strangers: list[int] = []
        for version in self._ask("GET", f"subjects/{subject}/versions") or ():
            held = self._ask("GET", f"subjects/{subject}/versions/{version}") or {}
            if not is_published(held.get("schema", "null")):
                strangers.append(version)
                continue
            found |= dict.fromkeys(list_losses(json.loads(held["schema"]), own, level))
        return list(found), strangers

    def find_registered(self, subject: str) -> RegisteredSubject:
        """Return what the registry holds for the subject."""
        file, wanted_level = SUBJECTS[subject]
        latest = self._ask("GET", f"subjects/{subject}/versions/latest") or {}
        level = (self._ask("GET", f"config/{subject}") or {}).get("compatibilityLevel")
        same = self._ask("POST", f"subjects/{subject}", {"schema": read_schema_text(subject), "schemaType": "AVRO"})
        return RegisteredSubject(
            subject, file, level, wanted_level, latest.get("version"), latest.get("id"), same is not None
        )


def judge_all(registry: SchemaRegistry) -> list[Judgement]:
    """Return the verdict on every schema of the project."""
    with Registry(registry) as asked:
        return [asked.judge(subject) for subject in SUBJECTS]


def list_registered(registry: SchemaRegistry) -> list[RegisteredSubject]:
    """Return what the registry holds for every subject of the project."""
    with Registry(registry) as asked:
        return [asked.find_registered(subject) for subject in SUBJECTS]
