"""Post one intent by Kafka: post.py BOOTSTRAP REGISTRY TOPIC SCHEMA_FILE."""

import sys
import time
import uuid
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

bootstrap, registry, topic, schema_file = sys.argv[1:5]
tenant, idempotency_key = "default", "order-17/capture"
account = "users:cleo:wallet"
namespace = uuid.UUID("caad481a-69a2-59e0-9004-8e048d6013ba")
intent = {
    "intent_id": str(uuid.uuid5(namespace, f"{tenant}\0{idempotency_key}")),
    "tenant": tenant,
    "idempotency_key": idempotency_key,
    "type": "transfer",
    "legs": [
        {"account": account, "direction": "debit", "amount_minor": 700, "currency": "EUR"},
        {"account": "external:bank", "direction": "credit", "amount_minor": 700, "currency": "EUR"},
    ],
    "reverses": None,
    "value_time": None,
    "reference": "order 17",
    "metadata": {},
    "accepted_time": time.time_ns() // 1000,
}
client = SchemaRegistryClient({"url": registry})
serialize = AvroSerializer(client, Path(schema_file).read_text(), conf={"auto.register.schemas": False})
value = serialize(intent, SerializationContext("payments.intents", MessageField.VALUE))
producer = Producer(
    {
        "bootstrap.servers": bootstrap,
        "acks": "all",
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
    }
)
failed = []
producer.produce(
    topic, key=f"{tenant}/{account}", value=value, on_delivery=lambda error, _: error and failed.append(error)
)
producer.flush()
sys.exit(str(failed[0]) if failed else None)
