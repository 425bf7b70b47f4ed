"""The page at /docs, with its scripts and styles from a package: nothing is loaded from elsewhere."""

from importlib.resources import files
from typing import Final

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

PATH: Final = "/docs"
ASSETS_PATH: Final = "/docs/assets"
PARAMETERS: Final = {"persistAuthorization": True, "displayRequestDuration": True, "docExpansion": "list"}


def add_documentation(app: FastAPI) -> None:
    """Serve Swagger UI at /docs; the package's own way of serving it opens its files by a deprecated call."""
    page = get_swagger_ui_html(
        openapi_url=str(app.openapi_url),
        title=app.title,
        swagger_js_url=f"{ASSETS_PATH}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS_PATH}/swagger-ui.css",
        swagger_favicon_url=f"{ASSETS_PATH}/favicon-32x32.png",
        swagger_ui_parameters=PARAMETERS,
    )

    @app.get(PATH, include_in_schema=False)
    async def documentation() -> HTMLResponse:
        return page

    app.mount(ASSETS_PATH, StaticFiles(directory=str(files("fastapi_swagger") / "resources")))
