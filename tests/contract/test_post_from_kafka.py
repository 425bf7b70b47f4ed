"""The programs of examples/post-from-kafka run where Ledgerline cannot be imported."""

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from domain.intents import compute_intent_id
from ops.embedded.cache import KAFKA, REGISTRY, Cache
from ops.embedded.stack import Endpoints
from producers.deploy import register_schemas
from runtime.schemas import AVRO_FOLDER
from runtime.settings import REPOSITORY_ROOT
from streams.decode import IntentDecoder

GO_MODULES = ("github.com/twmb/franz-go/pkg/kgo@v1.22.3", "github.com/hamba/avro/v2@v2.31.0")
PROGRAMS = REPOSITORY_ROOT / "examples" / "post-from-kafka"
BUILD_SECONDS = 540
RUN_SECONDS = 60
HAS_COMPILER = shutil.which("javac") is not None
HAS_GO = shutil.which("go") is not None


def python(folder: Path) -> list[str]:
    """Write the program, after lines that remove Ledgerline from the search path; return its command."""
    program = folder / "post.py"
    program.write_text(
        "import importlib.util, sys\n"
        f"sys.path = [path for path in sys.path if path != {str(REPOSITORY_ROOT)!r}]\n"
        "sys.meta_path = [finder for finder in sys.meta_path if 'editable' not in repr(finder).lower()]\n"
        "assert importlib.util.find_spec('domain') is None and importlib.util.find_spec('producers') is None\n"
        + (PROGRAMS / "post.py").read_text()
    )
    return [sys.executable, "-I", str(program)]


def java(folder: Path) -> list[str]:
    """Compile with the jars of the embedded parts, so that no jar is fetched; a warning is an error."""
    cache = Cache(
        Path(os.environ.get("LEDGERLINE_HOME", REPOSITORY_ROOT / ".ledgerline")) / "cache", lambda _line: None
    )
    (avro,) = cache.get(REGISTRY).glob("lib/main/org.apache.avro.avro-*.jar")
    classes = f"{cache.get(KAFKA)}/*:{avro}:{folder}"
    options = ["-Xlint:all", "-Werror", "-proc:none", "-cp", classes]
    subprocess.run(
        ["javac", *options, "-d", str(folder), str(PROGRAMS / "Post.java")], check=True, timeout=BUILD_SECONDS
    )
    return ["java", "-cp", classes, "Post"]


def go(folder: Path) -> list[str]:
    """Build with the module versions that the program was tried with."""
    shutil.copy(PROGRAMS / "main.go", folder)
    for command in (
        ["go", "mod", "init", "example.com/post"],
        ["go", "get", *GO_MODULES],
        ["go", "mod", "tidy"],
        ["go", "vet", "."],
        ["go", "build", "-o", "post", "."],
    ):
        subprocess.run(command, check=True, cwd=folder, timeout=BUILD_SECONDS)
    return [str(folder / "post")]


@pytest.mark.parametrize(
    "make",
    [
        python,
        pytest.param(java, marks=pytest.mark.skipif(not HAS_COMPILER, reason="there is no compiler of Java here")),
        pytest.param(
            go,
            marks=[
                pytest.mark.long,
                pytest.mark.timeout(600),
                pytest.mark.skipif(not HAS_GO, reason="there is no Go here"),
            ],
        ),
    ],
)
def test_the_programs_post_what_we_read(make: Callable[[Path], list[str]], stack: Endpoints, tmp_path: Path) -> None:
    command = make(tmp_path)
    register_schemas(stack.registry)
    topic = f"outside.{uuid.uuid4().hex[:8]}"
    admin = AdminClient(stack.kafka.make_client_options())
    admin.create_topics([NewTopic(topic, num_partitions=4, replication_factor=1)])[topic].result(30)
    schema = AVRO_FOLDER / "payments" / "payment_intent.avsc"
    subprocess.run(
        [*command, stack.kafka_bootstrap, stack.registry_url, topic, str(schema)],
        check=True,
        cwd=tmp_path,
        timeout=RUN_SECONDS,
    )
    consumer = Consumer({**stack.kafka.make_client_options(), "group.id": topic})
    consumer.assign([TopicPartition(topic, lane, 0) for lane in range(4)])
    message = consumer.poll(30)
    consumer.close()
    decoder = IntentDecoder(stack.registry)
    try:
        intent = decoder.decode(message.value())
    finally:
        decoder.close()
    assert intent.intent_id == compute_intent_id("default", "order-17/capture")
    assert [(leg.account, leg.amount_minor, leg.currency) for leg in intent.legs] == [
        ("users:cleo:wallet", 700, "EUR"),
        ("external:bank", 700, "EUR"),
    ]
    assert (intent.reference, intent.value_time, dict(intent.metadata)) == ("order 17", None, {})
    assert abs(intent.accepted_time - message.timestamp()[1] * 1000) < RUN_SECONDS * 1_000_000
    assert message.key() == b"default/users:cleo:wallet"
    # Java's murmur2 of that key over four partitions. The API's own producer chooses the same partition.
    assert message.partition() == 3
