"""Security headers of every answer: caching, the content type, and what a page may load."""

from typing import Final

from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Send
from starlette.types import Scope as ConnectionScope

ANSWER_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""The headers of every answer, unless its route sets others."""
_ANSWER_HEADERS: Final = [(name.lower().encode(), value.encode()) for name, value in ANSWER_HEADERS.items()]

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src {styles}; img-src {images}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def make_page_headers(*, styles: str = "'self'", images: str = "'self'", trusted_types: bool = True) -> dict[str, str]:
    """Return the headers of a page and of its files.

    The page runs and shows only files of this process, sends requests to this process only, and cannot be framed.
    """
    policy = _POLICY.format(styles=styles, images=images)
    return {
        "Content-Security-Policy": policy + ("; require-trusted-types-for 'script'" if trusted_types else ""),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Cache-Control": "no-cache",
    }


def drop_range(scope: ConnectionScope) -> ConnectionScope:
    """Return the scope without a Range header, which a server may ignore (RFC 9110, 14.2).

    Starlette answers a malformed one with plain text, and all our errors are problem+json.
    """
    return {**scope, "headers": [header for header in scope.get("headers", ()) if header[0] != b"range"]}


class WholeFile(FileResponse):
    """A file that is sent whole, whatever Range header asks for a part of it."""

    async def __call__(self, scope: ConnectionScope, receive: Receive, send: Send) -> None:
        """Send the file."""
        await super().__call__(drop_range(scope), receive, send)


class PageAssets(StaticFiles):
    """The files of a page, sent whole; each answer has the page's headers."""

    def __init__(self, directory: str, headers: dict[str, str]) -> None:
        super().__init__(directory=directory)
        self._headers = headers

    async def __call__(self, scope: ConnectionScope, receive: Receive, send: Send) -> None:
        """Send a file, or 404."""
        await super().__call__(drop_range(scope), receive, send)

    async def get_response(self, path: str, scope: ConnectionScope) -> Response:
        """Return the file, or 404."""
        response = await super().get_response(path, scope)
        response.headers.update(self._headers)
        return response


def add_security_headers(message: Message, correlation_id: str) -> None:
    """Add the common headers and the correlation id to the message that begins an answer. A route's own headers win."""
    headers = list(message.get("headers", ()))
    names = [name for name, _ in headers]
    headers.append((b"x-correlation-id", correlation_id.encode("latin-1")))
    headers += [header for header in _ANSWER_HEADERS if header[0] not in names]
    message["headers"] = headers
