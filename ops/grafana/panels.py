"""Panels in one style: their queries, their looks, and the alerts that watch the same thing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders.common import (
    GraphThresholdsStyleConfig,
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import FieldColor, ThresholdsConfig
from grafana_foundation_sdk.builders.heatmap import HeatmapColorOptions, YAxisConfig
from grafana_foundation_sdk.builders.heatmap import Panel as HeatmapPanel
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as StatPanel
from grafana_foundation_sdk.builders.table import Panel as TablePanel
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeriesPanel
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    DataSourceRef,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")

GREEN: Final = "green"
ORANGE: Final = "orange"
RED: Final = "red"
BLUE: Final = "blue"
PURPLE: Final = "purple"
YELLOW: Final = "yellow"
# The colour of an unknown value: it is neither good nor bad, and must not look good.
GREY: Final = "#8e8e8e"

COLUMNS: Final = 24
NO_ANSWER: Final = "no answer"

Step = tuple[float | None, str]
Steps = tuple[Step, ...]
"""Pairs (value, colour) in rising order; a colour counts from its value on.

The first value is None: its colour is for values below the second one, and for unknown values.
"""

ZERO_IS_SAFE: Final[Steps] = ((None, GREY), (0, GREEN), (1e-9, RED))
PLAIN: Final[Steps] = ((None, BLUE),)


def rising(warning: float, alarm: float) -> Steps:
    """Return the steps: green, orange from `warning` on, red from `alarm` on; grey if there is no value."""
    return ((None, GREY), (0, GREEN), (warning, ORANGE), (alarm, RED))


def falling(alarm: float, warning: float | None = None) -> Steps:
    """Return the steps: red below `alarm`, orange below `warning`, green above; grey if there is no value."""
    middle: Steps = () if warning is None else ((alarm, ORANGE),)
    return ((None, GREY), (0, RED), *middle, (alarm if warning is None else warning, GREEN))


@dataclass(frozen=True)
class Query:
    """One PromQL expression and the name of its series, in Grafana's format (`lane {{lane}}`)."""

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Says:
    """The text of a panel's (i) icon: what the panel shows, what is good, and which alerts watch the same thing."""

    text: str
    alerts: tuple[str, ...] = ()


Panel = StatPanel | TimeSeriesPanel | TablePanel | HeatmapPanel
Overrides = Mapping[str, Sequence[DynamicConfigValue]]


def fixed_colours(colours: Mapping[str, str]) -> Overrides:
    """Return overrides that give each named series its colour, the same in every panel."""
    return {
        name: [DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})] for name, colour in colours.items()
    }


def thresholds_of(name: str, steps: Steps) -> Overrides:
    """Return an override that gives one series other thresholds than its panel's."""
    listed = [{"color": colour, "value": value} for value, colour in steps]
    return {name: [DynamicConfigValue("thresholds", {"mode": "absolute", "steps": listed})]}


def coloured_cells(name: str, steps: Steps) -> Overrides:
    """Return an override that fills the cells of one column of a table with the colours of their steps."""
    colours = [
        DynamicConfigValue("color", {"mode": "thresholds"}),
        DynamicConfigValue("custom.cellOptions", {"type": "color-background", "mode": "basic"}),
    ]
    return {name: [*thresholds_of(name, steps)[name], *colours]}


@dataclass(frozen=True)
class Placed:
    """A panel with its title, text and size; `width` is in columns of 24, `height` in rows of 30 pixels."""

    panel: Panel
    title: str
    says: Says
    width: int
    height: int


def _thresholds(steps: Steps) -> ThresholdsConfig:
    listed = [Threshold(value=value, color=colour) for value, colour in steps]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(listed)


def _letters(queries: Sequence[Query], *, instant: bool, form: PromQueryFormat) -> list[Dataquery]:
    """Return the queries with the letters A, B, C, ... as their ids."""
    made = []
    for number, query in enumerate(queries):
        built = Dataquery().datasource(DATASOURCE).ref_id(chr(ord("A") + number)).expr(query.expression).format(form)
        built = built.instant() if instant else built.range()
        made.append(built.legend_format(query.legend or "__auto"))
    return made


def _override(panel: Panel, overrides: Overrides | None) -> None:
    for name, properties in (overrides or {}).items():
        panel.override_by_name(name, list(properties))


