"""PromQL expressions that several dashboards share."""

from collections.abc import Sequence
from typing import Final

from ops.grafana.panels import Query

OURS: Final = 'job="ledgerline"'
PACE: Final = "$__rate_interval"
"""Grafana's window for rates: at least four scrapes, and more if the interval between two points is longer."""


def rate(series: str, *, by: str = "") -> str:
    """Return the sum of the counters' rates per second, in total or by labels."""
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
    """Return queries for a classic histogram's quantiles, 0 if it is empty; `named` puts the level in the legend."""
    labels = f"{by}, le" if by else "le"
    grouping = f" by ({by})" if by else ""
    counted = f"sum{grouping} (rate({histogram}_count{{{selector}}}[{PACE}]))"
    made = []
    for level in levels:
        buckets = f"sum by ({labels}) (rate({histogram}_bucket{{{selector}}}[{PACE}]))"
        # The quantile of an empty histogram is NaN; show 0 instead.
        expression = f"(histogram_quantile({level:g}, {buckets}) and {counted} > 0) or {counted} * 0"
        made.append(Query(expression, f"{name} {level:.0%}" if named else name))
    return made
