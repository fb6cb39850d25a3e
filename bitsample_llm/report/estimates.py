"""A number with how sure it is: mean, 95 % interval, count, and the values behind it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitsample_llm.estimators import t_interval

UNMEASURED = "–"


def number_text(value: float | None) -> str:
    """A number with the three digits that matter; a dash for what was not measured.

    >>> number_text(0.11634), number_text(-56948.2), number_text(2.264e6), number_text(1e-5), number_text(None)
    ('0.116', '-56,900', '2,260,000', '1.00e-05', '–')
    """
    if value is None:
        return UNMEASURED
    if math.isinf(value):
        return "∞"
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{float(f'{value:.3g}'):,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval and the number of independent values behind it; None where nothing was measured."""

    mean: float | None
    interval: tuple[float, float] | None
    n: int
    values: tuple[float | None, ...] = ()  # behind the mean, in the order of the seeds; None for a seed that has none

    @classmethod
    def of(cls, fields: dict) -> "Estimate":
        """An estimate from what `fields` said of it."""
        interval = fields["interval"] and tuple(fields["interval"])
        return cls(fields["mean"], interval, fields.get("n", 0), tuple(fields.get("values", ())))

    def text(self, scale: float = 1.0) -> str:
        """Mean and interval times `scale`; without the interval where all values agree, as they do before training.

        >>> Estimate(2.0, (1.5, 2.5), 5).text(), Estimate(2.0, (2.0, 2.0), 5).text(), Estimate(None, None, 0).text()
        ('2 [1.5, 2.5]', '2', '–')
        """
        if self.mean is None:
            return UNMEASURED
        text = number_text(self.mean * scale)
        if self.interval and not math.isclose(*self.interval, rel_tol=1e-9):
            low, high = (number_text(bound * scale) for bound in self.interval)
            text += f" [{low}, {high}]"
        return text

    def fields(self) -> dict:
        """What a JSON file says of it."""
        return {
            "mean": self.mean,
            "interval": self.interval
            and [bound if math.isfinite(bound) else None for bound in self.interval],  # JSON knows no infinity
            "n": self.n,
            "values": list(self.values),
        }


UNKNOWN = Estimate(None, None, 0)


def over_seeds(values: Sequence[float | None]) -> Estimate:
    """Mean of the seeds' values with its t interval; seeds without a value do not count.

    >>> over_seeds([1.0, None, 3.0]).mean, over_seeds([1.0, None, 3.0]).n, over_seeds([2.0]).interval
    (2.0, 2, None)
    """
    measured = [value for value in values if value is not None]
    return Estimate(float(np.mean(measured)) if measured else None, t_interval(measured) or None, len(measured), tuple(values))


def ratio_over_seeds(ratios: Sequence[float]) -> Estimate:
    """Geometric mean of positive ratios, one per seed, with the t interval of their logarithms.

    >>> round(ratio_over_seeds([2.0, 8.0]).mean, 6)
    4.0
    """
    logs = over_seeds([math.log(ratio) for ratio in ratios])
    return Estimate(
        None if logs.mean is None else math.exp(logs.mean),
        None if logs.interval is None else (math.exp(logs.interval[0]), math.exp(logs.interval[1])),
        logs.n,
        tuple(ratios),
    )
