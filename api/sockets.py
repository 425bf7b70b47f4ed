"""Options of the operating system for the sockets of clients."""

import asyncio
import resource
import socket
from typing import Final

KERNEL_BYTES_MAX: Final = 131_072


def keep_little_in_the_kernel(transport: asyncio.Transport) -> None:
    """Limit how much of an answer the kernel buffers before it sends it (TCP_NOTSENT_LOWAT).

    Without the limit the kernel buffers megabytes, which none of our bounds counts. Then a client that reads slowly
    looks for a long time like a client that does not read.
    """
    connected = transport.get_extra_info("socket")
    if connected is not None and connected.family != socket.AF_UNIX and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, KERNEL_BYTES_MAX)


def allow_open_files(connections_max: int) -> None:
    """Raise this process' soft limit of open files to twice the connections and 512 more, or to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections_max + 512
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
