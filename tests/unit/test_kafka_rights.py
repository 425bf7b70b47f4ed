"""Kafka's rights as data say what the table of docs/SECURITY.md says."""

import json
import re

from domain.settings import REPOSITORY_ROOT


def test_the_table_and_the_data_are_one() -> None:
    text = (REPOSITORY_ROOT / "docs" / "SECURITY.md").read_text()
    table = text.partition("## The rights of each service in Kafka")[2].partition("\n## ")[0]
    shown = [
        {
            "principal": principal,
            "kind": re.sub(r"s$", "", resources.partition(" `")[0]),
            "names": re.findall(r"`([^`]+)`", resources),
            "operations": operations.split(", "),
        }
        for principal, resources, operations in re.findall(r"^\| (\w+) \| (.+) \| ([A-Z].+) \|$", table, re.MULTILINE)
    ]
    assert shown == json.loads((REPOSITORY_ROOT / "ops" / "kafka_rights.json").read_text())
    assert {row["principal"] for row in shown} > {"upstream", "posting", "operator"}
