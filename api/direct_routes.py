"""Routes that are answered without FastAPI, because its layers cost more than the work of a post.

A direct route is registered once, with FastAPI, which documents it and tells the parameters of its endpoint.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from api.callers import Needs

Endpoint = TypeVar("Endpoint", bound=Callable[..., Awaitable[Response]])
DirectRoutes = Mapping[tuple[str, str], Callable[[Request], Awaitable[Response]]]
"""(method, path) -> what answers the request."""

_marked: Final[set[Callable[..., Any]]] = set()


def answer_directly(endpoint: Endpoint) -> Endpoint:
    """Mark an endpoint whose route is answered directly. It takes the request and its caller, and reads the body."""
    _marked.add(endpoint)
    return endpoint


def find_direct_routes(routers: Iterable[APIRouter]) -> DirectRoutes:
    """Return the direct ones of FastAPI's routes."""
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    return {
        (method, route.path): _make_answer(route)
        for route in routes
        if route.endpoint in _marked
        for method in route.methods or ()
    }


def _make_answer(route: APIRoute) -> Callable[[Request], Awaitable[Response]]:
    """Return what does for this route what FastAPI does: make the caller, then call the endpoint."""
    endpoint, callers = route.endpoint, route.dependant.dependencies
    names = [route.dependant.request_param_name, *(caller.name for caller in callers)]
    make_caller = callers[0].call if len(callers) == 1 else None
    if list(inspect.signature(endpoint).parameters) != names or not isinstance(make_caller, Needs):
        raise TypeError(f"{route.path} needs FastAPI: the endpoint of a direct route takes its request and its caller.")

    async def answer(request: Request) -> Response:
        response: Response = await endpoint(request, await make_caller(request))
        return response

    return answer
