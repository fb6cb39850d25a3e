"""What `make_slopes.py` measured at the starts, and what the closed form says of the same: at which odds does the slope change its sign?"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitsample_llm.report.estimates import Estimate
from eval.studies.jaggedness.bandit import WEIGHTS, kinship, slope_of_kin

FILE = "slopes.json"
NUM_DRAWS = 2000


@dataclass(frozen=True)
class Start:
    """An author of one model, before training. Slopes are of ln(right / rule) on held-out problems, in a unit that the authors of a model share."""

    start: str
    model: str
    mark: str
    right: float
    rule: float
    log_odds: float
    by_objective: dict[str, dict]

    def slope(self, objective: str, share: float, easy: Sequence[int] = (), hard: Sequence[int] = ()) -> float:
        """Of a mixture, from all parts of the training problems or from those of a draw."""
        parts = self.by_objective[objective]
        of_easy, of_hard = (
            np.asarray(parts[kind])[list(drawn) or slice(None)].mean() for kind, drawn in (("easy", easy), ("hard", hard))
        )
        return float(share * of_easy + (1 - share) * of_hard)

    def predicted(self, objective: str, share: float, kin: float = 0.0) -> float:
        """The closed form's, in another unit."""
        return slope_of_kin(self.right, self.rule, share, WEIGHTS[objective], kin)

    def kinship(self, objective: str) -> float:
        """How near the wrong answers are to the rule (-1) or to the general strategy (1), by the slopes on easy and on hard problems; 0 in a bandit."""
        return kinship(self.right, self.rule, self.slope(objective, 1.0) / self.slope(objective, 0.0), WEIGHTS[objective])

    def share_at_crossing(self, objective: str) -> float:
        """The share at which the measured slope is 0; 1 where there is none."""
        easy, hard = self.slope(objective, 1.0), self.slope(objective, 0.0)
        return 1.0 if easy >= 0 else hard / (hard - easy)


def read_slopes(folder: Path) -> list[Start]:
    """The starts of a record, or none."""
    names = ("start", "model", "mark", "right", "rule", "log_odds")
    rows = json.loads((folder / FILE).read_text()) if (folder / FILE).is_file() else []
    return [
        Start(**{name: row[name] for name in names}, by_objective={name: row[name] for name in WEIGHTS if name in row})
        for row in rows
    ]


def odds_at_crossing(authors: Sequence[Start], slope_of: Callable[[Start], float]) -> tuple[float, float]:
    """The odds general : rule at which the slope turns from negative to positive, linear in ln odds between authors: lowest and highest that they can be, equal unless the authors do not
    reach that far.
    """
    authors = sorted(authors, key=lambda author: author.log_odds)
    logs, slopes = [author.log_odds for author in authors], [slope_of(author) for author in authors]
    last = max((place for place, value in enumerate(slopes) if value < 0), default=None)
    if last is None:
        return 0.0, float(np.exp(logs[0]))
    if last == len(slopes) - 1:
        return float(np.exp(logs[-1])), np.inf
    between = logs[last] - slopes[last] * (logs[last + 1] - logs[last]) / (slopes[last + 1] - slopes[last])
    return float(np.exp(between)), float(np.exp(between))


def crossing_ratio(authors: Sequence[Start], objective: str, share: float, kin: float = 0.0, seed: int = 0) -> Estimate:
    """Measured odds at the crossing over the closed form's, of the authors of one model, with a 95 % bootstrap interval over parts of the training problems. The mean is None where either lies beyond the authors; the
    interval then reaches to where it may lie.
    """
    predicted = odds_at_crossing(authors, lambda author: author.predicted(objective, share, kin))
    found = odds_at_crossing(authors, lambda author: author.slope(objective, share))
    rng = np.random.default_rng(seed)
    num_parts = len(authors[0].by_objective[objective]["easy"])
    draws = [rng.integers(num_parts, size=(2, num_parts)).tolist() for _ in range(NUM_DRAWS)]
    drawn = [odds_at_crossing(authors, lambda author, draw=draw: author.slope(objective, share, *draw)) for draw in draws]
    low, high = (
        np.quantile([ends[0] for ends in drawn], 0.025),
        np.quantile([ends[1] for ends in drawn], 0.975, method="inverted_cdf"),
    )
    interval = (float(low / predicted[1]), float(high / predicted[0]) if predicted[0] else np.inf)
    is_known = found[0] == found[1] and predicted[0] == predicted[1]
    return Estimate(found[0] / predicted[0] if is_known else None, interval, 1)
