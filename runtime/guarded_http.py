"""An HTTP client for addresses that users give. It connects only to addresses that it has judged.

The client resolves a name once for a connection, and connects only to those of its addresses that are public. A name
without one is refused. The socket factory judges the address again: it sees what is really connected to. TLS checks the
name. The client follows no redirect, keeps no cookie, unpacks nothing, and uses no proxy of the environment.
"""

import asyncio
import socket
import ssl
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from domain.addresses import find_url_fault, is_public
from domain.outside_calls import Answer, Failure, Request
from runtime.release import VERSION

HEADER_BYTES_MAX: Final = 8192
HEADERS_MAX: Final = 100
ANSWER_BYTES_MAX: Final = 65_536
CONNECT_SECONDS_MAX: Final = 5.0
KEEP_ALIVE_SECONDS: Final = 10.0
CLOSE_SECONDS_MAX: Final = 2.0


class AddressRefused(OSError):
    """A name leads to no public address, or a connection to an address that is not public was asked for."""


class _JudgingResolver(AbstractResolver):
    """Resolves a name to its public addresses, and refuses a name that has none."""

    def __init__(self, private_allowed: bool) -> None:
        self._private_allowed = private_allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host that may be connected to. Raise AddressRefused if there are none."""
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
        allowed = [
            ResolveResult(
                hostname=host, host=str(address[0]), port=port, family=kind, proto=protocol, flags=socket.AI_NUMERICHOST
            )
            for kind, _, protocol, _, address in found
            if self._private_allowed or is_public(str(address[0]))
        ]
        if not allowed:
            raise AddressRefused("the host has no address of the public internet")
        return allowed

    async def close(self) -> None:
        """Hold nothing, close nothing."""


class GuardedHttp:
    """The client; an asynchronous context. `send` returns failures as values."""

    def __init__(
        self, *, private_allowed: bool, connections_max: int, timeout_seconds: float, ca_file: Path | None = None
    ) -> None:
        self._private_allowed = private_allowed
        self._timeout_seconds = timeout_seconds
        self._tls = ssl.create_default_context()
        if ca_file is not None:
            self._tls.load_verify_locations(ca_file)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._connections_max = connections_max
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            resolver=_JudgingResolver(self._private_allowed),
            socket_factory=self._make_socket,
            ssl=self._tls,
            limit=self._connections_max,
            ttl_dns_cache=10,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            max_headers=HEADERS_MAX,
            read_bufsize=ANSWER_BYTES_MAX,
            headers={"User-Agent": f"ledgerline/{VERSION}", "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                await self._session.close()

    def _make_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """Make the socket for an address. Each connection passes here, also one to a literal address."""
        family, kind, protocol, _, address = info
        if not self._private_allowed and not is_public(str(address[0])):
            raise AddressRefused("the address is not one of the public internet")
        return socket.socket(family=family, type=kind, proto=protocol)

    async def send(self, request: Request) -> Answer | Failure:
        """Send a request; return its answer, or why there is none. It takes at most the request's time limit."""
        if self._session is None:
            raise RuntimeError("enter the client first")
        if (fault := find_url_fault(request.url, self._private_allowed)) is not None:
            return Failure(fault, is_sent=False)
        seconds = request.timeout_seconds or self._timeout_seconds
        timeout = aiohttp.ClientTimeout(total=seconds, connect=min(seconds, CONNECT_SECONDS_MAX))
        try:
            async with self._session.request(
                request.method,
                URL(request.url, encoded=True),
                headers=request.headers,
                data=request.body,
                allow_redirects=False,
                timeout=timeout,
            ) as response:
                body = await _read_bounded(response)
                return Answer(response.status, body, response.headers.get("Retry-After"))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            # All of these come before the first byte of the request.
            return Failure(f"no connection: {_explain(error)}", is_sent=False)
        except AddressRefused as error:
            return Failure(str(error), is_sent=False)
        except TimeoutError:
            return Failure(f"no whole answer within {seconds:g} s", is_sent=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Failure(f"the connection failed: {_explain(error)}", is_sent=True)


def _explain(error: Exception) -> str:
    """Return the kind of the error and of its cause; the text may have what the other side sent."""
    cause = getattr(error, "os_error", None) or error.__cause__
    told = str(cause) if isinstance(cause, AddressRefused) else type(cause).__name__ if cause is not None else ""
    return f"{type(error).__name__} {told}".strip()


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    """Return the body's first ANSWER_BYTES_MAX bytes; close the connection if there are more."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > ANSWER_BYTES_MAX:
            response.close()
            break
    return bytes(body[:ANSWER_BYTES_MAX])
