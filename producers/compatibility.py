"""Whether the project's schemas may follow those that the registry holds: asked, never registered."""

import json
from enum import StrEnum
from typing import Any, Final, NamedTuple

import httpx

from domain.topics import SUBJECTS
from producers.encoding import SchemaError, schema_text
from producers.published_schemas import is_published
from producers.schema_rules import invalidity, losses
from runtime.schema_registry import SchemaRegistry

MEDIA_TYPE: Final = "application/vnd.schemaregistry.v1+json"
REQUEST_SECONDS_MAX: Final = 10.0


class Verdict(StrEnum):
    """What the registry says of a schema."""

    NEW = "new"
    SAME = "same"
    COMPATIBLE = "compatible"
    REFUSED = "refused"


class Judgement(NamedTuple):
    """The word on one subject; `cause` says why it is refused, or whose versions were left out."""

    subject: str
    file: str
    level: str
    verdict: Verdict
    cause: str


class RegisteredSubject(NamedTuple):
    """What the registry holds of one of the project's subjects; None where it has nothing."""

    subject: str
    file: str
    level: str | None
    wanted_level: str
    version: int | None
    schema_id: int | None
    is_current: bool
    """Whether some version of it is the project's own schema, as it stands in avro/."""


class Registry:
    """The two questions that the deploy client does not ask well; use it in a `with`."""

    def __init__(self, registry: SchemaRegistry) -> None:
        self._client = httpx.Client(
            base_url=registry.url.rstrip("/") + "/",
            headers={"Accept": MEDIA_TYPE},
            timeout=REQUEST_SECONDS_MAX,
            auth=(registry.username, registry.password or "") if registry.username is not None else None,
            verify=registry.ssl_context() or True,
        )

    def __enter__(self) -> "Registry":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON answer, None for 404; SchemaError where the registry is away or answers otherwise."""
        try:
            answer = self._client.request(method, path, json=body, headers={"Content-Type": MEDIA_TYPE})
            if answer.status_code == httpx.codes.NOT_FOUND:
                return None
            answer.raise_for_status()
            return answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise SchemaError(f"The schema registry did not answer {method} {path} ({error}).") from error

    def judge(self, subject: str) -> Judgement:
        """Ask whether the project's schema may be registered under the subject, against every version that counts."""
        file, level = SUBJECTS[subject]
        wrong = invalidity(schema_text(subject))
        if wrong is not None:
            return Judgement(subject, file, level, Verdict.REFUSED, wrong)
        body = {"schema": schema_text(subject), "schemaType": "AVRO"}
        if self._ask("POST", f"subjects/{subject}", body) is not None:
            return Judgement(subject, file, level, Verdict.SAME, "")
        answer = self._ask("POST", f"compatibility/subjects/{subject}/versions?verbose=true", body)
        if answer is None:
            return Judgement(subject, file, level, Verdict.NEW, "")
        faults, strangers = self._faults(subject, level)
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

    def _faults(self, subject: str, level: str) -> tuple[list[str], list[int]]:
        """What our rules have against the schema after each version of ours, and the versions that are not ours."""
        own = json.loads(schema_text(subject))
        found: dict[str, None] = {}
        strangers: list[int] = []
        for version in self._ask("GET", f"subjects/{subject}/versions") or ():
            held = self._ask("GET", f"subjects/{subject}/versions/{version}") or {}
            if not is_published(held.get("schema", "null")):
                strangers.append(version)
                continue
            found |= dict.fromkeys(losses(json.loads(held["schema"]), own, level))
        return list(found), strangers

    def registered(self, subject: str) -> RegisteredSubject:
        """What the registry holds of the subject."""
        file, wanted_level = SUBJECTS[subject]
        latest = self._ask("GET", f"subjects/{subject}/versions/latest") or {}
        level = (self._ask("GET", f"config/{subject}") or {}).get("compatibilityLevel")
        same = self._ask("POST", f"subjects/{subject}", {"schema": schema_text(subject), "schemaType": "AVRO"})
        return RegisteredSubject(
            subject, file, level, wanted_level, latest.get("version"), latest.get("id"), same is not None
        )


def judge_all(registry: SchemaRegistry) -> list[Judgement]:
    """The registry's word on every schema of the project."""
    with Registry(registry) as asked:
        return [asked.judge(subject) for subject in SUBJECTS]


def registered_all(registry: SchemaRegistry) -> list[RegisteredSubject]:
    """What the registry holds of every subject of the project."""
    with Registry(registry) as asked:
        return [asked.registered(subject) for subject in SUBJECTS]
