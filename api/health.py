"""/livez, /readyz and /metrics: they need no key, and tell nothing about users and accounts."""

from fastapi import APIRouter, Request, Response

from api.callers import get_parts
from api.metrics import CONTENT_TYPE
from api.problems import Kind, make_unavailable_problem
from api.responses import ProblemDocument, make_json_response

router = APIRouter(tags=["service"])


@router.get("/livez")
async def live() -> Response:
    """The process answers. Nothing else is checked, because a restart would not repair it."""
    return make_json_response({"status": "live"})


@router.get(
    "/readyz",
    responses={503: {"model": ProblemDocument, "description": "Something is missing; `missing` names it."}},
)
async def ready(request: Request) -> Response:
    """Whether the API can take intents: Kafka, Postgres and the registry have what it needs.

    `degraded` if Postgres is away: the API still takes intents, for ten minutes at most.
    """
    readiness = get_parts(request).readiness
    missing = await readiness.missing()
    if not missing:
        degraded = readiness.list_degraded()
        return make_json_response({"status": "degraded", "degraded": degraded} if degraded else {"status": "ready"})
    problem = make_unavailable_problem(Kind.NOT_READY, " ".join(missing.values()))
    problem.members["missing"] = missing
    return problem.make_response()


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return Response(get_parts(request).metrics.make_exposition(), media_type=CONTENT_TYPE)
