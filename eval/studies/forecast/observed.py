"""What is forecast: the beginnings of recorded runs, what they know, and what half of the bits did cost. N of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from bitsample_llm.report.plan.forecast import INTERVAL, LEAST_SHARE, TYPICAL_SHARE, Beginning, Law, beginning_of
from bitsample_llm.report.prices import HALF, PricedRun
from eval.studies.forecast.fit import Line, fitted_line, left_out, log_scores, start_weights

UPDATES = (4, 8, 20, 64)  # at most so many in a beginning
ASKED_UPDATES = 20  # of the beginnings that everything is held against
LATER = 10.0  # a budget: so many times what the beginning cost
HALF_WIDTH = float(stats.norm.ppf((1 + INTERVAL) / 2))  # of a normal's middle 80 %, in standard deviations
LEARNS_FROM = {"sft": "labels", "grpo": "rollouts", "rloo": "rollouts", "reinforce": "rollouts"}  # arms; others are not used
LATER_PARTS = ("vocabulary", "length")  # of the record of prices, which came after the law was made
THIRD = " third"  # in the name of a rung: the same start, at a third of the learning rates


@dataclass(frozen=True)
class Observed:
    """One beginning: of which run, what it knows, and the price of half of the bits, or a bound below it."""

    run: PricedRun
    beginning: Beginning
    price: float
    is_known: bool

    @property
    def start(self) -> str:
        """Model and problems, whatever the rate."""
        return self.run.start.replace(THIRD, "")

    @property
    def pass_rates(self) -> np.ndarray:
        """Of the held-out problems before training."""
        return self.run.pass_rates_before


def observed_beginnings(runs: Sequence[PricedRun], kind: str, updates: Sequence[int] = UPDATES) -> list[Observed]:
    """The beginnings of runs that learn from `labels` or `rollouts`, but for those that have half of the bits already, or of which no more is known."""
    found = []
    for run in runs:
        price, is_known = run.price(HALF)
        for most in updates if run.tags.get("part") not in LATER_PARTS else ():
            beginning = beginning_of(run, most) if LEARNS_FROM.get(run.arm) == kind and run.updates[-1] >= most else None
            if beginning and beginning.flops_to_half is None and price > beginning.flops:
                found.append(Observed(run, beginning, price, is_known))
    return found


def columns(observed: Sequence[Observed], *features: Callable[[Observed], float]) -> np.ndarray:
    """Ones, and a column for each feature."""
    return np.array([[1.0, *(feature(one) for feature in features)] for one in observed])


def log_share(one: Observed) -> float:
    """ln of the share gained, over the one at which a law's width holds."""
    return math.log(max(one.beginning.share, LEAST_SHARE) / TYPICAL_SHARE)


def log_inverse_p(one: Observed) -> float:
    """ln of 1/p, p being the mean over problems."""
    return -math.log(float(one.pass_rates.mean()))


def is_latent(one: Observed) -> float:
    """1 where the skill is there and seldom shown, 0 where it is not there."""
    return float(one.run.tags["reason"] != "unacquired")


def log_rate(one: Observed) -> float:
    """ln of the learning rate."""
    return math.log(one.run.settings["learning_rate"])


def log_flops(one: Observed) -> float:
    """ln of what the beginning cost in FLOPs."""
    return math.log(one.beginning.flops)


def spread(one: Observed) -> float:
    """Standard deviation of log2 p over problems."""
    return float(np.std(one.run.log2_p_before))


LAW = "beginning"
Form = tuple[Callable[[Observed], float], ...]  # what it knows
FORMS: dict[str, Form] = {  # what is held against the law
    "mean price": (),
    "1/p": (log_inverse_p,),
    "what the beginning cost": (log_flops,),
    "reason": (is_latent,),
    "reason, p and rate": (is_latent, log_inverse_p, log_rate),
    "beginning, p": (log_flops, log_share, log_inverse_p),
    "beginning, p and spread": (log_flops, log_share, log_inverse_p, spread),
    "beginning, p and rate": (log_flops, log_share, log_inverse_p, log_rate),
}


