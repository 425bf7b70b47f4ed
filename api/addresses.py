"""The address that a request came from, also through trusted proxies. Pure: no I/O."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

_HOPS_MAX: Final = 32
UNKNOWN: Final = "unknown"


class TrustedProxies(NamedTuple):
    """The proxies whose X-Forwarded-For is trusted: the last `hops` ones, or those in `networks`; by default none."""

    hops: int = 0
    networks: tuple[IPv4Network | IPv6Network, ...] = ()


NO_PROXIES: Final = TrustedProxies()


def parse_trusted_proxies(text: str) -> TrustedProxies:
    """Read a setting: a number of proxies such as `1`, or networks such as `10.0.0.0/8, ::1`; empty means none.

    Raise ValueError for anything else.
    """
    wanted = text.strip()
    if not wanted:
        return NO_PROXIES
    if wanted.isascii() and wanted.isdigit():
        hops = int(wanted)
        if hops > _HOPS_MAX:
            raise ValueError(f"at most {_HOPS_MAX} proxies can stand in a row")
        return TrustedProxies(hops=hops)
    try:
        return TrustedProxies(networks=tuple(ip_network(part.strip()) for part in wanted.split(",")))
    except ValueError as error:
        raise ValueError(
            f"give a number of proxies, or networks such as 10.0.0.0/8 with commas between: {error}"
        ) from error


def find_client_address(peer: str | None, forwarded_for: Sequence[str], trusted: TrustedProxies) -> str:
    """Return the address nearest to us that is not a trusted proxy's; only entries of trusted proxies are believed.

    `peer` is the other end of the connection, `forwarded_for` the X-Forwarded-For headers in order. Each proxy appends
    the address that it saw. So the list is read from its end, and entries that the client wrote are never reached.
    """
    address = peer or UNKNOWN
    if trusted == NO_PROXIES:
        return address
    hops = [part.strip() for header in forwarded_for for part in header.split(",")]
    for passed, hop in enumerate(reversed(hops[-_HOPS_MAX:])):
        is_trusted = passed < trusted.hops if trusted.hops else _is_in(address, trusted.networks)
        if not is_trusted or not _is_address(hop):
            break
        address = hop
    return address


def is_proxy(peer: str, trusted: TrustedProxies) -> bool:
    """Return whether the other end of a connection is a trusted proxy, which serves many clients."""
    return bool(trusted.hops) or _is_in(peer, trusted.networks)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_in(text: str, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    return _is_address(text) and any(ip_address(text) in network for network in networks)
