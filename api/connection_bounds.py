"""The bounds on a connection, and the causes for which the API ends one."""

from enum import Enum
from typing import NamedTuple


class ConnectionBounds(NamedTuple):
    """The bounds from the settings; docs/SETTINGS.md explains each."""

    head_bytes_max: int
    headers_max: int
    pipelined_max: int
    connections_max: int
    address_connections_max: int
    unread_bytes_max: int
    head_seconds_max: float
    body_seconds_max: float
    unread_seconds_max: float
    idle_seconds_max: float


class Cause(Enum):
    """Why the API ended a connection; the values are labels of a metric."""

    HEAD_TOO_LARGE = "head_too_large"
    HEAD_TOO_SLOW = "head_too_slow"
    BODY_TOO_SLOW = "body_too_slow"
    NO_HTTP = "no_http"
    PIPELINE = "pipeline"
    UNREAD = "unread"
    IDLE = "idle"
    CONNECTIONS = "connections"
    ADDRESS = "address"
