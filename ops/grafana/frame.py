"""The parts that all dashboards share: variables, links to one another, alerts as annotations, rows of panels."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml
from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    ConstantVariable,
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from ops.grafana.panels import DATASOURCE, Placed, Says
from runtime.settings import REPOSITORY_ROOT

TAG: Final = "ledgerline"
PROMETHEUS_FOLDER: Final = REPOSITORY_ROOT / "ops" / "prometheus"


@dataclass(frozen=True)
class Variable:
    """A selector at the top of a dashboard: the values of one label of one metric, with all of them selected first."""

    name: str
    label: str
    metric: str
    """The metric with the label."""
    of: str
    """The label whose values are listed."""


LANE: Final = Variable("lane", "Lane", 'ledgerline_relay_lag_records{job="ledgerline"}', "lane")
SERVICE: Final = Variable("service", "Service", 'up{job="ledgerline"}', "service")


@dataclass(frozen=True)
class Page:
    """One dashboard before it is built; `name` is its file name and, with a prefix, its uid: it must never change."""

    name: str
    title: str
    text: str
    rows: Mapping[str, Sequence[Placed]]
    variables: Sequence[Variable] = ()

    @property
    def uid(self) -> str:
        """The id that links and bookmarks use."""
        return f"{TAG}-{self.name}"


def built(page: Page) -> Any:
    """Return the dashboard as the SDK's model; raise KeyError if a panel names an alert that does not exist."""
    dashboard = (
        Dashboard(page.title)
        .uid(page.uid)
        .description(page.text)
        .tags([TAG])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(_links())
        .annotation(_alerts())
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        # Every description links to this base URL, which is set only in ops/prometheus/prometheus.yml.
        .with_variable(ConstantVariable("runbooks").value(runbooks_base()))
    )
    for variable in page.variables:
        dashboard.with_variable(_chosen(variable))
    runbooks = runbooks_of_alerts()
    number = 0
    for title, panels in page.rows.items():
        number += 1
        dashboard.with_row(Row(title).id(number))
        for placed in panels:
            number += 1
            panel = placed.panel.id(number).title(placed.title).description(description(placed.says, runbooks))
            dashboard.with_panel(panel.datasource(DATASOURCE).span(placed.width).height(placed.height))
    model = dashboard.build()
    for shown in (*(model.links or ()), *((model.annotations and model.annotations.list_val) or ())):
        # The SDK puts links and annotations into a menu; without a placement Grafana shows them on the page.
        shown.placement = None
    return model


def description(says: Says, runbooks: Mapping[str, str]) -> str:
    """Return the Markdown of a panel's (i) icon; `runbooks` is the name of the runbook page by alert."""
    links = [f"Alert {alert}: [{runbooks[alert]}](${{runbooks}}/{runbooks[alert]})" for alert in says.alerts]
    return "\n\n".join([says.text, *links])


def runbooks_of_alerts() -> dict[str, str]:
    """Return the page of ops/runbooks by alert, as the alerts of ops/prometheus/rules name it."""
    pages = {}
    for file in sorted((PROMETHEUS_FOLDER / "rules").glob("*.yml")):
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    pages[rule["alert"]] = re.sub(r".*/", "", rule["annotations"]["runbook_url"])
    return pages


def runbooks_base() -> str:
    """Return the base URL of the runbooks, from the configuration of Prometheus."""
    configuration = yaml.safe_load((PROMETHEUS_FOLDER / "prometheus.yml").read_text())
    base: str = configuration["global"]["external_labels"]["runbooks"]
    return base


def _links() -> DashboardLink:
    """Return links to the other Ledgerline dashboards; they keep the time range and the selected values."""
    return (
        DashboardLink("Ledgerline")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .icon("external link")
        .include_vars(True)
        .keep_time(True)
    )


def _alerts() -> AnnotationQuery:
    """Return the annotation that draws a red band into every graph while an alert fires."""
    return (
        AnnotationQuery()
        .name("Alerts")
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color("red")
        .target(
            Dataquery()
            .datasource(DATASOURCE)
            .ref_id("Anno")
            .expr('ALERTS{alertstate="firing"}')
            .interval("30s")
            .range()
        )
        .title_format("{{alertname}}")
        .text_format("{{severity}} {{service}} {{lane}}")
        .tag_keys("severity,service,lane")
    )


def _chosen(variable: Variable) -> QueryVariable:
    query = f"label_values({variable.metric}, {variable.of})"
    return (
        QueryVariable(variable.name)
        .label(variable.label)
        .datasource(DATASOURCE)
        .query({"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"})
        .definition(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.NUMERICAL_ASC if variable is LANE else VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
    )
