"""Would RL pay? The verdict of a plan, by thresholds that are written down here, in plain words.

A threshold counts as passed only if the whole 95 % interval lies beyond it.
"""

import numpy as np

from bitsample_llm.estimators import bootstrap_interval, wilson_interval
from bitsample_llm.report.estimates import Estimate, number_text
from bitsample_llm.report.plan.completions import cut_off_told, percent, reasons_told
from bitsample_llm.report.plan.pass_rates import MIN_INFORMATIVE, Counts, over_prompts

# Mean pass rate above which there is next to nothing left to gain: H(0.95) is 0.29 bits, and one prompt in twenty is failed.
SOLVED_PASS_RATE = 0.95
# Mean pass rate below which the reason of the failures decides, and only a probe can tell it: the study's two starts stood at
# 0.12 and 0.10, and GRPO took one to 0.97 and the other to 0.14 for the same FLOPs.
LOW_PASS_RATE = 0.2
# What RL took where the skill is missing: eval/records/2026-11-30_unacquired_price and 2026-11-30_more_prices, one task and models of a million parameters.
WITHOUT_LABELS = "RL may still get there: in this project's study it did from .1 in 4 of 5 models, for 25 times (same settings) to 200 times the FLOPs of a latent skill"
# A probe finds the skill latent if it raises the odds of a pass by this factor (at low pass rates the pass rate, and it still
# means something at 0.7). The study's unacquired start rose by 1.02 under the right mark and by 1.44 in a whole run of GRPO, its
# latent start by a hundred and more under both.
LATENT_FACTOR = 1.5
# Below this factor the probe has broken something: the model cannot read the prompt, or the updates hurt. It tells nothing.
BROKEN_FACTOR = 0.5
# Where fewer of the rollouts end, the pass rate is of the cut, not of the model. A plain share: it only withholds a verdict.
MOST_END = 0.5
# Updates that change the surprisal of a held-out label by less than this have not tried.
MOVED_BITS = 0.1

PROMPT_PROBES = ("prefix", "mark", "shots")
LATENT, NOTHING, BROKEN, UNDECIDED = "latent", "nothing latent", "says nothing", "undecided"


def probe_finding(base: Counts, probed: Counts, rng: np.random.Generator, moved_bits: float | None = None) -> dict:
    """What a probe says, from the pass rates of the same prompts as asked and under it; `moved_bits` is by how much updates changed
    the surprisal of a label, where that is known.
    """
    by_id = dict(zip(probed.problem_ids, range(len(probed.problem_ids)), strict=True))
    order = [by_id[name] for name in base.problem_ids]
    before, after = base.pass_rates(), probed.pass_rates()[order]
    means = {"pass_rate_as_asked": over_prompts(before, rng), "pass_rate_probed": over_prompts(after, rng)}

    def odds_beyond(factor: float) -> tuple[float, float]:
        """Interval of a (1 - b) - factor b (1 - a), which is above 0 where the odds rose by more than the factor, even from 0."""

        def difference(chosen: np.ndarray, axis: int) -> np.ndarray:
            b, a = before[chosen].mean(axis=axis), after[chosen].mean(axis=axis)
            return a * (1 - b) - factor * b * (1 - a)

        return bootstrap_interval(np.arange(len(before)), rng, difference)

    above, below = odds_beyond(LATENT_FACTOR), odds_beyond(BROKEN_FACTOR)
    if above[0] > 0:
        verdict = LATENT
    elif below[1] < 0:
        verdict = BROKEN
    elif moved_bits is not None and moved_bits < MOVED_BITS:
        verdict = UNDECIDED
    elif above[1] < 0 or (not (before.any() or after.any()) and wilson_interval(0, len(after))[1] < MIN_INFORMATIVE):
        verdict = NOTHING  # also where nothing passed either way, on prompts enough to mean it
    else:
        verdict = UNDECIDED
    return means | {"odds_beyond_factor_interval": list(above), "moved_bits": moved_bits, "verdict": verdict}


