"""The checks of a configuration: the environment, the settings, and then each part of the ledger."""

import os
from collections.abc import Iterator
from typing import Final

from pydantic import ValidationError

from cli.addresses import Addresses, find_addresses
from cli.configuration.answers import START_SECONDS, find_kafka_trouble, find_postgres_trouble, find_registry_trouble
from cli.configuration.findings import Finding, make_error, make_fine, make_warning, refuse_errors
from cli.configuration.rules import find_contradictions
from cli.configuration.variables import find_former_variables, find_unknown_variables
from db.configuration import query_server
from db.logins import ROLE_OF_LOGIN
from domain.errors import LedgerlineError
from ops.run_state import read_state
from producers.compatibility import list_registered
from producers.topic_plan import Described, find_differences
from runtime.secret_files import SettingsError, get_variable
from runtime.settings import Settings

SKEW_SECONDS_MAX: Final = 1.0


def list_unusable(trouble: ValidationError) -> list[Finding]:
    """Return a finding for each value that cannot be used; the value itself is not shown, as it may be a secret."""
    return [
        make_error(name, f"{name} cannot be used: {found['msg']}; docs/SETTINGS.md says which values it accepts.")
        for found in trouble.errors(include_input=False)
        for name in [get_variable("_".join(str(part) for part in found["loc"]))]
    ]


def check_settings() -> tuple[Settings | None, list[Finding]]:
    """Return the settings, None if the environment gives no valid ones, and the findings; no part is contacted."""
    findings = [*find_former_variables(os.environ), *find_unknown_variables(os.environ)]
    try:
        settings = Settings.model_validate({})
    except ValidationError as trouble:
        return None, [*findings, *list_unusable(trouble)]
    except SettingsError as trouble:
        return None, [*findings, make_error("secrets", str(trouble))]
    return settings, [*findings, *find_contradictions(settings)]


def check_parts(settings: Settings, described: Described, service: str | None) -> Iterator[Finding]:
    """Yield the findings about the parts, one part after the other; the login must have the rights of `service`."""
    found = find_addresses(settings, read_state(settings.home))
    yield from _check_kafka(found, described)
    yield from _check_postgres(found, service)
    yield from _check_registry(found)


def refuse_misconfigured(settings: Settings, found: Addresses, role: str | None = None) -> None:
    """Raise SettingsError if the configuration is wrong; a part that is only down is no error and no reason to wait."""
    refuse_errors(find_contradictions(settings))
    troubles = [
        find_kafka_trouble(found.kafka, START_SECONDS) if found.kafka else None,
        find_postgres_trouble(found.postgres_dsn, role, START_SECONDS) if found.postgres_dsn else None,
        find_registry_trouble(found.registry, START_SECONDS) if found.registry else None,
    ]
    refuse_errors(make_error("", trouble.sentence) for trouble in troubles if trouble and trouble.is_misconfigured)


def _check_kafka(found: Addresses, described: Described) -> Iterator[Finding]:
    if found.kafka is None:
        yield make_error("kafka", f"No Kafka is known: set {get_variable('kafka_bootstrap')}, or run `ledgerline up`.")
        return
    trouble = find_kafka_trouble(found.kafka)
    if trouble is not None:
        yield make_error("kafka", trouble.sentence)
        return
    who = f" as {found.kafka.sasl_username}" if found.kafka.has_sasl else ""
    yield make_fine("kafka", f"Kafka answers at {found.kafka} by {found.kafka.security_protocol}{who}.")
    try:
        differing = find_differences(found.kafka, described)
    except LedgerlineError as refused:
        yield make_error("topics", str(refused))
        return
    if differing:
        names = ", ".join(dict.fromkeys(difference.topic for difference in differing))
        yield make_error("topics", f"Topics are not as described ({names}): see `ledgerline topics diff`.")
    else:
        yield make_fine("topics", "The topics are as described.")


def _check_postgres(found: Addresses, service: str | None) -> Iterator[Finding]:
    dsn = found.postgres_dsn
    if dsn is None:
        yield make_error(
            "postgres", f"No Postgres is known: set {get_variable('postgres_dsn')}, or run `ledgerline up`."
        )
        return
    trouble = find_postgres_trouble(dsn)
    if trouble is not None:
        yield make_error("postgres", trouble.sentence)
        return
    server = query_server(dsn)
    way = "by TLS" if server.is_encrypted else "without TLS"
    yield make_fine("postgres", f"{' '.join(server.version.split()[:2])} answers {way} as {server.login}.")
    if abs(server.skew_seconds) > SKEW_SECONDS_MAX + server.asked_seconds:
        yield make_warning("clock", f"Postgres' clock is {server.skew_seconds:+.1f} s from ours: keep both by NTP.")
    else:
        yield make_fine("clock", f"Postgres' clock is within {SKEW_SECONDS_MAX:g} s of ours.")
    yield from _check_rights(dsn, server.login, service)


def _check_rights(dsn: str, user: str, service: str | None) -> Iterator[Finding]:
    if service is not None:
        trouble = find_postgres_trouble(dsn, ROLE_OF_LOGIN[service])
        if trouble is not None:
            yield make_error("rights", trouble.sentence)
            return
    roles = [role for role in ROLE_OF_LOGIN.values() if find_postgres_trouble(dsn, role) is None]
    ours = [role for role in roles if role.startswith("ledgerline")]
    if not ours:
        yield make_error("rights", f"{user} is a member of no service's role: run `ledgerline prepare --logins`.")
        return
    yield make_fine("rights", f"{user} may act as {', '.join(ours)}.")
    if service is not None and len(ours) > 1:
        yield make_warning("rights", f"{user} may do more than {service} needs: give each service a login of its own.")


def _check_registry(found: Addresses) -> Iterator[Finding]:
    if found.registry is None:
        yield make_error(
            "registry", f"No registry is known: set {get_variable('registry_url')}, or run `ledgerline up`."
        )
        return
    trouble = find_registry_trouble(found.registry)
    if trouble is not None:
        yield make_error("registry", trouble.sentence)
        return
    yield make_fine("registry", f"The registry answers at {found.registry}.")
    try:
        subjects = list_registered(found.registry)
    except LedgerlineError as refused:
        yield make_error("schemas", str(refused))
        return
    missing = [row.subject for row in subjects if not row.is_current or row.level != row.wanted_level]
    if missing:
        yield make_error(
            "schemas", f"Schemas are not registered as in avro/ ({', '.join(missing)}): `ledgerline prepare`."
        )
    else:
        yield make_fine("schemas", f"{len(subjects)} schemas are registered as in avro/.")
