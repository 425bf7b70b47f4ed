"""Records to Avro in the Schema Registry's wire format: a zero byte, four bytes of schema id, the body."""

import io
from collections.abc import Callable
from typing import Any

import fastavro

from runtime.avro_codec import REFUSALS, Codec
from runtime.schemas import parse_own_schema
from runtime.wire_format import FRAME, MAGIC

Encoder = Callable[[dict[str, Any]], bytes]


def make_encoder(subject: str, schema_id: int) -> Encoder:
    """Return a function that encodes a record (a dict) as framed bytes; it raises fastavro's errors."""
    schema = parse_own_schema(subject)
    frame = FRAME.pack(MAGIC, schema_id)
    codec = Codec(schema)

    def encode(record: dict[str, Any]) -> bytes:
        try:
            return codec.write(record, frame)
        except REFUSALS:
            out = io.BytesIO()
            out.write(frame)
            fastavro.schemaless_writer(out, schema, record)
            return out.getvalue()

    return encode
