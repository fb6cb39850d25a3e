"""From the records of a measurement to numbers: what its pass rates offer, in which groups, at what price, and how surely.

Exact pass rates are used where the records have them, else counts. A value that was not measured is None.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from bitsample_llm.estimators import (
    beta_binomial_fit,
    bootstrap_interval,
    group_pass_probabilities,
    jackknife_entropy_bits,
    wilson_interval,
)
from bitsample_llm.information import binary_entropy_bits, break_even_pass_rate
from bitsample_llm.records import Run
from bitsample_llm.report.columns import PETA

GROUP_SIZES = (4, 8, 16, 32, 64)
SELECTION, REPORT = 1, 2  # generation steps of the two halves of the rollouts
NUM_REFITS = 200  # of the Beta distribution, for its interval
# The target of "how many rollouts does the estimate need": half of the 95 % interval over the mean.
TARGET_HALF_WIDTH = 0.1
# Where fewer groups than this hold both verdicts, nine tenths of what is spent on them moves no weight.
MIN_INFORMATIVE = 0.1
# A prompt is worth keeping if its groups are expected to inform at least this share as often as the average prompt's: below,
# an informative group costs more than twice the FLOPs.
KEEP_SHARE = 0.5
# A group size is large enough when GRPO's push per rollout is this share of what the largest one gives.
ENOUGH_PUSH = 0.9


@dataclass(frozen=True)
class Counts:
    """Prompts measured in one way: passes of rollouts, and exact pass rates where the records have them (else None)."""

    problem_ids: list[str]
    num_passed: np.ndarray
    num_rollouts: np.ndarray
    exact: np.ndarray | None

    def pass_rates(self) -> np.ndarray:
        """Exact pass rates where there are any, else the shares that passed."""
        return self.num_passed / self.num_rollouts if self.exact is None else self.exact

    def offered_bits(self) -> np.ndarray:
        """What the verdict on one more rollout of each prompt tells: H(p), exact or by the jackknife."""
        if self.exact is None:
            return jackknife_entropy_bits(self.num_passed, self.num_rollouts)
        return binary_entropy_bits(self.exact)

    def of(self, chosen: np.ndarray) -> "Counts":
        """The chosen prompts."""
        ids = [name for name, keep in zip(self.problem_ids, chosen, strict=True) if keep]
        return Counts(ids, self.num_passed[chosen], self.num_rollouts[chosen], None if self.exact is None else self.exact[chosen])

    def estimated(self) -> "Counts":
        """The same without exact pass rates: what somebody has who cannot compute them."""
        return Counts(self.problem_ids, self.num_passed, self.num_rollouts, None)


def counts_of(run: Run, probe: str | None, generation_step: int | None = None) -> Counts | None:
    """Counts of a probe (None: as asked), over all its rollouts or those of one generation step; None if not measured."""
    rows = [row for row in run.table("prompts").to_pylist() if row["probe"] == probe]
    passed: dict[str, int] = {}
    rollouts: dict[str, int] = {}
    exact: dict[str, float] = {}
    for row in rows:
        if generation_step in (None, row["generation_step"]):
            name = row["problem_id"]
            passed[name] = passed.get(name, 0) + row["num_passed"]
            rollouts[name] = rollouts.get(name, 0) + row["group_size"]
            exact[name] = row["pass_rate"]
    if not passed:
        return None
    has_exact = all(value is not None for value in exact.values())
    arrays = [np.array(list(values.values())) for values in (passed, rollouts, exact)]
    return Counts(list(passed), arrays[0], arrays[1], arrays[2] if has_exact else None)


def over_prompts(values: np.ndarray, rng: np.random.Generator) -> dict:
    """Mean over prompts with its bootstrap interval and count; null without prompts."""
    if not len(values):
        return {"mean": None, "interval": None, "n": 0}
    return {"mean": float(np.mean(values)), "interval": list(bootstrap_interval(values, rng)), "n": len(values)}


def mean_pass_rate(counts: Counts, rng: np.random.Generator) -> dict:
    """Mean pass rate over prompts; where all rollouts are alike the interval is Wilson's of so many prompts that are alike."""
    found = over_prompts(counts.pass_rates(), rng)
    if counts.exact is None and counts.num_passed.sum() in (0, counts.num_rollouts.sum()):  # resampling shows no spread at all
        num = len(counts.num_passed)
        found["interval"] = list(wilson_interval(num if found["mean"] else 0, num))
    return found


