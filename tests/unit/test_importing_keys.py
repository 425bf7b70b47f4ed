"""The keys of imported rows: renamed, overlapping, re-sorted and extended exports post each row once."""

import csv
import io
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producers.importing.csv_mapping import Mapping
from producers.importing.csv_source import read_ledger
from producers.importing.importer import prepare
from producers.importing.keys import KeyMaker

MAPPING = Mapping.model_validate(
    {
        "reference": "{Text}",
        "date": {"column": "Date"},
        "amount": {"column": "Amount"},
        "currency": {"code": "EUR"},
        "accounts": {"account": "assets:bank:{Account}", "counter_account": "equity:unsorted"},
    }
)


class Row(NamedTuple):
    """A row of an export; `day` is the number of days after the first."""

    day: int
    account: str
    text: str
    cents: int


# The values are few, so that many rows are equal.
ROWS = st.lists(
    st.builds(
        Row,
        st.integers(0, 4),
        st.sampled_from(["a", "b"]),
        st.sampled_from(["Coffee", "Tea"]),
        st.sampled_from([-350, 350, 1]),
    ),
    max_size=30,
)


def posted(folder: Path, name: str, rows: list[Row]) -> dict[str, Any]:
    """Write and read an export, and return its intents by key."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["Date", "Account", "Text", "Amount"])
    for row in rows:
        day = date(2024, 5, 1) + timedelta(days=row.day)
        writer.writerow([day.isoformat(), row.account, row.text, f"{row.cents / 100:.2f}"])
    (folder / name).write_text(text.getvalue())
    prepared = prepare(read_ledger(folder / name, MAPPING), {})
    assert not prepared.problems
    intents = {intent.idempotency_key: intent.item() for intent in prepared.mapped.intents}
    assert len(intents) == len(rows), "two rows share a key"
    return intents


@given(rows=ROWS, cut=st.integers(0, 4), overlap=st.integers(0, 2), data=st.data())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_split_overlapping_shuffled_and_renamed_exports_post_what_one_export_posts(
    tmp_path: Path, rows: list[Row], cut: int, overlap: int, data: st.DataObject
) -> None:
    whole = posted(tmp_path, "whole.csv", rows)
    parts: dict[str, Any] = {}
    for name, days in (("march.csv", range(cut + 1)), ("q1 (2).csv", range(max(0, cut + 1 - overlap), 5))):
        part = data.draw(st.permutations([row for row in rows if row.day in days]))
        for key, item in posted(tmp_path, name, part).items():
            assert parts.setdefault(key, item) == item, "a conflict"
    assert parts == whole


def test_a_name_is_a_part_of_the_key_only_if_it_is_given() -> None:
    content = {"by": "content"}
    plain, named = KeyMaker().counted(content), KeyMaker("household").counted(content)
    assert plain.startswith("import:")
    assert named == plain.replace("import:", "import:household:")


@pytest.mark.parametrize("text", ["Caf\u00e9 Nero", "Cafe\u0301 Nero", " Caf\u00e9 \u00a0 Nero "])
def test_text_counts_in_nfc_with_single_spaces(text: str) -> None:
    assert KeyMaker().counted({"text": text}) == KeyMaker().counted({"text": "Caf\u00e9 Nero"})
