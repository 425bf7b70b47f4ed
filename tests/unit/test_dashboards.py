"""The dashboard files match their code, explain each panel, link to runbooks, and use only metrics that exist."""

import itertools
import json
import re
from typing import Any, Final

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from ops.grafana import money
from ops.grafana.__main__ import FOLDER, document, pages, write
from ops.grafana.frame import PROMETHEUS_FOLDER, runbooks_of_alerts
from ops.grafana.panels import NO_ANSWER
from runtime.settings import REPOSITORY_ROOT
from tests.observability.grafana import GLOBALS, asked, panels

DASHBOARDS: Final[dict[str, dict[str, Any]]] = {page.name: json.loads(document(page)) for page in pages()}
PROVISIONING: Final = FOLDER.parent / "provisioning"
OF_EXPORTERS: Final = ("pg_", "node_", "kafka_", "jvm_", "process_", "prometheus_")
OF_PROMETHEUS: Final = {"up", "ALERTS"}
EXPLAINED_CHARACTERS_MIN: Final = 20

each: Final = pytest.mark.parametrize("name", DASHBOARDS)


def test_the_files_are_what_the_code_makes(tmp_path: Any) -> None:
    (tmp_path / "of-yesterday.json").write_text("{}")
    write(tmp_path)
    made = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert made == {file.name: file.read_text() for file in FOLDER.iterdir()}, "run `make dashboards`"
    assert set(made) == {f"{name}.json" for name in DASHBOARDS}


def test_the_six_dashboards_that_there_must_be_keep_their_addresses() -> None:
    assert [dashboard["uid"] for dashboard in DASHBOARDS.values()] == [
        "ledgerline-pipeline", "ledgerline-symmetry", "ledgerline-proving", "ledgerline-api", "ledgerline-kafka",
        "ledgerline-postgres",
    ]  # fmt: skip


@each
def test_grafanas_own_model_reads_it_and_writes_the_same(name: str) -> None:
    register_default_plugins()
    model = Dashboard.from_json(DASHBOARDS[name])
    again = json.loads(json.dumps(model, cls=JSONEncoder))
    for shown in (*again["links"], *again["annotations"]["list"]):
        del shown["placement"]  # Grafana's SDK adds this member to everything that it reads
    assert again == DASHBOARDS[name]


@each
def test_it_begins_with_whether_money_is_safe(name: str) -> None:
    first, *tiles = DASHBOARDS[name]["panels"][:7]
    assert (first["type"], first["title"]) == ("row", money.TITLE)
    assert [tile["title"] for tile in tiles] == [placed.title for placed in money.money()]
    assert {tile["gridPos"]["y"] for tile in tiles} == {1}


@each
def test_every_panel_is_explained_and_has_a_unit(name: str) -> None:
    for panel in panels(DASHBOARDS[name]):
        assert len(panel["description"]) > EXPLAINED_CHARACTERS_MIN, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["noValue"] == NO_ANSWER, panel["title"]


@each
def test_what_is_not_known_never_looks_good(name: str) -> None:
    tiles = [panel for panel in panels(DASHBOARDS[name]) if panel["type"] == "stat"]
    for tile in tiles:
        steps = [tile["fieldConfig"]["defaults"]["thresholds"]["steps"]]
        steps += [
            one["value"]["steps"]
            for override in tile["fieldConfig"]["overrides"]
            for one in override["properties"]
            if one["id"] == "thresholds"
        ]
        for listed in steps:
            assert listed[0]["value"] is None
            assert listed[0]["color"] != "green", tile["title"]
        # A range query would still show the last value of a process that no longer runs.
        assert all(target["instant"] and not target["range"] for target in tile["targets"]), tile["title"]


@each
def test_panels_have_one_name_one_id_and_a_place_of_their_own(name: str) -> None:
    listed = DASHBOARDS[name]["panels"]
    assert len({panel["id"] for panel in listed}) == len(listed)
    titles = [panel["title"] for panel in panels(DASHBOARDS[name])]
    assert len(set(titles)) == len(titles)
    covered = set()
    for panel in listed:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
        for cell in cells:
            assert cell not in covered, panel["title"]
            covered.add(cell)


@each
def test_every_query_asks_the_chosen_prometheus(name: str) -> None:
    dashboard = DASHBOARDS[name]
    sources = [panel["datasource"] for panel in panels(dashboard)]
    sources += [target["datasource"] for panel in panels(dashboard) for target in panel["targets"]]
    sources += [annotation["target"]["datasource"] for annotation in dashboard["annotations"]["list"]]
    sources += [variable["datasource"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    assert {(source["type"], source["uid"]) for source in sources} == {("prometheus", "${datasource}")}


@each
def test_every_variable_is_used_and_every_used_one_is_there(name: str) -> None:
    dashboard = DASHBOARDS[name]
    defined = {variable["name"] for variable in dashboard["templating"]["list"]}
    text = json.dumps([dashboard["panels"], dashboard["annotations"]])
    used = set(re.findall(r"\$\{?([a-z_]+)", text)) - {known for known in GLOBALS if known.startswith("__")}
    assert used == defined


@each
def test_every_metric_is_documented_or_an_exporters(name: str) -> None:
    documented = set(re.findall(r"`(ledgerline_\w+)`", (REPOSITORY_ROOT / "docs" / "METRICS.md").read_text()))
    recorded = set(re.findall(r"record: (\S+)", (PROMETHEUS_FOLDER / "rules" / "recording.yml").read_text()))
    for query in asked(DASHBOARDS[name]):
        bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(?:by|on) \([^)]*\)', " ", query.expression)
        metrics = {
            word for word in re.findall(r"[A-Za-z_:][\w:]*(?!\s*\(|\w)", bare) if "_" in word or word in OF_PROMETHEUS
        }
        assert metrics or "vector" in bare, query
        for metric in metrics - recorded - OF_PROMETHEUS:
            base = re.sub(r"_(bucket|sum|count)$", "", metric)
            assert {metric, base} & documented or metric.startswith(OF_EXPORTERS), f"{query}: {metric}"


def test_every_alert_is_told_of_where_its_subject_is_shown() -> None:
    links = {
        (alert, page)
        for dashboard in DASHBOARDS.values()
        for panel in panels(dashboard)
        for alert, page in re.findall(r"Alert (\w+): \[[\w.-]+\]\(\$\{runbooks\}/([\w.-]+)\)", panel["description"])
    }
    assert links == set(runbooks_of_alerts().items())


def test_dashboards_link_to_one_another() -> None:
    for dashboard in DASHBOARDS.values():
        (link,) = dashboard["links"]
        assert (link["type"], link["tags"], link["keepTime"]) == ("dashboards", dashboard["tags"], True)
        assert "placement" not in link, "it would be hidden in a menu"


def test_grafana_is_provisioned_with_them() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())["datasources"]
    scraped = yaml.safe_load((PROMETHEUS_FOLDER / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert (source["type"], source["isDefault"], source["url"]) == ("prometheus", True, "$PROMETHEUS_URL")
    assert source["jsonData"]["timeInterval"] == scraped
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "ledgerline.yml").read_text())["providers"]
    assert provider["type"] == "file"
    compose = (REPOSITORY_ROOT / "docker-compose.yml").read_text()
    assert f"./ops/grafana/dashboards:{provider['options']['path']}" in compose
    assert "./ops/grafana/provisioning:/etc/grafana/provisioning" in compose
