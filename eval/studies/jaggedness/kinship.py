"""Statistics over many models: crossings, kinship and what the signs' weights foretell of it. Question and thresholds are in README.md."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import stats

from bitsample_llm.estimators import wilson_interval
from bitsample_llm.report.estimates import Estimate, ratio_over_seeds
from eval.studies.jaggedness.courses import Course, read_courses
from eval.studies.jaggedness.slopes import Start, crossing_ratio, read_slopes

LEAST_HELD = 0.5  # right and rule together, where the rule is wrong, or the start does not count
AS_IT_IS = "as it is"
SIGNS = {
    AS_IT_IS: "as it is",
    "unused": "a new sign for right",
    "used": "a known sign for right",
    "rule": "a known sign for the rule",
}
MAIN = ("pass_rate", 0.8)
CROSSINGS = (MAIN, ("group of 8", 0.8))
SHIFT, FORETOLD_SHIFT = 0.1, 0.15  # of k: what a renamed sign has to move it by, where the signs as they are foretell as much
OWN = 27.0  # what a sign's own weights do, in units of the squared distance: from k = -.45 of `base` in the first record
CLOSE_KIN = 0.1
RUN = ("F", 0.95, "group of 8")
MOST_RIGHT, FIXED_RIGHT = 0.8, 0.2


@dataclass(frozen=True)
class Model:
    """A model after its second phase: the slopes of its four authors, and how the signs' weights lay before it."""

    name: str
    authors: Sequence[Start]
    nearness: float  # of the wrong answers' sign to the rule's (-1) or to the general strategy's (1), before the second phase
    squared_distance: float  # between the general strategy's sign and the rule's, there

    @property
    def phase(self) -> str:
        """The seed of the second phase."""
        return self.name.rpartition(".")[2]

    @property
    def group(self) -> str:
        """The first pretraining with its signs: what the second phase began from."""
        return self.name.rpartition(".")[0]

    @property
    def first(self) -> str:
        return self.group.partition("_")[0]

    @property
    def signs(self) -> str:
        return self.group.partition("_")[2] or AS_IT_IS

    @property
    def counts(self) -> bool:
        """Whether each author holds the two strategies."""
        return all(author.right + author.rule >= LEAST_HELD for author in self.authors)

    @property
    def foretold(self) -> float:
        """Kinship by the signs' weights before the second phase."""
        return self.nearness * self.squared_distance / (self.squared_distance + OWN)

    @cached_property
    def kinship(self) -> float:
        """Mean over the authors, of GRPO with groups of 8."""
        return float(np.mean([author.kinship("group of 8") for author in self.authors]))

    @cached_property
    def ratios(self) -> dict[tuple[str, float], Estimate]:
        """Measured odds at the crossing over the closed form's, with the interval over the training problems."""
        return {crossing: crossing_ratio(self.authors, *crossing) for crossing in CROSSINGS}

    def ratio(self, crossing: tuple[str, float] = MAIN) -> float:
        """The same as a number: where a crossing lies beyond the authors, the bound, which is nearer to 1."""
        found = self.ratios[crossing]
        if found.mean is not None:
            return found.mean
        low, high = found.interval
        return high if low == 0 else low

    @property
    def wrong(self) -> float:
        """Probability of the wrong answers, mean over the authors."""
        return float(np.mean([1 - author.right - author.rule for author in self.authors]))


@dataclass(frozen=True)
class Found:
    """The measured models and the runs from them."""

    models: Sequence[Model]
    courses: Sequence[Course]

    @property
    def counted(self) -> list[Model]:
        return [model for model in self.models if model.counts]

    def of(self, signs: Sequence[str] = tuple(SIGNS)) -> dict[str, list[Model]]:
        """Group -> the models that count, of some signs."""
        groups: dict[str, list[Model]] = {}
        for model in self.counted:
            if model.signs in signs:
                groups.setdefault(model.group, []).append(model)
        return groups


def read(paths: Sequence[str]) -> Found:
    """The models and runs in the folders."""
    starts = [start for path in paths for start in read_slopes(Path(path))]
    signs = {name: of_name for path in paths for name, of_name in json.loads((Path(path) / "signs.json").read_text()).items()}
    models = []
    for name in dict.fromkeys(start.model for start in starts):
        authors = [start for start in starts if start.model == name]
        of_signs = signs[name.rpartition(".")[0]]
        models.append(Model(name, authors, of_signs["nearness"], of_signs["squared_distance"]))
    return Found(models, read_courses(paths))


KIN, FORETOLD = (lambda model: model.kinship), (lambda model: model.foretold)


