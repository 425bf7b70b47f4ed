"""The frame of every Avro value in Kafka: a zero byte, then the schema's id in four bytes, big endian."""

import struct
from typing import Final

MAGIC: Final = 0
FRAME: Final = struct.Struct(">bI")
