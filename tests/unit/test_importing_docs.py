"""docs/IMPORT.md names every option of the commands and every member of a mapping."""

import typer
from pydantic import BaseModel

from cli.commands.importing import app
from producers.importing.csv_mapping import Mapping
from runtime.settings import REPOSITORY_ROOT

TEXT = (REPOSITORY_ROOT / "docs" / "IMPORT.md").read_text()


def test_every_option_is_documented() -> None:
    group = typer.main.get_command(app)
    for command in group.commands.values():  # type: ignore[attr-defined]
        for parameter in command.params:
            for option in (*parameter.opts, *parameter.secondary_opts):
                assert not option.startswith("--") or option == "--check" or f"`{option}" in TEXT, option


def members(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted names of all members of a mapping's part."""
    found = []
    for name, field in model.model_fields.items():
        part = field.annotation
        if isinstance(part, type) and issubclass(part, BaseModel):
            found += members(part, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found


def test_every_member_of_a_mapping_is_documented() -> None:
    missing = [name for name in members(Mapping) if f"`{name}`" not in TEXT]
    assert missing == []