@dataclass(frozen=True)
class Told:
    """Forecasts and what came of them: ln of prices or of bounds below them, means and standard deviations of ln price, and of each the FLOPs of its beginning."""

    starts: list[str]
    y_N: np.ndarray
    is_known_N: np.ndarray
    mean_N: np.ndarray
    sd_N: np.ndarray
    log_flops_N: np.ndarray

    @property
    def covered_N(self) -> np.ndarray:
        """Whether the price lies within the middle 80 %."""
        return np.abs(self.y_N - self.mean_N) < HALF_WIDTH * self.sd_N

    def scores(self) -> dict[str, float]:
        """Every start weighs the same: rms error of ln price and coverage where the price is known, mean log score, Brier score of the budget and that of
        the share of starts where it is enough.
        """
        weight_N, known_N = start_weights(self.starts), self.is_known_N
        budget_N = self.log_flops_N + math.log(LATER)
        # a bound below the budget does not tell whether the budget was enough
        happened_N, told_N = known_N & (self.y_N < budget_N), known_N | (self.y_N >= budget_N)
        probability_N = stats.norm.cdf((budget_N - self.mean_N) / self.sd_N)
        rate = np.average(happened_N[told_N], weights=weight_N[told_N])

        def brier(probabilities) -> float:
            return float(np.average((probabilities - happened_N)[told_N] ** 2, weights=weight_N[told_N]))

        squares_N = (self.y_N - self.mean_N) ** 2
        return {
            "n": len(self.y_N),
            "starts": len(set(self.starts)),
            "known": int(known_N.sum()),
            "rms_error": float(np.sqrt(np.average(squares_N[known_N], weights=weight_N[known_N]))),
            "coverage": float(np.average(self.covered_N[known_N], weights=weight_N[known_N])),
            "log_score": float(np.average(log_scores(self.y_N, known_N, self.mean_N, self.sd_N), weights=weight_N)),
            "brier": brier(probability_N),
            "brier_of_the_rate": brier(np.full(len(self.y_N), rate)),
        }


def _told(observed: Sequence[Observed], mean_N: np.ndarray, sd_N: np.ndarray) -> Told:
    logs_N = np.log([one.price for one in observed])
    flops_N = np.log([one.beginning.flops for one in observed])
    known_N = np.array([one.is_known for one in observed])
    return Told([one.start for one in observed], logs_N, known_N, mean_N, sd_N, flops_N)


def _law_columns(observed: Sequence[Observed]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The straight line that the law goes along (N), and the columns of its mean and of its width."""
    return np.array([one.beginning.log_extrapolated for one in observed]), columns(observed), columns(observed, log_share)


def fitted_law(observed: Sequence[Observed]) -> Law:
    """The law, from all of them."""
    line_N, mean_NK, sd_NK = _law_columns(observed)
    told = _told(observed, line_N, line_N)
    line: Line = fitted_line(mean_NK, sd_NK, told.y_N - line_N, told.is_known_N, start_weights(told.starts))
    return Law(float(line.mean_K[0]), float(np.exp(line.log_sd_K[0])), float(line.log_sd_K[1]))


def told_by_law(observed: Sequence[Observed], law: Law) -> Told:
    """What a law says of beginnings that it was not fitted to."""
    line_N, *_ = _law_columns(observed)
    return _told(observed, line_N + law.log_factor, np.array([law.sd(one.beginning.share) for one in observed]))


def _form_columns(observed: Sequence[Observed], form: Form) -> tuple[np.ndarray, np.ndarray]:
    """The columns of a form's mean and of its width, which depends on the share where the form knows it."""
    return columns(observed, *form), columns(observed, *([log_share] if log_share in form else []))


def told_by_form(known: Sequence[Observed], asked: Sequence[Observed], form: Form) -> Told:
    """What a form says of some beginnings after it was fitted to others."""
    of_known = _told(known, np.empty(0), np.empty(0))
    line = fitted_line(*_form_columns(known, form), of_known.y_N, of_known.is_known_N, start_weights(of_known.starts))
    return _told(asked, *line.predicted(*_form_columns(asked, form)))


def told_left_out(observed: Sequence[Observed], form: Form | None = None) -> Told:
    """What the law, or another form, says of each beginning after it was fitted to all other starts."""
    told = _told(observed, np.empty(0), np.empty(0))
    if form is None:
        line_N, mean_NK, sd_NK = _law_columns(observed)
    else:
        line_N, (mean_NK, sd_NK) = np.zeros(len(observed)), _form_columns(observed, form)
    mean_N, sd_N = left_out(mean_NK, sd_NK, told.y_N - line_N, told.is_known_N, told.starts)
    return _told(observed, mean_N + line_N, sd_N)