def _informative(probabilities: np.ndarray) -> np.ndarray:
    """Share of groups that hold both verdicts, from P(k of G pass) in the last axis."""
    return 1.0 - probabilities[..., 0] - probabilities[..., -1]


def _push(probabilities: np.ndarray) -> np.ndarray:
    """GRPO's mean push per rollout towards passing, in units of the score: E[p' (1 - p') / s], s the group's deviation."""
    size = probabilities.shape[-1] - 1
    share = np.arange(size + 1) / size
    return probabilities @ np.sqrt(share * (1 - share) * (size - 1) / size)


def group_table(counts: Counts, costs: dict, rng: np.random.Generator) -> list[dict]:
    """For each group size: informative groups and GRPO's push, per group and per FLOP.

    `source` says where the distribution of passes in a group comes from: exact pass rates; counts, without bias, up to the
    rollouts at hand; beyond them a Beta distribution fitted to the counts.
    """
    rows = []
    for size in GROUP_SIZES:
        if counts.exact is not None:
            source, values = "exact", stats.binom.pmf(np.arange(size + 1), size, counts.exact[:, None])
        elif size <= counts.num_rollouts.min():
            source, values = "counts", group_pass_probabilities(counts.num_passed, counts.num_rollouts, size)
        else:
            source, values = "fit", None
        if values is None:
            informative, push = _fitted(counts, size, rng)
        else:
            informative, push = (over_prompts(measure(values), rng) for measure in (_informative, _push))
        if counts.exact is None and not ((counts.num_passed > 0) & (counts.num_passed < counts.num_rollouts)).any():
            # 0 of so many prompts had an informative group of all their rollouts; a larger group is several of these
            bound = wilson_interval(0, len(counts.num_passed))[1] * np.ceil(size / counts.num_rollouts.min())
            informative["interval"] = [0.0, float(min(1.0, bound))]
        alone = size * (costs["rollout_prefill"] + costs["rollout_decode"] + costs["rollout_training"])
        shared = alone - (size - 1) * costs["rollout_prefill"]
        rows.append(
            {
                "group_size": size,
                "source": source,
                "informative_fraction": informative,
                "push": push,
                "informative_groups_per_petaflop": informative["mean"] / alone * PETA,
                "informative_groups_per_petaflop_shared_prefill": informative["mean"] / shared * PETA,
                "push_per_petaflop": push["mean"] * size / alone * PETA,
            }
        )
    return rows


def _fitted(counts: Counts, size: int, rng: np.random.Generator) -> tuple[dict, dict]:
    """Informative fraction and push of a group from a fitted Beta distribution, refitted to resampled prompts."""

    def both(chosen) -> tuple[float, float]:
        parameters = beta_binomial_fit(counts.num_passed[chosen], counts.num_rollouts[chosen])
        probabilities = stats.betabinom.pmf(np.arange(size + 1), size, *parameters)
        return float(_informative(probabilities)), float(_push(probabilities))

    num = len(counts.num_passed)
    resampled = np.array([both(rng.integers(0, num, num)) for _ in range(NUM_REFITS)])
    bounds = np.quantile(resampled, [0.025, 0.975], axis=0)
    return tuple({"mean": mean, "interval": bounds[:, column].tolist(), "n": num} for column, mean in enumerate(both(slice(None))))


def best_group_sizes(rows: Sequence[dict]) -> dict:
    """Group size with most informative groups per FLOP (with and without a shared prefill), and the least with enough push.

    All null where groups of every size are dead but for less than `MIN_INFORMATIVE` of them.
    """
    if all(row["informative_fraction"]["mean"] < MIN_INFORMATIVE for row in rows):
        return {"informative_groups": None, "informative_groups_shared_prefill": None, "enough_push": None}
    per_flop = ("informative_groups_per_petaflop", "informative_groups_per_petaflop_shared_prefill")
    best = [max(rows, key=lambda row: row[key])["group_size"] for key in per_flop]
    most = max(row["push"]["mean"] for row in rows)
    enough = next(row["group_size"] for row in rows if row["push"]["mean"] >= ENOUGH_PUSH * most)
    return {"informative_groups": best[0], "informative_groups_shared_prefill": best[1], "enough_push": enough}


