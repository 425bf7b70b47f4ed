"""The mapping of a CSV file: a TOML or YAML file that gives columns a meaning; docs/IMPORT.md has an example of each.

Templates such as `expenses:{Category}` take values from the row's columns. A mapping may build on a dialect of
producers/importing/csv_dialects.py: the mapping's members override those of the dialect.
"""

import re
import tomllib
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from producers.importing.csv_dialects import DIALECTS
from producers.importing.model import ImportingError


def _check_template(template: str) -> str:
    for _, name, specification, conversion in Formatter().parse(template):
        if name == "" or specification or conversion:
            raise ValueError(f"{template!r}: a template holds {{Column}} names only")
    return template


def _check_expression(expression: str) -> str:
    try:
        re.compile(expression)
    except re.error as error:
        raise ValueError(f"{expression!r} is no regular expression: {error}") from error
    return expression


def _check_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{name!r} is no zone of the IANA's list, such as Europe/Berlin") from error
    return name


Template = Annotated[str, AfterValidator(_check_template)]
Expression = Annotated[str, AfterValidator(_check_expression)]
Zone = Annotated[str, AfterValidator(_check_zone)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileFormat(_Part):
    """How the file is written."""

    delimiter: str = Field(default=",", min_length=1, max_length=1)
    quote: str = Field(default='"', min_length=1, max_length=1)
    encoding: str = "utf-8-sig"
    skip_lines: int | None = Field(
        default=None, ge=0, description="Lines before the header; if left out, the header is searched."
    )
    header: tuple[str, ...] = Field(default=(), description="The columns' names of a file that has no header.")
    comment: str | None = Field(default=None, description="A line that starts so carries no money.")
    skip: Expression | None = Field(default=None, description="A row in which this is found carries no money.")
    stop: Expression | None = Field(default=None, description="A row in which this is found ends the rows.")


class DateFormat(_Part):
    """The value date, midnight UTC if the format has no time."""

    column: str
    format: str | tuple[str, ...] = "%Y-%m-%d"
    time_column: str | None = None
    time_format: str = "%H:%M:%S"
    zone: Zone | None = Field(default=None, description="Zone of times without an offset; UTC if left out.")
    locale: str | None = Field(default=None, description="Of the months' names, such as de or fr.")

    def list_formats(self) -> tuple[str, ...]:
        """Return the formats in the order in which they are tried."""
        return (self.format,) if isinstance(self.format, str) else self.format


class AmountFormat(_Part):
    """One signed column, or one column for money in and one for money out."""

    column: str | None = None
    in_column: str | None = None
    out_column: str | None = None
    decimal: str = Field(default=".", min_length=1, max_length=1)
    grouping: str = Field(default=",", max_length=1, description="Sign between groups of thousands; empty for none.")
    sign: Literal["positive_is_in", "positive_is_out"] = "positive_is_in"
    parentheses_negative: bool = Field(default=False, description="(12.50) means -12.50.")
    out_sign: Literal["positive", "negative", "either"] = Field(
        default="positive", description="How `out_column` is signed."
    )
    indicator_column: str | None = Field(default=None, description="Says the way of the unsigned amount.")
    in_values: tuple[str, ...] = ("C", "CR", "Credit")
    out_values: tuple[str, ...] = ("D", "DR", "Debit")

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
    """A fixed code, the column that holds it, or neither if each amount names its currency."""

    code: str | None = None
    column: str | None = None
    in_amount: bool = Field(default=False, description="Each amount names its currency.")
    names: dict[str, str] = Field(default_factory=dict, description="What the file calls a currency -> its code.")

    @model_validator(mode="after")
    def _one_way(self) -> "Currency":
        if (self.code is not None) + (self.column is not None) + self.in_amount != 1:
            raise ValueError("give either `code` or `column`, or set `in_amount`")
        return self


class Status(_Part):
    """A column that says whether a row is booked. Rows that are not booked are counted but not posted."""

    column: str
    posted: tuple[str, ...] = Field(description="Values of rows that are booked.")
    skipped: tuple[str, ...] = Field(default=(), description="Values of rows that are not; others are listed.")


class Fee(_Part):
    """The provider's fee on a row, which becomes a third leg."""

    column: str
    account: Template
    sign: Literal["positive_is_cost", "negative_is_cost"] = "positive_is_cost"
    amount_is: Literal["gross", "net"] = Field(default="gross", description="Whether the amount is before the fee.")


class Balance(_Part):
    """A running balance that must tie: each is the one before plus the row's amount, in either order of the file."""

    column: str


class Group(_Part):
    """The columns whose equal values make several rows one transaction."""

    columns: tuple[str, ...] = Field(min_length=1)
    one_leg: bool = Field(default=False, description="Each row is one leg, on `account`; the rows of a group balance.")


class Rule(_Part):
    """The counter account of rows whose column matches a regular expression; the first rule that matches counts."""

    column: str
    matches: Expression
    counter_account: Template


class Accounts(_Part):
    """The accounts of a row. Incoming money debits `account` and credits `counter_account`; outgoing the reverse."""

    account: Template
    counter_account: Template | None = None
    rules: tuple[Rule, ...] = ()
    names: dict[str, str] = Field(default_factory=dict, description="Values of columns that stand for other text.")
    escape: bool = Field(
        default=False, description="Write foreign characters of values as _HEX_ rather than list the row."
    )


class Key(_Part):
    """What identifies a row: its identifying columns, or else account, time, amount, fee, currency and text."""

    columns: tuple[str, ...] = ()
    text: tuple[str, ...] = Field(default=(), description="The columns that are text; if left out, all other columns.")


class Opening(_Part):
    """The balance of an account before the first row."""

    date: str = Field(description="ISO 8601.")
    account: str
    amount: str = Field(description="A decimal; positive is a debit balance.")
    currency: str
    counter_account: str = "equity:opening-balances"


class Mapping(_Part):
    """A whole mapping."""

    name: str | None = Field(default=None, description="A name in the keys, if two ledgers of a tenant need one.")
    dialect: str | None = Field(default=None, description="How a bank writes its files; see the table.")
    file: FileFormat = FileFormat()
    date: DateFormat
    amount: AmountFormat
    currency: Currency
    status: Status | None = None
    fee: Fee | None = None
    balance: Balance | None = None
    group: Group | None = None
    accounts: Accounts
    reference: Template | None = None
    metadata: dict[str, str] = Field(default_factory=dict, description="Metadata key -> column.")
    key: Key = Key()
    opening: tuple[Opening, ...] = ()
    units: dict[str, int] = Field(default_factory=dict, description="Exponents of units that are to be registered.")

    def columns(self) -> set[str]:
        """Return every column that the mapping names."""
        return self.figures() | self.list_texts() | set(self.key.columns) | set(self.key.text)

    def figures(self) -> set[str]:
        """Return the columns that a key has as values or leaves out: dates, amounts, currency, status, fee, balance."""
        amount = self.amount
        columns = [self.date.column, self.date.time_column, amount.column, amount.in_column, amount.out_column]
        columns += [amount.indicator_column, self.currency.column]
        columns += [part.column for part in (self.status, self.fee, self.balance) if part is not None]
        return {column for column in columns if column is not None}

    def list_texts(self) -> set[str]:
        """Return the columns whose text becomes part of an intent or chooses an account."""
        templates = [self.accounts.account, self.accounts.counter_account, self.reference]
        templates += [rule.counter_account for rule in self.accounts.rules]
        templates += [self.fee.account] if self.fee is not None else []
        named = {*self.metadata.values(), *(rule.column for rule in self.accounts.rules)}
        named |= set(self.group.columns) if self.group is not None else set()
        for template in templates:
            named |= {name for _, name, _, _ in Formatter().parse(template or "") if name}
        return named


def read_mapping(path: Path, dialect: str | None = None) -> Mapping:
    """Read a mapping from a .toml, .yaml or .yml file. Raise an ImportingError that says what is wrong with it."""
    document = _read_document(path)
    if not isinstance(document, dict):
        raise ImportingError(f"The mapping {path} is wrong: it must be a table of members.")
    return build_mapping(document, f"The mapping {path}", dialect)


def build_mapping(document: dict[str, Any], subject: str, dialect: str | None = None) -> Mapping:
    """Build a mapping from its members and the dialect that is given or that it names. `subject` begins an error."""
    name = dialect or document.get("dialect")
    if name is not None and name not in DIALECTS:
        raise ImportingError(f"There is no dialect {name!r}: choose one of {', '.join(sorted(DIALECTS))}.")
    base = DIALECTS[name] if name is not None else {}
    try:
        return Mapping.model_validate(_merge(base, document) | ({"dialect": name} if name is not None else {}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "its top"
        raise ImportingError(f"{subject} is wrong at {where}: {_explain(first)}.") from error


# Sets of members that exclude each other: if a mapping has a member of one set, the dialect's other sets are dropped.
_CHOICES = {
    "amount": ({"column"}, {"in_column", "out_column"}),
    "currency": ({"code"}, {"column"}, {"in_amount"}),
}


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge two tables, and the tables in them member by member. `over` overrides `base`."""
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        if isinstance(below, dict) and isinstance(value, dict):
            chosen = [choice for choice in _CHOICES.get(name, ()) if choice & value.keys()]
            dropped = {
                member for choice in _CHOICES.get(name, ()) if chosen and choice not in chosen for member in choice
            }
            merged[name] = {member: kept for member, kept in below.items() if member not in dropped} | value
        else:
            merged[name] = value
    return merged


_SENTENCES = {
    "missing": "it is missing",
    "extra_forbidden": "there is no such member",
    "string_type": "it must be text",
    "string_too_long": "it must be one character",
    "string_too_short": "it must be one character",
    "model_type": "it must be a table",
    "dict_type": "it must be a table",
    "tuple_type": "it must be a list",
    "list_type": "it must be a list",
    "bool_type": "it must be true or false",
    "bool_parsing": "it must be true or false",
    "int_type": "it must be a whole number",
    "int_parsing": "it must be a whole number",
    "int_from_float": "it must be a whole number",
}


def _explain(error: Any) -> str:
    """Say what is wrong with a member in our own words, because the validator's messages name its classes."""
    if error["type"] == "literal_error":
        return f"it must be {error['ctx']['expected']}"
    return _SENTENCES.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")


def _read_document(path: Path) -> Any:
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
