"""`ledgerline service NAME` and `ledgerline prepare`: the commands that the supervisor, compose and Kubernetes run.

Only this module passes the settings to the services. Each runner imports its service itself, so that a process loads
only what it runs.
"""
# ruff: noqa: PLC0415

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import structlog
import typer

from cli.commands.topics import describe_topics
from cli.configuration.check import refuse_misconfigured
from cli.configuration.variables import find_former_variables
from cli.context import Ledger, find_running_ledger
from cli.observed import observe
from cli.output import Json, say, show_json
from db.books import add_tenant
from db.connections import connect
from db.logins import ROLE_OF_LOGIN, make_logins
from db.migrate import migrate
from domain.topics import Topics
from ops.kafka_rights import grant
from producers.deploy import make_topics, register_schemas
from runtime import tracing
from runtime.faults import Fault, cause_no_fault
from runtime.settings import Settings

if TYPE_CHECKING:
    from runtime.key_files import SigningKey
    from runtime.watchdog import Watchdog
    from streams.fenced import AgentOptions

logger: Final = structlog.get_logger(__name__)

DEFAULT_TENANT: Final = "default"

Contract = Annotated[
    bool, typer.Option("--contract", help="Also remove what only older releases use; see docs/UPGRADING.md.")
]
Logins = Annotated[
    Path | None,
    typer.Option(
        help="Folder of files named for a service, each with a DSN. Make that login, with that service's role only.",
        exists=True,
        file_okay=False,
    ),
]
KafkaRights = Annotated[
    str | None,
    typer.Option(
        metavar="PREFIX",
        help="Create each service's rights in Kafka, for users named by this prefix and the service.",
    ),
]


def read_posting_key(settings: Settings) -> "SigningKey | None":
    """Return the key with which posting signs heads; None if the settings name no key and the home has none."""
    from runtime.key_files import read_key
    from runtime.key_names import POSTING_KEY_FILE

    key_file = settings.posting_key_file or settings.home / POSTING_KEY_FILE
    if settings.posting_key_file is None and not key_file.exists():
        return None
    return read_key(key_file)


def make_agent_options(name: str, ledger: Ledger, *topics: str, **more: Any) -> "AgentOptions":
    """Return the options with which an agent of this ledger reads its topics; `more` are other AgentOptions."""
    from streams.fenced import AgentOptions

    settings = ledger.settings
    return AgentOptions(
        name=name,
        kafka=ledger.kafka,
        topics=topics,
        group=Topics(settings.topic_prefix).group(name),
        records_max=settings.posting_batch_intents_max,
        stall_seconds_max=settings.posting_stall_seconds_max,
        metrics_host=settings.metrics_host,
        metrics_port=settings.metrics_port,
        metrics_tls=settings.server_tls,
        log_level=settings.log_level,
        instance_id=settings.instance_id,
        **more,
    )


def make_proving_options(name: str, ledger: Ledger, topics: Topics) -> "AgentOptions":
    """Return the options of a proving agent: nobody waits for it, and large batches cost it half as much."""
    return make_agent_options(
        name, ledger, topics.journal, read_committed=True, fetch_wait_ms=200, fetch_bytes_min=512 * 1024
    )


def run_posting(ledger: Ledger, topics: Topics, fault: Fault = cause_no_fault) -> None:
    """Run the posting worker."""
    from streams.posting.service import serve
    from streams.posting.signing import make_sign, sign_nothing

    key = read_posting_key(ledger.settings)
    # A commit costs as much as about 80 intents: so wait up to 20 ms, and post all that arrived with one commit.
    options = make_agent_options(
        "posting", ledger, topics.intents, read_committed=True, fetch_wait_ms=20, fetch_bytes_min=16 * 1024
    )
    serve(
        options,
        dsn=ledger.postgres_dsn,
        registry=ledger.registry,
        journal_topic=topics.journal,
        sign=sign_nothing if key is None else make_sign(key),
        fault=fault,
    )


def _stop_at_signal(watchdog: "Watchdog") -> threading.Event:
    """Return the event that SIGTERM and SIGINT set; a thread waits for them, as the main one may be in librdkafka."""
    stop = threading.Event()
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # later threads inherit the mask

    def wait() -> None:
        signal.sigwait(signals)
        stop.set()
        watchdog.note_stop_order()

    threading.Thread(target=wait, name="signals", daemon=True).start()
    return stop