def kept_prompts(selection: Counts, group_size: int) -> np.ndarray:
    """Which prompts are worth keeping, judged by the selection half of their rollouts alone.

    A prompt's few rollouts say little by themselves, so they are read against all prompts' (a Beta distribution fitted to
    them): where all prompts are alike luck selects none, where they differ the solved and the hopeless go.
    """
    a, b = beta_binomial_fit(selection.num_passed, selection.num_rollouts)
    posterior = (a + selection.num_passed, b + selection.num_rollouts - selection.num_passed)
    dead = [stats.betabinom.pmf(number, group_size, *posterior) for number in (0, group_size)]
    informative = 1 - dead[0] - dead[1]
    return informative >= max(MIN_INFORMATIVE, KEEP_SHARE * informative.mean())


def rollouts_needed(first: Counts, second: Counts) -> dict:
    """How many prompts, with as many rollouts each as were drawn, give the mean offered bits to within `TARGET_HALF_WIDTH`.

    What differs between the halves of one prompt's rollouts is chance, what they share is the prompt: the variance of the mean
    is (between + within / rollouts) / prompts. Null where there is nothing to be accurate about.
    """
    halves = np.array([half.estimated().offered_bits() for half in (first, second)])
    per_prompt = int(first.num_rollouts[0] + second.num_rollouts[0])
    mean = float(halves.mean())
    if halves.shape[1] < 2 or mean <= 0:
        unknown = ("between_variance", "within_variance", "half_width", "prompts_needed", "rollouts_needed")
        return {"rollouts_per_prompt": per_prompt, **dict.fromkeys(unknown)}
    within = float(((halves[0] - halves[1]) ** 2).mean() / 2) / 2  # of the mean of two halves
    between = max(0.0, float(np.cov(halves)[0, 1]))
    quantile = float(stats.norm.ppf(0.975))
    needed = int(np.ceil((between + within) * (quantile / (TARGET_HALF_WIDTH * mean)) ** 2))
    return {
        "rollouts_per_prompt": per_prompt,
        "between_variance": between,
        "within_variance": within,
        "half_width": quantile * float(np.sqrt((between + within) / halves.shape[1])) / mean,
        "prompts_needed": needed,
        "rollouts_needed": needed * per_prompt,
    }


def prices(counts: Counts, label_bits: np.ndarray, costs: dict, rng: np.random.Generator) -> dict:
    """Offered bits of a rollout and of a label, each and per petaFLOP, and where the essay's formula breaks even."""
    rollout_flops = costs["rollout_prefill"] + costs["rollout_decode"] + costs["rollout_training"]
    label_flops = costs["label_training"]
    bits = {"rollout": over_prompts(counts.offered_bits(), rng), "label": over_prompts(label_bits, rng)}
    found = {
        "offered_bits_estimator": "jackknife" if counts.exact is None else "exact",
        "offered_bits_per_rollout": bits["rollout"],
        "offered_bits_per_label": bits["label"],
        "rollout_flops": rollout_flops,
        "label_flops": label_flops,
    }
    for name, flops in (("rollout", rollout_flops), ("label", label_flops)):
        mean = bits[name]["mean"]
        found[f"offered_bits_per_petaflop_{name}"] = None if mean is None or flops is None else mean / flops * PETA
    per_flop = [found[f"offered_bits_per_petaflop_{name}"] for name in ("label", "rollout")]
    found["label_over_rollout"] = per_flop[0] / per_flop[1] if per_flop[0] is not None and per_flop[1] else None
    ratio = break_even = above = None
    if label_flops is not None:
        ratio = rollout_flops / label_flops
        break_even = break_even_pass_rate(ratio)
        if break_even is None:
            above = 0.0
        elif counts.exact is not None:
            above = float((counts.exact > break_even).mean())
        else:
            above = float(stats.beta.sf(break_even, *beta_binomial_fit(counts.num_passed, counts.num_rollouts)))
    return found | {"cost_ratio": ratio, "break_even_pass_rate": break_even, "share_of_prompts_above": above}
