"""The guard of connections to users' addresses: real sockets on loopback, only the resolver is false."""

import asyncio
import socket
from collections.abc import Iterator, Sequence

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from domain.outside_calls import Answer, Failure, Request
from runtime import guarded_http
from runtime.guarded_http import AddressRefused, GuardedHttp, _JudgingResolver

NAME = "hooks.example.com"
LOOPBACK = "127.83.1.7"
"""An own address of loopback, so that port 8443, which the guard allows, is free on it."""
PORT = 8443


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A server that a guarded client must never reach. It refuses to wait, so `accept` shows who came."""
    with socket.create_server((LOOPBACK, PORT)) as made:
        made.setblocking(False)
        yield made


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Let the system's resolver find these addresses for every name; return the list of the names asked for."""
    asked: list[str] = []

    def find(host: str, port: int, *_: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
            for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", find)
    return asked


def send(private_allowed: bool) -> Answer | Failure:
    """Send a request to the name by a new client."""

    async def run() -> Answer | Failure:
        request = Request("POST", f"https://{NAME}:{PORT}/", {}, b"{}", timeout_seconds=1.0)
        async with GuardedHttp(private_allowed=private_allowed, connections_max=4, timeout_seconds=1.0) as http:
            return await http.send(request)

    return asyncio.run(run())


def was_reached(listener: socket.socket) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def resolve(*, private_allowed: bool) -> list[str]:
    found = asyncio.run(_JudgingResolver(private_allowed).resolve(NAME, PORT))
    return [one["host"] for one in found]


@pytest.mark.parametrize("addresses", [[LOOPBACK], [LOOPBACK, "10.0.0.1", "::1"], ["::ffff:" + LOOPBACK]])
def test_a_public_name_that_leads_to_loopback_is_refused(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket, addresses: Sequence[str]
) -> None:
    """Nothing connects, and the failure says that nothing was sent, so a retry is safe."""
    asked = resolve_to(monkeypatch, *addresses)
    found = send(private_allowed=False)
    assert isinstance(found, Failure)
    assert "no address of the public internet" in found.reason
    assert not found.is_sent
    assert asked == [NAME]
    assert not was_reached(listener)


def test_the_listener_is_reached_without_the_guard(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    """The test above would notice a connection."""
    resolve_to(monkeypatch, LOOPBACK)
    assert isinstance(send(private_allowed=True), Failure)
    assert was_reached(listener)


def test_a_connection_is_judged_again(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    """A resolver that judges nothing, as a fault in it would: the socket's factory still refuses loopback."""

    class Careless(AbstractResolver):
        def __init__(self, private_allowed: bool) -> None:
            assert not private_allowed

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            return [
                ResolveResult(
                    hostname=host, host=LOOPBACK, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST
                )
            ]

        async def close(self) -> None:
            """Hold nothing, close nothing."""

    monkeypatch.setattr(guarded_http, "_JudgingResolver", Careless)
    found = send(private_allowed=False)
    assert isinstance(found, Failure)
    assert "the address is not one of the public internet" in found.reason
    assert not found.is_sent
    assert not was_reached(listener)


def test_mixed_answers_give_public_addresses_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that mixes public and other addresses: only the public ones can be connected to, in their order."""
    mixed = [LOOPBACK, "8.8.8.8", "10.0.0.1", "::1", "2606:4700::1111", "169.254.169.254", "1.1.1.1"]
    resolve_to(monkeypatch, *mixed)
    assert resolve(private_allowed=False) == ["8.8.8.8", "2606:4700::1111", "1.1.1.1"]
    assert resolve(private_allowed=True) == mixed
    resolve_to(monkeypatch, LOOPBACK, "fd00:ec2::254")
    with pytest.raises(AddressRefused):
        resolve(private_allowed=False)