def run_relay(ledger: Ledger, topics: Topics, fault: Fault = cause_no_fault) -> None:
    """Run one instance of the relay: the journal's, and beside it the outbox's."""
    from db.outbox import OutboxStore
    from db.relay import RelayStore
    from producers.deploy import DAY_MS
    from producers.relay import Relay, RelayEncoders
    from producers.relay_core import RelayOptions, run_together
    from producers.relay_outbox import OutboxRelay
    from runtime.watchdog import Watchdog
    from streams.metrics import serve_metrics

    settings = ledger.settings
    options = RelayOptions(
        ledger.kafka, topics, settings.relay_instance, settings.relay_instances, settings.relay_batch_records_max
    )
    encoders = RelayEncoders.find_registered(ledger.registry)
    store = RelayStore(ledger.postgres_dsn, hears_traced=tracing.get_tracer() is not None)
    relay = Relay(store, encoders, options, fault=fault)
    kept_seconds = settings.outbox_retention_days * DAY_MS / 1000
    outbox = OutboxRelay(OutboxStore(ledger.postgres_dsn), encoders.position, options, kept_seconds)
    stall_seconds_max = settings.posting_stall_seconds_max
    watchdog = Watchdog(
        "relay", lambda: min(relay.progressed_at, outbox.progressed_at), stall_seconds_max=stall_seconds_max
    )
    stop = _stop_at_signal(watchdog)
    watchdog.start()
    serve_metrics(
        settings.metrics_host, settings.metrics_port, lambda: relay.missing() or outbox.missing(), settings.server_tls
    )
    watchdog.watch_for_stalls()
    run_together(relay, [outbox], stop)


def run_reconciliation(ledger: Ledger, topics: Topics) -> None:
    """Run the reconciliation agent."""
    from streams.proof.reconciliation.service import serve

    options = make_proving_options("reconciliation", ledger, topics)
    serve(options, dsn=ledger.postgres_dsn, registry=ledger.registry, topics=topics, settings=ledger.settings)


def run_audit(ledger: Ledger, topics: Topics) -> None:
    """Run the audit agent."""
    from streams.proof.audit.service import serve

    options = make_proving_options("audit", ledger, topics)
    serve(options, dsn=ledger.postgres_dsn, registry=ledger.registry, topics=topics, settings=ledger.settings)


def run_api(ledger: Ledger, topics: Topics, fault: Fault = cause_no_fault) -> None:
    """Run the API."""
    from api.server import serve

    serve(
        ledger.settings,
        kafka=ledger.kafka,
        dsn=ledger.postgres_dsn,
        registry=ledger.registry,
        topics=topics,
        fault=fault,
    )


RUNNERS: Final = {
    "posting": run_posting,
    "relay": run_relay,
    "reconciliation": run_reconciliation,
    "audit": run_audit,
    "api": run_api,
}


def service(name: str) -> None:
    """Run one service until it is told to stop: posting, relay, worker, reconciliation, audit or api."""
    if name not in RUNNERS:
        raise typer.BadParameter(f"choose one of {', '.join(RUNNERS)}")
    ledger = find_running_ledger()
    with observe(name, ledger):
        for finding in find_former_variables(os.environ):
            logger.warning("setting has a new name", error=finding.sentence)
        refuse_misconfigured(ledger.settings, ledger.addresses, ROLE_OF_LOGIN[name])
        RUNNERS[name](ledger, Topics(ledger.settings.topic_prefix))


def prepare_ledger(
    ledger: Ledger, *, contract: bool = False, logins: Path | None = None, kafka_rights: str | None = None
) -> dict[str, object]:
    """Make the database, topics and schemas that the services need, and return what was done; harmless to repeat."""
    settings: Settings = ledger.settings
    refuse_misconfigured(settings, ledger.addresses)
    migrated = migrate(ledger.postgres_dsn, contract=contract)
    with connect(ledger.postgres_dsn, "ledgerline_operator") as connection:
        add_tenant(connection, DEFAULT_TENANT)
    made_logins = make_logins(ledger.postgres_dsn, logins) if logins is not None else []
    wanted = describe_topics(settings)
    made = make_topics(ledger.kafka, wanted.topics, wanted.lanes, wanted.replication, wanted.retention)
    # Without ACLs a topic may be open to all users or to none. So the ACLs are created together with the topics.
    granted = grant(ledger.kafka, settings.topic_prefix, kafka_rights) if kafka_rights is not None else None
    return {
        "migrations": migrated.applied,
        "contracts_left": migrated.contracts_left,
        "logins": made_logins,
        "topics": made,
        "kafka_rights": granted,
        "schemas": register_schemas(ledger.registry),
    }


def prepare(
    contract: Contract = False, logins: Logins = None, kafka_rights: KafkaRights = None, as_json: Json = False
) -> None:
    """Migrate the database, make the topics, register the schemas: the deploy step, safe to repeat.

    Run it before the services of a release are started; those of the release before run on meanwhile.
    """
    done = prepare_ledger(find_running_ledger(), contract=contract, logins=logins, kafka_rights=kafka_rights)
    if as_json:
        show_json(done)
        return
    say("The database, the topics and the schemas are ready.")
    if done["contracts_left"]:
        say("When no service of an older release runs any more: `ledgerline prepare --contract`.")
