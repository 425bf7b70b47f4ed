"""The command line's client of the HTTP API: address and key, lists over several pages, problems as sentences."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import httpx

from cli.context import find_api_key, find_running_ledger
from domain.errors import LedgerlineError

TIMEOUT_SECONDS: Final = 60.0
PAGE_ITEMS_MAX: Final = 1000
_HEADER_VALUE: Final = re.compile(r"[!-~]+")


class ApiError(LedgerlineError):
    """The API refused the request, or does not answer."""


def find_api_address() -> tuple[str, str]:
    """Return the URL of the running ledger's API and the command line's key; raise ApiError if either is missing."""
    ledger = find_running_ledger()
    if ledger.api_url is None:
        raise ApiError("The address of the API is not known: set LEDGERLINE_API_URL.")
    key = find_api_key(ledger.settings)
    if not key:
        raise ApiError("No API key is known: make one with `ledgerline keys add` and set LEDGERLINE_API_KEY.")
    if not _HEADER_VALUE.fullmatch(key):
        raise ApiError(
            "LEDGERLINE_API_KEY is no API key: a key begins with llk_, and has only letters, digits, - and _."
        )
    return ledger.api_url, key


@contextmanager
def open_api_client() -> Iterator[httpx.Client]:
    """Yield a client of the running ledger's API; raise ApiError if address or key is missing or the API is down."""
    url, key = find_api_address()
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_SECONDS) as client:
        try:
            yield client
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise ApiError(
                f"LEDGERLINE_API_URL cannot be used: {url} is no address, such as http://host:8080."
            ) from error
        except httpx.LocalProtocolError as error:
            raise ApiError(f"The request cannot be written as HTTP ({error}).") from error
        except httpx.TransportError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise ApiError(
                    f"The certificate of the API at {url} is not vouched for ({error}): check the address, and that"
                    " SSL_CERT_FILE names its authority."
                ) from error
            raise ApiError(f"The API at {url} does not answer: see `ledgerline status`.") from error


def get_answer(response: httpx.Response) -> Any:
    """Return the JSON of a successful response; raise ApiError with the problem's sentence otherwise."""
    if response.is_success:
        return response.json()
    try:
        sentence = make_problem_sentence(response.json())
    except (ValueError, KeyError, TypeError, AttributeError):
        sentence = f"The API answered {response.status_code}, without saying why."
    raise ApiError(sentence)


def make_problem_sentence(document: Mapping[str, Any]) -> str:
    """Return a problem document (RFC 9457) as a sentence: its title, and each faulty part, else its detail."""
    parts = [f"{part.get('pointer') or part.get('parameter')}: {part['detail']}" for part in document.get("errors", ())]
    told = " ".join(part if part.endswith((".", "?", "!")) else f"{part}." for part in parts)
    return f"{document['title']}: {told or document['detail']}"


def list_items(client: httpx.Client, path: str, filters: Mapping[str, Any], rows_max: int) -> list[dict[str, Any]]:
    """Return up to `rows_max` items of a list, over as many pages as needed."""
    given = {name: value for name, value in filters.items() if value is not None}
    url: str | None = str(httpx.URL(path, params={**given, "limit": min(rows_max, PAGE_ITEMS_MAX)}))
    rows: list[dict[str, Any]] = []
    while url is not None and len(rows) < rows_max:  # ends, because each link continues after the last item
        page = get_answer(client.get(url))
        rows += page["items"]
        url = page["next"]
    return rows[:rows_max]
