"""The program of docs/how-to/post-from-kafka.md, where Ledgerline cannot be imported."""

import re
import subprocess
import sys
import uuid
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from domain.intents import intent_id_of
from domain.settings import REPOSITORY_ROOT
from ops.embedded.stack import Endpoints
from producers.deploy import register_schemas
from producers.encoding import AVRO_FOLDER
from streams.decode import IntentDecoder


def test_the_program_in_python_posts_what_we_read(stack: Endpoints, tmp_path: Path) -> None:
    page = (REPOSITORY_ROOT / "docs" / "how-to" / "post-from-kafka.md").read_text()
    program = tmp_path / "post.py"
    (text,) = re.findall(r"```python\n(.+?)```", page, re.DOTALL)
    program.write_text(
        "import importlib.util, sys\n"
        f"sys.path = [path for path in sys.path if path != {str(REPOSITORY_ROOT)!r}]\n"
        "sys.meta_path = [finder for finder in sys.meta_path if 'editable' not in repr(finder).lower()]\n"
        "assert importlib.util.find_spec('domain') is None and importlib.util.find_spec('producers') is None\n" + text
    )
    register_schemas(stack.registry)
    topic = f"outside.{uuid.uuid4().hex[:8]}"
    admin = AdminClient(stack.kafka.client_options())
    admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])[topic].result(30)
    schema = AVRO_FOLDER / "payments" / "payment_intent.avsc"
    subprocess.run(
        [sys.executable, "-I", program, stack.kafka_bootstrap, stack.registry_url, topic, schema],
        check=True,
        cwd=tmp_path,
        timeout=60,
    )
    consumer = Consumer({**stack.kafka.client_options(), "group.id": topic})
    consumer.assign([TopicPartition(topic, 0, 0)])
    message = consumer.poll(30)
    consumer.close()
    decoder = IntentDecoder(stack.registry)
    try:
        intent = decoder.decode(message.value())
    finally:
        decoder.close()
    assert intent.intent_id == intent_id_of("default", "order-17/capture")
    assert [(leg.account, leg.amount_minor, leg.currency) for leg in intent.legs] == [
        ("users:cleo:wallet", 700, "EUR"),
        ("external:bank", 700, "EUR"),
    ]
    assert message.key() == b"default/users:cleo:wallet"