def advice(
    pass_rate: dict, groups: list[dict], probes: list[dict], label_over_rollout: float | None, completions: dict | None
) -> dict:
    """Verdict, reason and what to do. `pass_rate` and the rows of `groups` carry means with intervals; `label_over_rollout` is the
    ratio of offered bits per FLOP, None where a task has no labels; `completions` is how the rollouts end.
    """
    if completions is not None and completions["ended"] < MOST_END:
        reason = f"only {percent(completions['ended'])} of the rollouts ended by themselves, {cut_off_told(completions)}"
        stop, length = completions["stop"], completions["max_completion_length"]
        name = 'name the text that ends an answer (--stop "\\n")' if stop is None else f"name another --stop than {stop!r}"
        longer = "raise --max_completion_length" + ("" if length is None else f" (now {length})")
        reason = f"{reason}: {reasons_told(completions)}"
        return _advice("undecided: most rollouts do not end", reason, f"{name}, or {longer}, and measure again")
    if pass_rate["interval"][0] > SOLVED_PASS_RATE:
        reason = f"the mean pass rate is {Estimate.of(pass_rate).text()}, above {SOLVED_PASS_RATE:g}"
        return _advice("RL would be a waste: solved already", reason, "look for harder prompts")
    better = [probe["description"] for probe in probes if probe["verdict"] == LATENT and probe["name"] in PROMPT_PROBES]
    fractions = [row["informative_fraction"] for row in groups]
    span = f"groups up to {groups[-1]['group_size']}"
    if all(item["interval"][1] < MIN_INFORMATIVE for item in fractions):
        reason = f"of {span} fewer than {MIN_INFORMATIVE:g} hold both verdicts, at every size"
        do = "labels first (SFT) where the pass rate is 0, or prompts that the model passes now and then"
        if better:
            do = f"use the better prompt ({better[0]}), and measure again under it"
        return _advice("RL would be a waste: nearly every group would be dead", reason, do)
    if all(item["interval"][0] < MIN_INFORMATIVE for item in fractions):
        reason = f"whether {MIN_INFORMATIVE:g} of {span} would hold both verdicts cannot be told"
        return _advice("undecided: too few prompts or rollouts", reason, "measure more prompts, or with more rollouts")
    train = "train on the kept prompts"
    if better:
        train = f"use the better prompt first ({better[0]}): it costs no training; then {train}"
    if label_over_rollout is not None and label_over_rollout > 1:
        train += f"; where there are labels, they tell {number_text(label_over_rollout)} times as many bits per FLOP"
    most = max(item["mean"] for item in fractions)
    return _by_latency(pass_rate, f"up to {number_text(most)} of the groups hold both verdicts", probes, train)


def _advice(verdict: str, reason: str, do: str) -> dict:
    return {"verdict": verdict, "reason": reason, "do": do}


def _by_latency(pass_rate: dict, alive: str, probes: list[dict], train: str) -> dict:
    """Where groups inform: at a low pass rate the probes decide, above it they warn."""
    told = {verdict: [probe for probe in probes if probe["verdict"] == verdict] for verdict in (LATENT, NOTHING)}
    nothing = f"a probe finds nothing latent ({', '.join(probe['description'] for probe in told[NOTHING])})"
    rate = f"the mean pass rate is {Estimate.of(pass_rate).text()}"
    if pass_rate["interval"][0] >= LOW_PASS_RATE:
        is_warned = told[NOTHING] and not told[LATENT]
        return _advice(
            "RL can pay", f"{rate}, and {alive}", f"{train}; expect it to be slow, for {nothing}" if is_warned else train
        )
    is_low = pass_rate["interval"][1] < LOW_PASS_RATE
    rate += f", {'below' if is_low else 'which may be below'} {LOW_PASS_RATE:g}, and alone does not say why"
    if told[LATENT]:
        rise = max(told[LATENT], key=lambda probe: probe["pass_rate_probed"]["mean"])
        step = f"{number_text(rise['pass_rate_as_asked']['mean'])} to {number_text(rise['pass_rate_probed']['mean'])}"
        return _advice("RL can pay: the skill is latent", f"{rate}; it rises from {step} with: {rise['description']}", train)
    if told[NOTHING] and is_low:
        do = f"SFT where there are labels, then measure again; where there are none, {WITHOUT_LABELS}"
        return _advice("labels first: the skill is not there yet", f"{rate}; {nothing}", do)
    reason = f"{rate}; {'no probe decides' if probes else 'no probe was run'}"
    do = "measure with --probe_prompt_prefix, --probe_shots or --probe_updates, or with more rollouts"
    return _advice("undecided: the pass rate is low, and nothing says why", reason, do)
