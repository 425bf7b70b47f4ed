"""The page at /docs. Its scripts and styles come from a package: it loads nothing from elsewhere, and keeps no key."""

import json
from html import escape
from importlib.resources import files
from typing import Any, Final

from fastapi import FastAPI, Response
from starlette.responses import HTMLResponse

from api.security_headers import PageAssets, make_page_headers

PATH: Final = "/docs"
ASSETS_PATH: Final = "/docs/assets"
START_PATH: Final = "/docs/start.js"
# Swagger UI needs these exceptions: it writes styles and markup into its elements, and its style sheet holds images.
# They are safe here, because the page shows only our own document.
HEADERS: Final = make_page_headers(styles="'self' 'unsafe-inline'", images="'self' data:", trusted_types=False)
PARAMETERS: Final[dict[str, Any]] = {
    "dom_id": "#swagger-ui",
    # A key that is entered on the page is lost when the page is closed.
    "persistAuthorization": False,
    "displayRequestDuration": True,
    "docExpansion": "list",
    "layout": "BaseLayout",
    "queryConfigEnabled": False,
    "validatorUrl": None,
}
_PAGE: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1.0">
<link rel="stylesheet" href="{assets}/swagger-ui.css">
<link rel="icon" href="{assets}/favicon-32x32.png">
<title>{title}</title>
</head>
<body>
<div id="swagger-ui"></div>
<script src="{assets}/swagger-ui-bundle.js"></script>
<script src="{start}"></script>
</body>
</html>
"""
_START: Final = """\
localStorage.removeItem("authorized"); // where earlier releases kept a key
SwaggerUIBundle({{...{parameters}, presets: [SwaggerUIBundle.presets.apis]}});
"""


def add_documentation(app: FastAPI) -> None:
    """Serve Swagger UI at /docs, with a page of ours: the usual page has an inline script, which our policy forbids."""
    page = _PAGE.format(assets=ASSETS_PATH, start=START_PATH, title=escape(app.title))
    start = _START.format(parameters=json.dumps({"url": app.openapi_url} | PARAMETERS))

    @app.get(PATH, include_in_schema=False)
    async def documentation() -> Response:
        return HTMLResponse(page, headers=HEADERS)

    @app.get(START_PATH, include_in_schema=False)
    async def start_script() -> Response:
        return Response(start, headers=HEADERS, media_type="text/javascript")

    resources = str(files("fastapi_swagger") / "resources")
    app.mount(ASSETS_PATH, PageAssets(resources, HEADERS))
