"""Expressions that several dashboards ask in the same way."""

from collections.abc import Sequence
from typing import Final

from ops.grafana.panels import Query

OURS: Final = 'job="ledgerline"'
PACE: Final = "$__rate_interval"
"""Grafana's window for rates: four scrapes at least, more where a point of the graph stands for more."""


def rate(series: str, *, by: str = "") -> str:
    """The rate of counters a second, added up, over all or by labels."""
    return f"sum{f' by ({by})' if by else ''} (rate({series}[{PACE}]))"


def quantiles(
    histogram: str,
    name: str,
    *,
    levels: Sequence[float] = (0.5, 0.95, 0.99),
    by: str = "",
    selector: str = OURS,
    named: bool = True,
) -> list[Query]:
    """The quantiles of a classic histogram, 0 where nothing was measured; `named`: the level stands in the legend."""
    labels = f"{by}, le" if by else "le"
    grouping = f" by ({by})" if by else ""
    counted = f"sum{grouping} (rate({histogram}_count{{{selector}}}[{PACE}]))"
    made = []
    for level in levels:
        buckets = f"sum by ({labels}) (rate({histogram}_bucket{{{selector}}}[{PACE}]))"
        # Without anything in it a histogram's quantile is no number; what did not happen took no time.
        expression = f"(histogram_quantile({level:g}, {buckets}) and {counted} > 0) or {counted} * 0"
        made.append(Query(expression, f"{name} {level:.0%}" if named else name))
    return made
