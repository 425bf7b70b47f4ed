"""The checks of a configuration: the environment, the settings, and then each part of the ledger."""

import os
from collections.abc import Iterator
from typing import Final

from pydantic import ValidationError

from cli.addresses import Addresses, addresses_of
from cli.configuration.answers import START_SECONDS, kafka_trouble, postgres_trouble, registry_trouble
from cli.configuration.findings import Finding, error, fine, refuse_errors, warning
from cli.configuration.rules import contradictions
from cli.configuration.variables import unknown_variables
from db.configuration import server_of
from db.logins import ROLE_OF_LOGIN
from domain.errors import LedgerlineError
from ops.run_state import read_state
from producers.compatibility import registered_all
from producers.topic_plan import Described, differences
from runtime.secret_files import SettingsError, variable
from runtime.settings import Settings

SKEW_SECONDS_MAX: Final = 1.0


def unusable(trouble: ValidationError) -> list[Finding]:
    """Return a finding for each value that cannot be used; the value itself is not shown, as it may be a secret."""
    return [
        error(name, f"{name} cannot be used: {found['msg']}; docs/SETTINGS.md says which values it accepts.")
        for found in trouble.errors(include_input=False)
        for name in [variable("_".join(str(part) for part in found["loc"]))]
    ]


def check_settings() -> tuple[Settings | None, list[Finding]]:
    """Return the settings, None if the environment gives no valid ones, and the findings; no part is contacted."""
    findings = unknown_variables(os.environ)
    try:
        settings = Settings.model_validate({})
    except ValidationError as trouble:
        return None, [*findings, *unusable(trouble)]
    except SettingsError as trouble:
        return None, [*findings, error("secrets", str(trouble))]
    return settings, [*findings, *contradictions(settings)]


def check_parts(settings: Settings, described: Described, service: str | None) -> Iterator[Finding]:
    """Yield the findings about the parts, one part after the other; the login must have the rights of `service`."""
    found = addresses_of(settings, read_state(settings.home))
    yield from _kafka(found, described)
    yield from _postgres(found, service)
    yield from _registry(found)


def refuse_misconfigured(settings: Settings, found: Addresses, role: str | None = None) -> None:
    """Raise SettingsError if the configuration is wrong; a part that is only down is no error and no reason to wait."""
    refuse_errors(contradictions(settings))
    troubles = [
        kafka_trouble(found.kafka, START_SECONDS) if found.kafka else None,
        postgres_trouble(found.postgres_dsn, role, START_SECONDS) if found.postgres_dsn else None,
        registry_trouble(found.registry, START_SECONDS) if found.registry else None,
    ]
    refuse_errors(error("", trouble.sentence) for trouble in troubles if trouble and trouble.is_misconfigured)


def _kafka(found: Addresses, described: Described) -> Iterator[Finding]:
    if found.kafka is None:
        yield error("kafka", f"No Kafka is known: set {variable('kafka_bootstrap')}, or run `ledgerline up`.")
        return
    trouble = kafka_trouble(found.kafka)
    if trouble is not None:
        yield error("kafka", trouble.sentence)
        return
    who = f" as {found.kafka.sasl_username}" if found.kafka.has_sasl else ""
    yield fine("kafka", f"Kafka answers at {found.kafka} by {found.kafka.security_protocol}{who}.")
    try:
        differing = differences(found.kafka, described)
    except LedgerlineError as refused:
        yield error("topics", str(refused))
        return
    if differing:
        names = ", ".join(dict.fromkeys(difference.topic for difference in differing))
        yield error("topics", f"Topics are not as described ({names}): see `ledgerline topics diff`.")
    else:
        yield fine("topics", "The topics are as described.")


def _postgres(found: Addresses, service: str | None) -> Iterator[Finding]:
    dsn = found.postgres_dsn
    if dsn is None:
        yield error("postgres", f"No Postgres is known: set {variable('postgres_dsn')}, or run `ledgerline up`.")
        return
    trouble = postgres_trouble(dsn)
    if trouble is not None:
        yield error("postgres", trouble.sentence)
        return
    server = server_of(dsn)
    way = "by TLS" if server.is_encrypted else "without TLS"
    yield fine("postgres", f"{' '.join(server.version.split()[:2])} answers {way} as {server.login}.")
    if abs(server.skew_seconds) > SKEW_SECONDS_MAX + server.asked_seconds:
        yield warning("clock", f"Postgres' clock is {server.skew_seconds:+.1f} s from ours: keep both by NTP.")
    else:
        yield fine("clock", f"Postgres' clock is within {SKEW_SECONDS_MAX:g} s of ours.")
    yield from _rights(dsn, server.login, service)


def _rights(dsn: str, user: str, service: str | None) -> Iterator[Finding]:
    if service is not None:
        trouble = postgres_trouble(dsn, ROLE_OF_LOGIN[service])
        if trouble is not None:
            yield error("rights", trouble.sentence)
            return
    roles = [role for role in ROLE_OF_LOGIN.values() if postgres_trouble(dsn, role) is None]
    ours = [role for role in roles if role.startswith("ledgerline")]
    if not ours:
        yield error("rights", f"{user} is a member of no service's role: run `ledgerline prepare --logins`.")
        return
    yield fine("rights", f"{user} may act as {', '.join(ours)}.")
    if service is not None and len(ours) > 1:
        yield warning("rights", f"{user} may do more than {service} needs: give each service a login of its own.")


def _registry(found: Addresses) -> Iterator[Finding]:
    if found.registry is None:
        yield error("registry", f"No registry is known: set {variable('registry_url')}, or run `ledgerline up`.")
        return
    trouble = registry_trouble(found.registry)
    if trouble is not None:
        yield error("registry", trouble.sentence)
        return
    yield fine("registry", f"The registry answers at {found.registry}.")
    try:
        subjects = registered_all(found.registry)
    except LedgerlineError as refused:
        yield error("schemas", str(refused))
        return
    missing = [row.subject for row in subjects if not row.is_current or row.level != row.wanted_level]
    if missing:
        yield error("schemas", f"Schemas are not registered as in avro/ ({', '.join(missing)}): `ledgerline prepare`.")
    else:
        yield fine("schemas", f"{len(subjects)} schemas are registered as in avro/.")
