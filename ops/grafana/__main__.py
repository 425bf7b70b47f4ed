"""`python -m ops.grafana`: write ops/grafana/dashboards from this package."""

import json
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from ops.grafana import api, kafka, pipeline, postgres, proving, symmetry
from ops.grafana.frame import Page, built
from runtime.settings import REPOSITORY_ROOT

FOLDER: Final = REPOSITORY_ROOT / "ops" / "grafana" / "dashboards"


def pages() -> list[Page]:
    """Return every dashboard, in the order in which an operator reads them."""
    return [module.page() for module in (pipeline, symmetry, proving, api, kafka, postgres)]


def document(page: Page) -> str:
    """Return the dashboard's JSON as its file has it; the same page always gives the same text."""
    return json.dumps(built(page), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def write(folder: Path = FOLDER) -> None:
    """Write a file for each dashboard, and remove the files of dashboards that no longer exist."""
    folder.mkdir(exist_ok=True)
    documents = {f"{page.name}.json": document(page) for page in pages()}
    for file in folder.glob("*.json"):
        if file.name not in documents:
            file.unlink()
    for name, text in documents.items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    write()
