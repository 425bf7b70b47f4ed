"""The set-up around a running service: its logs, and its traces if they are configured."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

import structlog
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from cli.context import Ledger
from cli.troubles import make_sentence
from runtime import tracing
from runtime.logs import configure_logs, get_instance_name

logger: Final = structlog.get_logger(__name__)


def find_secrets(ledger: Ledger) -> set[str]:
    """Return the secrets that this process was given, so that its logs can mask them."""
    settings = ledger.settings
    found = {value.get_secret_value() for _, value in settings if isinstance(value, SecretStr)}
    found.add(str(conninfo_to_dict(ledger.postgres_dsn).get("password") or ""))
    found |= {urlsplit(url).password or "" for url in (settings.registry_url, settings.otlp_endpoint) if url}
    return found - {""}


@contextmanager
def observe(name: str, ledger: Ledger) -> Iterator[None]:
    """Set up the logs, and the traces if configured, of the service that runs inside.

    If an error ends the service, the last log line reports it in the usual form: in one sentence if people can fix the
    cause, else with a traceback. The process then exits with code 1.
    """
    settings = ledger.settings
    instance = get_instance_name(settings.api_port if name == "api" else settings.metrics_port)
    configure_logs(
        settings.log_level,
        service=name,
        instance=instance,
        log_format=settings.log_format,
        secrets=find_secrets(ledger),
    )
    tracing.start(settings.otlp_endpoint, sample_ratio=settings.trace_sample_ratio, service=name, instance=instance)
    try:
        yield
    except Exception as error:
        sentence = make_sentence(error)
        logger.critical("ended", error=sentence, exc_info=error if sentence is None else None)
        raise SystemExit(1) from error
    finally:
        tracing.stop()
