"""What surrounds a service that runs: its logs, and its traces where they are asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

import structlog
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from cli.context import Ledger
from cli.troubles import sentence_of
from runtime import tracing
from runtime.logs import configure_logs, instance_of

logger: Final = structlog.get_logger(__name__)


def secrets_of(ledger: Ledger) -> set[str]:
    """The secrets that this process was given, so that its logs can keep them to themselves."""
    settings = ledger.settings
    found = {value.get_secret_value() for _, value in settings if isinstance(value, SecretStr)}
    found.add(str(conninfo_to_dict(ledger.postgres_dsn).get("password") or ""))
    found |= {urlsplit(url).password or "" for url in (settings.registry_url, settings.otlp_endpoint) if url}
    return found - {""}


@contextmanager
def observed(name: str, ledger: Ledger) -> Iterator[None]:
    """Logs, and traces where they are asked for, of the service that runs inside.

    What ends the service is told in its last line, in the form of all others: what people can mend in one sentence,
    else with its traceback. The process ends with code 1 then.
    """
    settings = ledger.settings
    instance = instance_of(settings.api_port if name == "api" else settings.metrics_port)
    configure_logs(
        settings.log_level,
        service=name,
        instance=instance,
        log_format=settings.log_format,
        secrets=secrets_of(ledger),
    )
    tracing.start(settings.otlp_endpoint, sample_ratio=settings.trace_sample_ratio, service=name, instance=instance)
    try:
        yield
    except Exception as error:
        sentence = sentence_of(error)
        logger.critical("ended", error=sentence, exc_info=error if sentence is None else None)
        raise SystemExit(1) from error
    finally:
        tracing.stop()
