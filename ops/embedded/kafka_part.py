"""The embedded Kafka: one KRaft node, broker and controller in one process."""

import signal
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from ops.embedded.cache import KAFKA, KAFKA_EXPORTER, Cache
from ops.embedded.java import Java, find_java
from ops.embedded.part import Part, PartContext
from ops.embedded.ports import LOOPBACK, answers
from ops.embedded.process import Command
from runtime.settings import REPOSITORY_ROOT

_LOGGING = Path(__file__).parent / "kafka" / "log4j2.properties"
_EXPORTED = REPOSITORY_ROOT / "ops" / "prometheus" / "kafka-jmx.yml"
_METADATA_SECONDS = 5.0

# Measured on two cores with 400,000 records of 300 bytes and acks=all. Compared with the second JIT compiler or
# another garbage collector: ready 0.5 s sooner, no slower (450,000 records/s), half the CPU time, 194 MB resident.
_JVM_OPTIONS = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")

_SETTINGS = """\
# Written by ops/embedded/kafka_part.py at every start.
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}{more_listeners}
advertised.listeners=PLAINTEXT://{host}:{port}{more_advertised}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{more_protocols}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={folder}/logs

# Topics are made by `ledgerline prepare`; a misspelt one must fail, not appear.
auto.create.topics.enable=false

# One broker: the internal topics cannot have the three replicas they ask for by default.
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
# A lane waits for a transaction that somebody leaves open on payments.intents: for a minute, not for 15.
transaction.max.timeout.ms=60000
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1

# Fifty partitions for each internal topic cost a second at first use and files for nobody.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
share.coordinator.state.topic.num.partitions=1

# A broker that was killed is let back in when its last session is over; 9 s by default.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500

# Nobody is waiting for more consumers to join first.
group.initial.rebalance.delay.ms=0

# The compactor's buffer is 128 MB by default, a quarter of this heap.
log.cleaner.dedupe.buffer.size=16777216
num.network.threads=2
num.io.threads=4
"""


Listeners = Mapping[str, tuple[int, int]]
"""Name -> (port that the broker listens on, port that it advertises)."""


class KafkaPart(Part):
    """Apache Kafka from its own jars; the broker has `port`, the controller (a quorum of one) has `controller_port`.

    `listeners` are additional listeners. Each has a name in capitals, the port that the broker listens on, and the
    port that the broker advertises to clients of this listener; a proxy can listen on the advertised port. If
    `metrics_port` is given, the broker serves the metrics of ops/prometheus/kafka-jmx.yml at /metrics. `settings` are
    added to server.properties. `users` are names with passwords for listeners that require SCRAM-SHA-512; they are
    created when the log folder is formatted.
    """

    name = "Kafka"
    stop_steps = ((signal.SIGTERM, 8.0),)

    def __init__(
        self,
        context: PartContext,
        *,
        controller_port: int,
        cache: Cache,
        listeners: Listeners | None = None,
        metrics_port: int | None = None,
        settings: Mapping[str, str] | None = None,
        users: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(context)
        self.controller_port = controller_port
        self.metrics_port = metrics_port
        self._listeners = dict(listeners or {})
        self._settings = dict(settings or {})
        self._users = dict(users or {})
        self._cache = cache
        self._java: Java | None = None

    @property
    def bootstrap(self) -> str:
        """The broker's address, as `bootstrap.servers` takes it."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def _settings_file(self) -> Path:
        return self.folder / "server.properties"

    def prepare(self) -> None:
        """Write the settings, and give an empty log folder its cluster id (`kafka-storage format`)."""
        more = self._listeners.items()
        settings = _SETTINGS.format(
            host=LOOPBACK,
            port=self.port,
            controller_port=self.controller_port,
            folder=self.folder,
            more_listeners="".join(f",{name}://{LOOPBACK}:{port}" for name, (port, _) in more),
            more_advertised="".join(f",{name}://{LOOPBACK}:{advertised}" for name, (_, advertised) in more),
            more_protocols="".join(f",{name}:PLAINTEXT" for name, _ in more),
        )
        # If a name occurs twice, Kafka uses the last one.
        self._settings_file.write_text(
            settings + "".join(f"{name}={value}\n" for name, value in self._settings.items())
        )
        self._settings_file.chmod(0o600)
        if (self.folder / "logs" / "meta.properties").exists():
            return
        jvm = self._java_argv(*_JVM_OPTIONS)
        self.report("kafka: formatting its log folder")
        cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        # The "=" keeps an id that starts with a dash from being read as an option.
        format_arguments = ("format", f"--cluster-id={cluster_id}", f"--config={self._settings_file}")
        users = (f"--add-scram=SCRAM-SHA-512=[name={name},password={word}]" for name, word in self._users.items())
        self.run_tool((*jvm, "kafka.tools.StorageTool", *format_arguments, *users))

    def command(self) -> Command:
        """Return the broker's command line."""
        return Command(
            argv=(*self._java_argv(*_JVM_OPTIONS, *self._exporter()), "kafka.Kafka", str(self._settings_file)),
            log=self.log,
            directory=self.folder,
        )

    def is_ready(self) -> bool:
        """Tell whether the broker answers a metadata request and names itself in the answer."""
        if not answers(LOOPBACK, self.port):
            return False
        client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        try:
            brokers = client.list_topics(timeout=_METADATA_SECONDS).brokers
        except KafkaException:
            return False  # the broker listens before it has registered with its controller: `start` asks again
        return any(broker.port == self.port for broker in brokers.values())

    def _exporter(self) -> tuple[str, ...]:
        if self.metrics_port is None:
            return ()
        (jar,) = self._cache.get(KAFKA_EXPORTER).glob("*.jar")
        return (f"-javaagent:{jar}={LOOPBACK}:{self.metrics_port}:{_EXPORTED}",)

    def _java_argv(self, *options: str) -> tuple[str, ...]:
        if self._java is None:
            self._java = find_java()
        jars = self._cache.get(KAFKA)
        return (
            str(self._java.executable),
            *options,
            f"-Dlog4j2.configurationFile={_LOGGING}",
            "-cp",
            f"{jars}/*",
        )
