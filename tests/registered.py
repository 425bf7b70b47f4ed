"""What the registry holds of the project's schemas. The ids stay the same, so it is asked once a session."""

from functools import cache
from typing import Final

from producers.relay import RelayEncoders
from runtime.schema_registry import SchemaRegistry
from runtime.schemas import find_registered_id, make_registry_client

find_encoders: Final = cache(RelayEncoders.find_registered)


@cache
def find_schema_id(registry: SchemaRegistry, subject: str) -> int:
    """Return the registry's id of the project's schema of this subject."""
    with make_registry_client(registry) as client:
        return find_registered_id(client, subject)
