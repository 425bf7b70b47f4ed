"""A figure of the bench: what was measured, the limit beside it, and what it must reach. Pure: no clock, no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import linear_regression, median
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One row of the table. What is judged is the ratio where there is one, else the value itself."""

    key: str
    """Names the figure in the JSON, over releases."""
    name: str
    ours: float
    unit: str
    """Of `ours` and `limit`: `/s`, `ms`, `MB`, `bytes` or `%`."""
    reach: float
    is_ceiling: bool = False
    """Whether the judged value must stay under `reach`; else it must be at least that."""
    limit: float | None = None
    """What the value is held against, measured in the same minute."""
    ratio: float | None = None
    """The median of the rounds' own ratios, so not `ours / limit` to the last digit."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """What explains it: for the JSON."""
    also: bool = True
    """Whether everything else that the figure promises held as well, such as lags that do not grow."""

    @property
    def judged(self) -> float:
        """The number that is held against `reach`."""
        return self.ours if self.ratio is None else self.ratio

    @property
    def held(self) -> bool:
        """Whether the figure is reached."""
        return self.also and (self.judged < self.reach if self.is_ceiling else self.judged >= self.reach)

    def document(self) -> dict[str, Any]:
        """The figure for JSON."""
        return asdict(self) | {"held": self.held}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Figure":
        """The figure that `document` wrote."""
        return cls(**{name: value for name, value in document.items() if name != "held"})


def median_ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """The median of each pair's first value over its second: noise that both of a pair share drops out."""
    return median(one / other for one, other in pairs)


def growth(values: Sequence[float]) -> float:
    """By what share the values grew from the beginning to the end: medians of their first and last tenth, two at least.

    ValueError for fewer than four values, as beginning and end would overlap.
    """
    if len(values) < 4:
        raise ValueError(f"growth needs four values or more, not {len(values)}")
    count = max(2, len(values) // 10)
    return median(values[-count:]) / median(values[:count]) - 1


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """What the second value of the samples gains for each unit of the first, by least squares."""
    return linear_regression([at for at, _ in samples], [value for _, value in samples]).slope


def second_half(samples: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The samples of the second half of the time, which is their first value."""
    middle = (samples[0][0] + samples[-1][0]) / 2
    return [sample for sample in samples if sample[0] >= middle]
