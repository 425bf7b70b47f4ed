"""Loopback ports: picked free once, remembered beside the data, picked again only when taken.

A part that is stopped and started again must come back under the same address, because its clients hold it.
"""

import json
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

from ops.embedded.errors import EmbeddedError

LOOPBACK = "127.0.0.1"
_PORT_MIN = 20_000
_ATTEMPTS_MAX = 200
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EPHEMERAL_LOW_DEFAULT = 32_768


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set this option too: a port counts as free if only closed connections (TIME_WAIT) are left on it.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def answers(host: str, port: int, *, timeout_seconds: float = 1.0) -> bool:
    """Tell whether something accepts connections at this address."""
    try:
        socket.create_connection((host, port), timeout=timeout_seconds).close()
    except OSError:
        return False
    return True


def pick_free(avoid: frozenset[int] = frozenset()) -> int:
    """Return a free loopback port below the kernel's ephemeral range.

    The kernel may give a port inside that range to any outgoing connection while the server is down. A client that
    keeps reconnecting can even connect to itself there (TCP simultaneous open); then the server never gets its port
    back.
    """
    for _ in range(_ATTEMPTS_MAX):
        port = _PORT_MIN + secrets.randbelow(_ephemeral_low() - _PORT_MIN)
        if port not in avoid and is_free(port):
            return port
    raise EmbeddedError(f"No free loopback port was found in {_ATTEMPTS_MAX} attempts: stop servers you do not need.")


def _ephemeral_low() -> int:
    if not _EPHEMERAL_RANGE.exists():
        return _EPHEMERAL_LOW_DEFAULT
    low = int(_EPHEMERAL_RANGE.read_text().split()[0])
    return low if low > _PORT_MIN + _ATTEMPTS_MAX else _EPHEMERAL_LOW_DEFAULT


class PortMemory:
    """The ports of one home, kept in a JSON file: {"kafka": 23456, ...}."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def claim(self, names: tuple[str, ...], wanted: Mapping[str, int] | None = None) -> dict[str, int]:
        """Return a port for each name: the wanted one, else the remembered one if free, else a new one.

        Raises EmbeddedError when a wanted port is taken.
        """
        remembered = self._read()
        claimed: dict[str, int] = {}
        for name in names:
            port = (wanted or {}).get(name)
            if port is not None:
                require_free(name, port)
            else:
                port = remembered.get(name)
                if port is None or port in claimed.values() or not is_free(port):
                    port = pick_free(frozenset(claimed.values()) | frozenset(remembered.values()))
            claimed[name] = port
        self._write(remembered | claimed)
        return claimed

    def _read(self) -> dict[str, int]:
        if not self._path.exists():
            return {}
        return {str(name): int(port) for name, port in json.loads(self._path.read_text()).items()}

    def _write(self, ports: Mapping[str, int]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps(dict(sorted(ports.items())), indent=2) + "\n")
        draft.replace(self._path)


def require_free(name: str, port: int) -> None:
    """Raise EmbeddedError when the port that was asked for by name is taken."""
    if not is_free(port):
        raise EmbeddedError(
            f"Port {port} for {name} is taken: stop what listens on it, or unset or change {variable(name)}."
        )


def variable(name: str) -> str:
    """Return the environment variable that sets the port of a part or service: LEDGERLINE_KAFKA_PORT."""
    return f"LEDGERLINE_{name.upper()}_PORT"
