"""The application: routes, the layer around them, and the handlers that turn errors into problems."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from api import accounts, health, intents, journal, proving, reports, schedules, webhook_models, webhooks
from api.configuration import Configuration
from api.console.routes import add_console
from api.direct_routes import find_direct_routes
from api.documentation import add_documentation
from api.metrics import Metrics
from api.middleware import RequestLayer
from api.parameters import make_invalid_problem
from api.parts import Parts
from api.problems import Kind, Problem, make_database_problem
from api.security_headers import ANSWER_HEADERS
from db.connections import DatabaseError
from runtime.release import VERSION

DESCRIPTION: Final = """
A payments ledger: intents in, balanced double entry out.

Every write carries an idempotency key, every error is problem details (RFC 9457; the kinds are in docs/ERRORS.md),
amounts are whole numbers of minor units, times are RFC 3339, lists go on by their `next` link.
"""


class Application(FastAPI):
    """FastAPI behind the request layer.

    The layer is not a FastAPI middleware, because FastAPI's layers and telemetry take 5 percent of the time of a post.
    """

    request_layer: ASGIApp
    metrics: Metrics
    parts: Parts | None = None
    """None before the start and after a start that failed."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything through the request layer."""
        scope["app"] = self
        await self.request_layer(scope, receive, send)

    def behind_layer(self) -> ASGIApp:
        """Return what answers the requests that the layer passes on."""
        return super().__call__


def create_app(configuration: Configuration) -> Application:
    """Return the API over the parts that `configuration` names. While a needed part is away, it answers 503."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        parts = app.parts = Parts(configuration, metrics)
        await parts.start()
        try:
            yield
        finally:
            await parts.stop()

    app = Application(
        title="Ledgerline",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        openapi_url="/openapi.json" if configuration.documents else None,
        # Without FastAPI's own pages, which load their scripts from another site.
        docs_url=None,
        redoc_url=None,
        exception_handlers={
            Problem: _answer_problem,
            DatabaseError: _answer_database,
            RequestValidationError: _answer_invalid,
            HTTPException: _answer_http,
            Exception: _pass_on,
        },
    )
    app.metrics = metrics
    routers = [module.router for module in (intents, schedules, accounts, journal, reports, proving, webhooks, health)]
    for router in routers:
        app.include_router(router)
    layer = RequestLayer(
        app.behind_layer(),
        metrics=metrics,
        direct=find_direct_routes(routers),
        body_bytes_max=min(configuration.intent_bytes_max, configuration.body_bytes_max),
        batch_bytes_max=configuration.body_bytes_max,
        requests_in_flight_max=configuration.shares.requests.in_all,
        body_seconds_max=configuration.body_seconds_max,
    )
    app.request_layer = ServerErrorMiddleware(layer, _answer_failure)
    if configuration.documents:
        add_documentation(app)
    add_console(app)
    app.openapi = partial(_make_openapi, app)  # type: ignore[method-assign]
    return app


def _make_openapi(app: FastAPI) -> dict[str, Any]:
    """Return FastAPI's OpenAPI document with the models of the bodies that we parse ourselves added."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = document["components"]["schemas"]
        for model in (*intents.BODY_MODELS, *schedules.BODY_MODELS, *webhook_models.BODY_MODELS):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        app.openapi_schema = document
    return app.openapi_schema


async def _answer_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101 - as registered
    return error.make_response()


async def _answer_database(_request: Request, error: Exception) -> Response:
    assert isinstance(error, DatabaseError)  # noqa: S101 - as registered
    return make_database_problem(error).make_response()


async def _answer_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as registered
    return make_invalid_problem(error.errors()).make_response()


async def _pass_on(_request: Request, error: Exception) -> Response:
    """Leave a failure to the request layer. Starlette would answer it first and raise it then."""
    raise error


async def _answer_failure(_request: Request, _error: Exception) -> Response:
    """Answer an error that was raised outside RequestLayer, so that this answer is problem details too."""
    problem = Problem(Kind.INTERNAL, "The request failed for a reason of ours; the log has it.")
    problem.headers |= ANSWER_HEADERS
    return problem.make_response()


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as registered
    kinds = {404: Kind.NOT_FOUND, 405: Kind.METHOD_NOT_ALLOWED}
    kind = kinds.get(error.status_code, Kind.BAD_REQUEST if error.status_code < 500 else Kind.INTERNAL)
    headers = dict(error.headers or {})
    if "GET" in headers.get("Allow", "").split(", "):
        headers["Allow"] += ", HEAD"
    what = request.app.openapi_url or "docs/API.md"
    return Problem(kind, f"{kind.title}; {what} lists what there is.", headers=headers).make_response()
