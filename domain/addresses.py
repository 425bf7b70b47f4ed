"""Which addresses of users' URLs may be called: the guard against server-side request forgery (SSRF).

`find_url_fault` judges the text of a URL when a user gives it, and again at each attempt. runtime.guarded_http resolves
the name at each attempt, judges every address with `is_public`, and connects to a judged address, not to the name.
"""

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

PORTS: Final = (443, 8443)
URL_CHARACTERS_MAX: Final = 2000
OCTETS: Final = 4
_LABEL: Final = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)", re.ASCII)
_NUMBER: Final = re.compile(r"\d+|0x[0-9a-f]*", re.ASCII)
_GLOBAL_UNICAST_6: Final = ipaddress.ip_network("2000::/3")
# Outside 2000::/3 everything is refused: loopback, local, multicast, mapped (::ffff:0:0/96) and translated (64:ff9b::).
# The ranges here are inside it. Each leads to an IPv4 address (6to4 2002::, Teredo 2001::), or to nobody.
_REFUSED_6: Final = tuple(map(ipaddress.ip_network, ("2002::/16", "2001::/23", "2001:db8::/32", "3fff::/20")))
_REFUSED_4: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16",
            "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        ),
    )
)  # fmt: skip


def is_public(address: str) -> bool:
    """Return whether an IP address, as text, is one of the public internet. Text that is no address is not."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv4Address):
        return not any(found in network for network in _REFUSED_4)
    # A zone (fe80::1%eth0) chooses an interface of this machine.
    return (
        found.scope_id is None
        and found in _GLOBAL_UNICAST_6
        and not any(found in network for network in _REFUSED_6)
    )  # fmt: skip


def find_url_fault(url: str, private_allowed: bool = False) -> str | None:
    """Return one sentence that says why a user's URL may not be called; None if its text has no fault.

    `private_allowed`: for tests and the embedded stack. Then http, each port and private addresses pass too.
    """
    if len(url) > URL_CHARACTERS_MAX or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return f"The URL has at most {URL_CHARACTERS_MAX} printable ASCII characters, without spaces and backslashes."
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        return "The URL cannot be read: write it as https://host/path."
    if parts.scheme != "https" and not (private_allowed and parts.scheme == "http"):
        return "The URL begins with https://, as calls are always encrypted."
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        return "The URL holds a name or password: leave them out."
    if parts.fragment or url.endswith("#"):
        return "The URL has a fragment (#), which is never sent: leave it out."
    if not host:
        return "The URL names no host."
    if private_allowed:
        return None
    if port is not None and port not in PORTS:
        return "The URL's port is 443 or 8443."
    return _find_host_fault(host)


def _find_host_fault(host: str) -> str | None:
    if ":" in host:
        return None if is_public(host) else "The URL's address is not one of the public internet."
    labels = host.removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # The system's resolver takes 127.1, 0x7f.1 and 2130706433 for addresses too; only the plain form may pass.
        if len(labels) == OCTETS and not host.endswith(".") and is_public(host):
            return None
        return "The URL's address is not one of the public internet, or is not written as four plain numbers."
    if len(labels) == 1 or not all(_LABEL.fullmatch(label) for label in labels):
        return "The URL's host is a full name, such as hooks.example.com; write other letters in IDNA's form (xn--)."
    if labels[-1] in ("localhost", "local", "internal", "home", "lan", "arpa", "onion"):
        return "The URL's host is a name of a private network."
    return None
