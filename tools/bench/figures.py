"""A figure of the bench: the measured value, its baseline, and the value to reach. Pure: no clock, no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import linear_regression, median
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One row of the table. The ratio is judged if there is one, else the value itself."""

    key: str
    """The name of the figure in the JSON. It stays the same over releases."""
    name: str
    ours: float
    unit: str
    """The unit of `ours` and `limit`: `/s`, `ms`, `us`, `MB`, `bytes` or `%`."""
    reach: float
    is_ceiling: bool = False
    """Whether the judged value must stay below `reach`; else it must be at least `reach`."""
    limit: float | None = None
    """The baseline of the value, measured in the same minute."""
    ratio: float | None = None
    """The median of the rounds' own ratios, which may differ slightly from `ours / limit`."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """Data that explain the figure, for the JSON."""
    also: bool = True
    """Whether the other conditions of the figure held as well, such as lags that do not grow."""

    @property
    def judged(self) -> float:
        """The number that is compared with `reach`."""
        return self.ours if self.ratio is None else self.ratio

    @property
    def held(self) -> bool:
        """Whether the figure is reached."""
        return self.also and (self.judged < self.reach if self.is_ceiling else self.judged >= self.reach)

    def document(self) -> dict[str, Any]:
        """Return the figure as a document for JSON."""
        return asdict(self) | {"held": self.held}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Figure":
        """Return the figure of a document that `document` returned."""
        return cls(**{name: value for name, value in document.items() if name != "held"})


def median_ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """Return the median of the pairs' ratios, first over second. Noise that both values of a pair share cancels out."""
    return median(one / other for one, other in pairs)


def growth(values: Sequence[float]) -> float:
    """Return the relative growth from the median of the first tenth of the values to that of the last tenth.

    A tenth has at least two values. Raise ValueError for fewer than four values, as the two parts would overlap.
    """
    if len(values) < 4:
        raise ValueError(f"growth needs four values or more, not {len(values)}")
    count = max(2, len(values) // 10)
    return median(values[-count:]) / median(values[:count]) - 1


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """Return the growth of the samples' second value for each unit of the first, by least squares."""
    return linear_regression([at for at, _ in samples], [value for _, value in samples]).slope


def second_half(samples: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the samples of the second half of the time. The time is their first value."""
    middle = (samples[0][0] + samples[-1][0]) / 2
    return [sample for sample in samples if sample[0] >= middle]
