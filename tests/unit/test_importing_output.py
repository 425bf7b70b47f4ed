"""Tables show addresses and references unchanged."""

import pytest

from cli.output import show_rows


def test_a_table_takes_nothing_for_a_picture_or_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows("rows", [{"account": "assets:bank:checking", "reference": "[red]not red[/]"}], as_json=False)
    shown = capsys.readouterr().out
    assert "assets:bank:checking" in shown
    assert "[red]not red[/]" in shown