def means_of(groups: dict[str, list[Model]], value: Callable[[Model], float]) -> list[float]:
    """A value per group, the mean over its second phases."""
    return [float(np.mean([value(model) for model in models])) for models in groups.values()]


def mean_ratio(groups: dict[str, list[Model]], crossing: tuple[str, float] = MAIN) -> Estimate:
    """Geometric mean over groups, each of them that of its second phases; t interval of the logarithms."""
    return ratio_over_seeds([math.exp(log) for log in means_of(groups, lambda model: math.log(model.ratio(crossing)))])


def next_ratio(groups: dict[str, list[Model]]) -> tuple[float, float]:
    """Where the ratio of one more group lies with 95 %, if their logarithms are normal."""
    logs = means_of(groups, lambda model: math.log(model.ratio()))
    half = stats.t.ppf(0.975, len(logs) - 1) * np.std(logs, ddof=1) * math.sqrt(1 + 1 / len(logs))
    return math.exp(np.mean(logs) - half), math.exp(np.mean(logs) + half)


@dataclass(frozen=True)
class Components:
    """Spread between groups and between second phases of a group, and the share of the variance that lies between groups, with the interval of an F distribution."""

    between: float
    within: float
    share: Estimate


def components(groups: dict[str, list[Model]], value: Callable[[Model], float]) -> Components | None:
    """One-way analysis of variance; None where no group has two second phases."""
    values = [np.array([value(model) for model in models]) for models in groups.values()]
    sizes = np.array([len(of_group) for of_group in values])
    total, num = sizes.sum(), len(sizes)
    if num < 2 or total == num:
        return None
    mean = np.concatenate(values).mean()
    between = sum(size * (of_group.mean() - mean) ** 2 for size, of_group in zip(sizes, values, strict=True)) / (num - 1)
    within = sum(((of_group - of_group.mean()) ** 2).sum() for of_group in values) / (total - num)
    size = (total - (sizes**2).sum() / total) / (num - 1)
    ratio = between / within
    cuts = (stats.f.ppf(0.975, num - 1, total - num), stats.f.ppf(0.025, num - 1, total - num))
    share, low, high = ((of_f - 1) / (of_f - 1 + size) for of_f in (ratio, *(ratio / cut for cut in cuts)))
    return Components(
        math.sqrt(max(0.0, between - within) / size),
        math.sqrt(within),
        Estimate(max(0.0, float(share)), (max(0.0, float(low)), max(0.0, float(high))), int(total)),
    )


def rank_correlation(groups: dict[str, list[Model]], value: Callable[[Model], float]) -> Estimate:
    """Spearman's, of kinship with something of the model, over groups; Fisher's interval for ranks."""
    if len(groups) < 4:
        return Estimate(None, None, len(groups))
    rank = float(stats.spearmanr(means_of(groups, KIN), means_of(groups, value)).statistic)
    half = 1.96 * math.sqrt(1.06 / (len(groups) - 3))
    middle = math.atanh(np.clip(rank, -0.999, 0.999))
    return Estimate(rank, (math.tanh(middle - half), math.tanh(middle + half)), len(groups))


def shifts(found: Found, signs: str) -> Estimate:
    """By how much kinship moves where another sign stands for a strategy, a value per first pretraining; lowest and highest."""
    plain, renamed = found.of([AS_IT_IS]), found.of([signs])
    pairs = [(models, plain[models[0].first]) for models in renamed.values() if models[0].first in plain]
    pairs = [pair for pair in pairs if abs(pair[1][0].foretold) >= FORETOLD_SHIFT]
    moved = [np.subtract(*(np.mean([model.kinship for model in side]) for side in pair)) for pair in pairs]
    return Estimate(float(np.mean(moved)) if moved else None, (min(moved), max(moved)) if moved else None, len(moved), tuple(moved))


def share_of(courses: Sequence[Course], holds: Callable[[Course], bool]) -> Estimate:
    """Of runs, those of which something holds; Wilson interval."""
    num = sum(map(holds, courses))
    return Estimate(num / len(courses), wilson_interval(num, len(courses)), len(courses)) if courses else Estimate(None, None, 0)


def slope_at_run(found: Found, course: Course) -> float:
    """What was measured before training of a run's first move: the slope, or with AdamW that along the gradient's signs."""
    mark, share, objective = RUN
    author = next(author for model in found.models if model.name == course.model for author in model.authors if author.mark == mark)
    return author.by_objective[objective]["sign"][f"{share:g}"] if course.arm == "adamw" else author.slope(objective, share)


def is_fixed(course: Course) -> bool:
    """Whether a run ended on the rule."""
    return course.rule[-1] > course.right[-1] and course.right[-1] < FIXED_RIGHT
