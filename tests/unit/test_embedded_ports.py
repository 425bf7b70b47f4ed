"""Ports are free, outside the kernel's ephemeral range, remembered, and changed only if another process takes them."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ops.embedded import EmbeddedError
from ops.embedded.ports import LOOPBACK, PortMemory, answers, is_free, pick_free
from ops.embedded.stack import ports_from_environment


@contextmanager
def listening(port: int = 0) -> Iterator[int]:
    """Run a server that accepts connections, and yield its port."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((LOOPBACK, port))
        server.listen()
        yield server.getsockname()[1]


def test_a_picked_port_is_free_and_below_the_ephemeral_range() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    port = pick_free()
    assert is_free(port)
    assert 20_000 <= port < max(low, 32_768)


def test_a_port_that_is_listened_on_is_taken() -> None:
    with listening() as port:
        assert not is_free(port)
        assert answers(LOOPBACK, port)
    assert is_free(port)
    assert not answers(LOOPBACK, port)


def test_a_claimed_port_is_remembered(tmp_path: Path) -> None:
    memory = PortMemory(tmp_path / "data" / "ports.json")
    first = memory.claim(("kafka", "postgres"))
    assert len(set(first.values())) == 2
    assert PortMemory(tmp_path / "data" / "ports.json").claim(("kafka", "postgres")) == first
    assert json.loads((tmp_path / "data" / "ports.json").read_text()) == first


def test_a_remembered_port_is_picked_again_only_when_taken(tmp_path: Path) -> None:
    memory = PortMemory(tmp_path / "ports.json")
    first = memory.claim(("kafka", "postgres"))
    with listening(first["kafka"]):
        second = memory.claim(("kafka", "postgres"))
    assert second["kafka"] != first["kafka"]
    assert second["postgres"] == first["postgres"]
    assert memory.claim(("kafka", "postgres")) == second


def test_names_claimed_earlier_are_kept(tmp_path: Path) -> None:
    memory = PortMemory(tmp_path / "ports.json")
    stack = memory.claim(("kafka",))
    services = memory.claim(("api",))
    assert memory.claim(("kafka", "api")) == stack | services


def test_a_wanted_port_wins_over_the_remembered_one(tmp_path: Path) -> None:
    memory = PortMemory(tmp_path / "ports.json")
    memory.claim(("kafka",))
    wanted = pick_free()
    assert memory.claim(("kafka",), {"kafka": wanted}) == {"kafka": wanted}


def test_a_wanted_port_that_is_taken_is_an_error_that_names_the_variable(tmp_path: Path) -> None:
    with listening() as port, pytest.raises(EmbeddedError) as caught:
        PortMemory(tmp_path / "ports.json").claim(("kafka",), {"kafka": port})
    assert str(caught.value) == (
        f"Port {port} for kafka is taken: stop what listens on it, or unset or change LEDGERLINE_KAFKA_PORT."
    )


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        (None, {}),
        ("", {}),
        ("0", {}),
        (" 9092 ", {"kafka": 9092}),
        ("65535", {"kafka": 65535}),
    ],
)
def test_ports_come_from_the_environment(text: str | None, ports: dict[str, int]) -> None:
    environment = {} if text is None else {"LEDGERLINE_KAFKA_PORT": text}
    assert ports_from_environment(("kafka",), environment) == ports


@pytest.mark.parametrize("text", ["kafka", "-1", "65536", "90.92"])
def test_a_variable_that_is_no_port_is_an_error(text: str) -> None:
    with pytest.raises(EmbeddedError, match=r"LEDGERLINE_KAFKA_PORT is .* set a number from 1 to 65535"):
        ports_from_environment(("kafka",), {"LEDGERLINE_KAFKA_PORT": text})