def stat(
    title: str,
    queries: Query | Sequence[Query],
    says: Says,
    *,
    unit: str,
    steps: Steps = PLAIN,
    width: int = 4,
    height: int = 4,
    decimals: int | None = None,
    overrides: Overrides | None = None,
) -> Placed:
    """Return a panel of one or a few large current numbers, each in the colour of its step.

    The queries are instant: over a range, the last good value of a process that is gone would still look good.
    """
    asked = [queries] if isinstance(queries, Query) else list(queries)
    panel = (
        StatPanel()
        .targets(list(_letters(asked, instant=True, form=PromQueryFormat.TIME_SERIES)))
        .unit(unit)
        .no_value(NO_ANSWER)
        .thresholds(_thresholds(steps))
        .color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .color_mode(BigValueColorMode.BACKGROUND_SOLID if steps is not PLAIN else BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.NONE)
        .text_mode(BigValueTextMode.VALUE if len(asked) == 1 else BigValueTextMode.VALUE_AND_NAME)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
    )
    if decimals is not None:
        panel.decimals(decimals)
    _override(panel, overrides)
    return Placed(panel, title, says, width, height)


def graph(
    title: str,
    queries: Query | Sequence[Query],
    says: Says,
    *,
    unit: str,
    width: int = 8,
    height: int = 8,
    stacked: bool = False,
    steps: Steps | None = None,
    minimum: float | None = 0,
    maximum: float | None = None,
    flat_at_zero: bool = False,
    overrides: Overrides | None = None,
) -> Placed:
    """Return a graph of series over time; `steps`, if given, are drawn as lines.

    `flat_at_zero` means that 0 is the good value: the axis then ends at 1, not at 100, if all values are 0.
    """
    asked = [queries] if isinstance(queries, Query) else list(queries)
    panel = (
        TimeSeriesPanel()
        .targets(list(_letters(asked, instant=False, form=PromQueryFormat.TIME_SERIES)))
        .unit(unit)
        .no_value(NO_ANSWER)
        .line_width(1)
        .fill_opacity(60 if stacked else 8)
        .show_points(VisibilityMode.NEVER)
        .color_scheme(FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .legend(
            VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
        )
    )
    if stacked:
        panel.stacking(StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if minimum is not None:
        panel.min(minimum)
    if maximum is not None:
        panel.max(maximum)
    if flat_at_zero:
        panel.axis_soft_max(1)
    if steps is not None:
        panel.thresholds(_thresholds(steps))
        panel.thresholds_style(GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    _override(panel, overrides)
    return Placed(panel, title, says, width, height)


def table(
    title: str,
    keys: Sequence[str],
    columns: Mapping[str, str],
    says: Says,
    *,
    unit: str,
    width: int = 12,
    height: int = 8,
    overrides: Overrides | None = None,
) -> Placed:
    """Return a table of current values: a row for each value of the labels `keys`, a column for each expression.

    `columns` gives the expression, summed by `keys`, by the heading.
    """
    asked = [Query(expression, heading) for heading, expression in columns.items()]
    # Grafana names the value column of a single query "Value", and those of several queries after their letters.
    names = [f"Value #{chr(ord('A') + number)}" for number in range(len(asked))] if len(asked) > 1 else ["Value"]
    organise = {
        "excludeByName": {"Time": True},
        "indexByName": {name: place for place, name in enumerate([*keys, *names])},
        "renameByName": dict(zip(names, columns, strict=True)),
    }
    panel = (
        TablePanel()
        .targets(list(_letters(asked, instant=True, form=PromQueryFormat.TABLE)))
        .with_transformation(DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(DataTransformerConfig(id_val="organize", options=organise))
        .unit(unit)
        .no_value(NO_ANSWER)
    )
    _override(panel, overrides)
    return Placed(panel, title, says, width, height)


def heatmap(title: str, query: Query, says: Says, *, unit: str, width: int = 12, height: int = 8) -> Placed:
    """Return a heatmap of the counts in each bucket of a histogram over time; the query sums increases by `le`."""
    panel = (
        HeatmapPanel()
        .targets(list(_letters([Query(query.expression, "{{le}}")], instant=False, form=PromQueryFormat.HEATMAP)))
        .calculate(False)
        .color(HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Blues").steps(32))
        .y_axis(YAxisConfig().unit(unit).decimals(2))
        .unit(unit)
        .no_value(NO_ANSWER)
        .show_legend()
    )
    return Placed(panel, title, says, width, height)
