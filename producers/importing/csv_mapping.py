"""The mapping of a CSV file: a TOML or YAML file that says which column is what; docs/IMPORT.md has an example of each.

Templates such as `expenses:{Category}` take values from the row's columns.
"""

import re
import tomllib
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from producers.importing.model import ImportingError


def _checked_template(template: str) -> str:
    for _, name, specification, conversion in Formatter().parse(template):
        if name == "" or specification or conversion:
            raise ValueError(f"{template!r}: a template holds {{Column}} names only")
    return template


def _checked_expression(expression: str) -> str:
    try:
        re.compile(expression)
    except re.error as error:
        raise ValueError(f"{expression!r} is no regular expression: {error}") from error
    return expression


Template = Annotated[str, AfterValidator(_checked_template)]
Expression = Annotated[str, AfterValidator(_checked_expression)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileFormat(_Part):
    """How the file is written."""

    delimiter: str = Field(default=",", min_length=1, max_length=1)
    quote: str = Field(default='"', min_length=1, max_length=1)
    encoding: str = "utf-8-sig"
    skip_lines: int = Field(default=0, ge=0, description="Lines before the header, such as a bank's letterhead.")
    comment: str | None = Field(default=None, description="A line that starts so carries no money.")


class DateFormat(_Part):
    """The value date, midnight UTC where the format has no time."""

    column: str
    format: str = "%Y-%m-%d"


class AmountFormat(_Part):
    """One signed column, or one column for money in and one for money out."""

    column: str | None = None
    in_column: str | None = None
    out_column: str | None = None
    decimal: str = Field(default=".", min_length=1, max_length=1)
    grouping: str = Field(default=",", max_length=1, description="Sign between groups of thousands; empty for none.")
    sign: Literal["positive_is_in", "positive_is_out"] = "positive_is_in"
    parentheses_negative: bool = Field(default=False, description="(12.50) means -12.50.")

    @model_validator(mode="after")
    def _one_way(self) -> "AmountFormat":
        pair = self.in_column is not None and self.out_column is not None
        single = self.column is not None
        if pair == single or (single and (self.in_column or self.out_column)):
            raise ValueError("give either `column`, or both `in_column` and `out_column`")
        if self.decimal == self.grouping:
            raise ValueError("`decimal` and `grouping` must differ")
        return self


class Currency(_Part):
    """A fixed code, or the column that holds it."""

    code: str | None = None
    column: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "Currency":
        if (self.code is None) == (self.column is None):
            raise ValueError("give either `code` or `column`")
        return self


class Rule(_Part):
    """The counter account of rows whose column matches a regular expression; the first rule that matches counts."""

    column: str
    matches: Expression
    counter_account: Template


class Accounts(_Part):
    """Money in debits `account` and credits `counter_account`; money out does the reverse."""

    account: Template
    counter_account: Template | None = None
    rules: tuple[Rule, ...] = ()
    names: dict[str, str] = Field(default_factory=dict, description="Values of columns that stand for other text.")
    escape: bool = Field(
        default=False, description="Write foreign characters of values as _HEX_ rather than list the row."
    )


class Key(_Part):
    """What tells rows apart: columns that identify one, else date, amount, currency, accounts and reference."""

    columns: tuple[str, ...] = ()


class Opening(_Part):
    """The balance of an account before the first row."""

    date: str = Field(description="ISO 8601.")
    account: str
    amount: str = Field(description="A decimal; positive is a debit balance.")
    currency: str
    counter_account: str = "equity:opening-balances"


class Mapping(_Part):
    """A whole mapping."""

    name: str | None = Field(default=None, description="The ledger's name in the keys; the CSV file's where left out.")
    file: FileFormat = FileFormat()
    date: DateFormat
    amount: AmountFormat
    currency: Currency
    accounts: Accounts
    reference: Template | None = None
    metadata: dict[str, str] = Field(default_factory=dict, description="Metadata key -> column.")
    key: Key = Key()
    opening: tuple[Opening, ...] = ()
    units: dict[str, int] = Field(default_factory=dict, description="Exponents of units that are to be registered.")

    def columns(self) -> set[str]:
        """Every column that the mapping names."""
        templates = [self.accounts.account, self.accounts.counter_account, self.reference]
        templates += [rule.counter_account for rule in self.accounts.rules]
        named = {
            self.date.column,
            *self.metadata.values(),
            *self.key.columns,
            *(rule.column for rule in self.accounts.rules),
        }
        for column in (self.amount.column, self.amount.in_column, self.amount.out_column, self.currency.column):
            named |= {column} if column is not None else set()
        for template in templates:
            named |= {name for _, name, _, _ in Formatter().parse(template or "") if name}
        return named


def read_mapping(path: Path) -> Mapping:
    """Read a mapping from a .toml, .yaml or .yml file; ImportingError says what is wrong with it."""
    try:
        return Mapping.model_validate(_document(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the mapping"
        raise ImportingError(f"The mapping {path} is wrong at {where}: {first['msg']}.") from error


def _document(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ImportingError(f"The mapping {path} cannot be read: {error}.") from error
    if path.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ImportingError(f"The mapping {path} is no TOML: {error}.") from error
    if path.suffix not in {".yaml", ".yml"}:
        raise ImportingError(f"The mapping {path} must be a .toml, .yaml or .yml file.")
    try:
        import yaml  # noqa: PLC0415  only YAML mappings need it
    except ModuleNotFoundError as error:
        raise ImportingError(
            "Reading a YAML mapping needs PyYAML: run `pip install 'ledgerline[import]'`, or write TOML."
        ) from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ImportingError(f"The mapping {path} is no YAML: {' '.join(str(error).split())}.") from error
