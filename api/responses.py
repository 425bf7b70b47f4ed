"""JSON responses, and the OpenAPI documentation of a route's problems."""

import json
from typing import Any, Final

import orjson
from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field

from api.problems import MEDIA_TYPE, Kind, Problem

# The problems that every route with authentication can answer.
_COMMON: Final = (
    Kind.BAD_REQUEST,
    Kind.UNKNOWN_PARAMETER,
    Kind.UNAUTHENTICATED,
    Kind.SCOPE_MISSING,
    Kind.BODY_TOO_SLOW,
    Kind.BODY_TOO_LARGE,
    Kind.INVALID_REQUEST,
    Kind.RATE_LIMITED,
    Kind.SHARE_USED_UP,
    Kind.INTERNAL,
    Kind.DATABASE_UNAVAILABLE,
    Kind.DATABASE_BUSY,
    Kind.NOT_READY,
    Kind.OVERLOADED,
)


class ProblemDocument(BaseModel):
    """Problem details (RFC 9457). Branch on `type`; some kinds carry more members."""

    model_config = ConfigDict(extra="allow", title="Problem")

    type: str = Field(description="A stable URI, documented in docs/ERRORS.md.", examples=[Kind.UNBALANCED.type])
    title: str
    status: int
    detail: str


def make_problem_responses(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """Return `responses` for a route with authentication: the common kinds and these, by status, with examples."""
    by_status: dict[int | str, list[Kind]] = {}
    for kind in (*_COMMON, *kinds):
        by_status.setdefault(kind.status, []).append(kind)
    return {
        status: {
            "model": ProblemDocument,
            "description": "; ".join(kind.title for kind in found),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/ProblemDocument"},
                    "examples": {kind.slug: {"value": Problem(kind, f"{kind.title}.").document()} for kind in found},
                }
            },
        }
        for status, found in sorted(by_status.items(), key=lambda entry: int(entry[0]))
    }


def make_json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return the content as a JSON response.

    A sum over many lanes can need more than 64 bits. orjson refuses it, so the standard library's encoder writes it.
    """
    try:
        body = orjson.dumps(content)
    except TypeError:
        body = json.dumps(content, default=str, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, headers=headers, media_type="application/json")
