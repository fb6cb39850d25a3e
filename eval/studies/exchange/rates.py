"""The statistics of README.md: what a pass is worth in labels, and how many rollouts teach what one label teaches."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import brentq

from bitsample_llm.report.estimates import Estimate, over_seeds, ratio_over_seeds
from bitsample_llm.report.gains import Rung, essay_rate, gain_curve, gain_of_labels, samples_to_gain, waiting_law

LEAST_GAIN_BITS = 0.25  # a start at which labels gain less at any n has no exchange rate
LEARNERS = {"kto": "passes", "dpo": "passes_of_groups", "verdict_likelihood": "passes_of_groups", "grpo": "passes_of_groups"}
LEARNERS |= {"passes_in_rounds": "passes"}


def models_of(rungs: Sequence[Rung]) -> list[str]:
    """The pretraining seeds of the rungs."""
    return sorted({model for rung in rungs for model in rung.pass_rate})


def over_models(rungs: Sequence[Rung], ratios: Callable[[Rung, str], Sequence[tuple[float, float]]]) -> Estimate:
    """Ratio of two sums over the rungs' cells at each pretraining seed, with the interval over pretraining seeds; not measured where one
    of the sums is not positive.
    """
    ratios_by_model = []
    for model in models_of(rungs):
        pairs = [pair for rung in rungs if model in rung.pass_rate for pair in ratios(rung, model)]
        if not pairs:
            continue
        if sum(below for _, below in pairs) > 0 and sum(above for above, _ in pairs) > 0:
            ratios_by_model.append(sum(above for above, _ in pairs) / sum(below for _, below in pairs))
        else:
            return over_seeds([None])
    return ratio_over_seeds(ratios_by_model)


def gains_of_passes(rung: Rung, model: str) -> list[tuple[float, float]]:
    """(gain of the passes among n rollouts, gain of as many random labels) of every run."""
    cells = [run for n in rung.sizes("passes") for run in rung.runs["passes", n] if run.model == model]
    return [(run.gain_bits, float(gain_of_labels(rung, run.num_trained, model))) for run in cells]


def labels_per_pass(rungs: Sequence[Rung], model: str) -> float | None:
    """How many labels a pass is worth: the factor on K at which labels gain, summed over all cells, what K passes gained; None where
    they gained nothing, or more than any number of labels.
    """
    cells = [
        (rung, run)
        for rung in rungs
        if model in rung.pass_rate
        for n in rung.sizes("passes")
        for run in rung.runs["passes", n]
        if run.model == model and run.num_trained
    ]
    gained = sum(run.gain_bits for _, run in cells)

    def missing(log_worth: float) -> float:
        return sum(float(gain_of_labels(rung, math.exp(log_worth) * run.num_trained, model)) for rung, run in cells) - gained

    low, high = math.log(1e-3), math.log(1e3)
    return math.exp(brentq(missing, low, high)) if cells and missing(low) < 0 < missing(high) else None


def worth_estimate(rungs: Sequence[Rung], worth_of: Callable[[Sequence[Rung], str], float | None]) -> Estimate:
    """Labels per pass in one of two ways, with the interval over pretraining seeds; not measured unless every seed has it."""
    worths = [worth_of(rungs, model) for model in models_of(rungs)]
    return ratio_over_seeds([worth for worth in worths if worth]) if all(worths) else over_seeds([None])


def gains_at_one_setting(rung: Rung, model: str) -> list[tuple[float, dict[float, float]]]:
    """Of every run in which two rollouts or more passed (half a pass is no label): the gain of the K passes, and factor -> the gain of
    factor x K labels of problems drawn blindly, at the same setting.
    """
    found = []
    for n in rung.sizes("as_many_labels"):
        of_labels: dict[int, dict[float, float]] = {}
        for run in rung.runs["as_many_labels", n]:
            if run.model == model:
                of_labels.setdefault(run.seed, {})[run.labels_per_pass or 1.0] = run.gain_bits
        for run in rung.runs.get(("passes", n), []):
            if run.model == model and run.num_trained > 1 and run.seed in of_labels:
                found.append((run.gain_bits, of_labels[run.seed]))
    return found


def as_many(rung: Rung, model: str) -> list[tuple[float, float]]:
    """(gain of K passes, gain of K labels at the same setting) of every run."""
    return [(gain, of_labels[1.0]) for gain, of_labels in gains_at_one_setting(rung, model)]


def bracketed_worth(rungs: Sequence[Rung], model: str) -> float | None:
    """How many labels a pass is worth at the passes' own setting: the factor at which factor x K labels gain what K passes gained, both
    summed over all runs that have every factor, by interpolation in log between the factors. What lies outside counts as the outermost
    one. None where more labels do not gain more: then nothing is bracketed.
    """
    runs = [run for rung in rungs if model in rung.pass_rate for run in gains_at_one_setting(rung, model)]
    factors = sorted({factor for _, of_labels in runs for factor in of_labels})
    runs = [(gain, of_labels) for gain, of_labels in runs if set(of_labels) == set(factors)]
    sums = [sum(of_labels[factor] for _, of_labels in runs) for factor in factors]
    if len(factors) < 2 or not all(np.diff(sums) > 0):
        return None
    return float(np.exp(np.interp(sum(gain for gain, _ in runs), sums, np.log(factors))))


def exchange_rate(rung: Rung, model: str) -> float | None:
    """Rollouts whose passes gain, on average, what one label gains."""
    n, gain_bits = gain_curve(rung, "passes", model)
    target = float(gain_of_labels(rung, 1, model))
    learns = gain_curve(rung, "labels", model)[1].max(initial=0.0) >= LEAST_GAIN_BITS
    return samples_to_gain(n, gain_bits, target) if learns and target > 0 and len(n) else None


def rate_at_half(rung: Rung, model: str) -> float | None:
    """Rollouts over labels to half of the available bits; None where one label gains more, or the sizes that were run do not."""
    target = rung.available_bits[model] / 2
    labels, rollouts = (samples_to_gain(*gain_curve(rung, arm, model), target) for arm in ("labels", "passes"))
    return rollouts / labels if rollouts and labels else None


def rate_estimate(rung: Rung, against: Callable[[str], float | None] = lambda model: 1.0) -> Estimate:
    """The exchange rate over what a law says, with the interval over pretraining seeds that have it."""
    ratios = [(exchange_rate(rung, model), against(model)) for model in models_of([rung])]
    return ratio_over_seeds([rate / law for rate, law in ratios if rate and law])


def laws(rung: Rung, model: str) -> dict[str, float | None]:
    """What each form says of the exchange rate; nothing is fitted."""
    pass_rate = rung.pass_rate[model]
    waiting = waiting_law(rung, float(gain_of_labels(rung, 1, model)), model)
    return {"1/p": 1 / pass_rate, "essay, -log2 p / H(p)": essay_rate(pass_rate), "waiting law": waiting}


def law_errors(rungs: Sequence[Rung]) -> dict[str, tuple[float, int]]:
    """Form -> root mean square log error of the exchange rate over starts and pretraining seeds, and their number. The null models
    predict the mean of the other pretraining seeds' log rates.
    """
    rates = [(rung, model, rate) for rung in rungs for model in models_of([rung]) if (rate := exchange_rate(rung, model))]
    errors: dict[str, list[float]] = {}
    for rung, model, rate in rates:
        others = [(other.reason, math.log(value)) for other, name, value in rates if name != model]
        predicted = dict(laws(rung, model))
        if others:
            predicted["a constant"] = math.exp(np.mean([value for _, value in others]))
            same = [value for reason, value in others if reason == rung.reason]
            predicted["the reason alone"] = math.exp(np.mean(same)) if same else None
        for name, law in predicted.items():
            if law:
                errors.setdefault(name, []).append(math.log(rate / law))
    return {name: (float(np.sqrt(np.mean(np.square(values)))), len(values)) for name, values in errors.items()}


def head_start(rung: Rung, arm: str, rounds: int | None = None) -> Estimate:
    """Factor in n by which SFT on the passes is behind a learner of verdicts, over pretraining seeds and sizes; what lies beyond
    the sizes that were run counts as the smallest or the largest. Pretraining seeds at which it has one size only are left out.
    """
    factors = []
    for model in models_of([rung]):
        n, gain_bits = gain_curve(rung, LEARNERS[arm], model)
        own_n, own_gain_bits = gain_curve(rung, arm, model, rounds)
        logs = []
        for size, gain in zip(own_n, own_gain_bits, strict=True):
            if len(n) > 1 and n[0] <= size <= n[-1]:
                reached = samples_to_gain(n, gain_bits, float(np.clip(gain, gain_bits[0], gain_bits[-1])))
                logs.append(math.log(reached / size))
        if logs:
            factors.append(math.exp(np.mean(logs)))
    return ratio_over_seeds(factors)
