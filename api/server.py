"""The API as a process: uvicorn, and a shutdown that loses no intent that was accepted."""

import gc
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog
import uvicorn

from api.addresses import TrustedProxies, parse_trusted_proxies
from api.app import Application, create_app
from api.configuration import Configuration
from api.connection_bounds import ConnectionBounds
from api.connections import Connections
from api.sockets import allow_open_files
from domain.topics import Topics
from runtime.faults import Fault, cause_no_fault
from runtime.kafka import Kafka
from runtime.schema_registry import SchemaRegistry
from runtime.secret_files import SettingsError
from runtime.settings import Settings
from runtime.shares import ShareBounds
from runtime.watchdog import Watchdog

# Time for requests under way at a stop: more than DELIVERY_SECONDS_AT_STOP, and less than the watchdog's
# STOP_SECONDS_MAX for the whole process.
_SHUTDOWN_SECONDS: Final = 5
_COLLECT_OBJECTS: Final = 100_000

logger: Final = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    """uvicorn's server. If the process is told to stop, requests that wait for an outcome are answered 202 at once."""

    def __init__(self, config: uvicorn.Config, app: Application, watchdog: Watchdog) -> None:
        super().__init__(config)
        self._app = app
        self._watchdog = watchdog

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGTERM and SIGINT.

        uvicorn's method raises the signal again after the shutdown, so an ordered stop would look like a kill.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # The objects that exist now live as long as the process, so the collector need not visit them. A batch makes
        # ten thousand objects and hardly ever a cycle, so collect less often.
        gc.freeze()
        gc.set_threshold(_COLLECT_OBJECTS, 20, 100)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._watchdog.note_stop_order()
        if self._app.parts is not None:
            self._app.parts.release_waiting()
        await super().shutdown(sockets)


def make_configuration(
    settings: Settings,
    *,
    kafka: Kafka,
    dsn: str,
    registry: SchemaRegistry,
    topics: Topics,
    fault: Fault = cause_no_fault,
) -> Configuration:
    """Return the API's configuration from the settings and the addresses that were found.

    Raise SettingsError if the setting of trusted proxies is not valid.
    """
    return Configuration(
        kafka=kafka,
        postgres_dsn=dsn,
        registry=registry,
        topics=topics,
        body_bytes_max=settings.api_body_bytes_max,
        intent_bytes_max=settings.api_intent_bytes_max,
        requests_per_minute=settings.api_requests_per_minute,
        wait_seconds_max=settings.api_wait_seconds_max,
        body_seconds_max=settings.api_body_seconds_max,
        shares=ShareBounds(
            settings.api_requests_at_once,
            settings.api_body_bytes_at_once,
            settings.api_event_streams_at_once,
            settings.api_reads_at_once,
            settings.api_heavy_reads_at_once,
            settings.api_read_wait_seconds_max,
        ),
        read_seconds_max=settings.api_read_seconds_max,
        heavy_read_seconds_max=settings.api_heavy_read_seconds_max,
        trusted_proxies=_parse_trusted_proxies(settings),
        documents=settings.api_documents,
        private_addresses=settings.calls_private_addresses,
        fault=fault,
    )


def _parse_trusted_proxies(settings: Settings) -> TrustedProxies:
    try:
        return parse_trusted_proxies(settings.api_trusted_proxies)
    except ValueError as error:
        raise SettingsError(f"LEDGERLINE_API_TRUSTED_PROXIES cannot be used: {error}.") from error


def make_connection_bounds(settings: Settings) -> ConnectionBounds:
    """Return the bounds on connections from the settings."""
    return ConnectionBounds(
        head_bytes_max=settings.api_head_bytes_max,
        headers_max=settings.api_headers_max,
        pipelined_max=settings.api_pipelined_max,
        connections_max=settings.api_connections_max,
        address_connections_max=settings.api_address_connections_max,
        unread_bytes_max=settings.api_unread_bytes_max,
        head_seconds_max=settings.api_head_seconds_max,
        body_seconds_max=settings.api_body_seconds_max,
        unread_seconds_max=settings.api_unread_seconds_max,
        idle_seconds_max=settings.api_idle_seconds_max,
    )


def serve(
    settings: Settings,
    *,
    kafka: Kafka,
    dsn: str,
    registry: SchemaRegistry,
    topics: Topics,
    fault: Fault = cause_no_fault,
) -> None:
    """Run until SIGTERM or SIGINT; then finish the requests under way, and send the producer's last intents to Kafka.

    The caller sets up logging. uvicorn uses the same logging, without access lines: the metrics replace them.
    """
    configuration = make_configuration(settings, kafka=kafka, dsn=dsn, registry=registry, topics=topics, fault=fault)
    app = create_app(configuration)
    bounds = make_connection_bounds(settings)
    allow_open_files(bounds.connections_max)
    tls = settings.server_tls
    config = uvicorn.Config(
        app,
        host=settings.api_host,
        port=settings.api_port,
        loop="uvloop",
        http=Connections(bounds, configuration.trusted_proxies, app.metrics).protocol(),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # uvicorn must not use X-Forwarded-For: api.addresses decides by the setting which proxies to trust.
        proxy_headers=False,
        ssl_certfile=tls.certificate_file if tls is not None else None,
        ssl_keyfile=tls.key_file if tls is not None else None,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    logger.info("API starting", host=settings.api_host, port=settings.api_port, tls=tls is not None)
    watchdog = Watchdog("api", time.monotonic)  # it watches only the stop; /livez shows a stall
    watchdog.start()
    _Server(config, app, watchdog).run()
