"""Security headers of every answer: caching, the content type, and what a page may load."""

from typing import Final

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Message
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


class PageAssets(StaticFiles):
    """The files of a page; each answer has the page's headers."""

    def __init__(self, directory: str, headers: dict[str, str]) -> None:
        super().__init__(directory=directory)
        self._headers = headers

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
