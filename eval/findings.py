"""What the numbers say, in sentences made of the numbers: each with its statistic, interval, count and a verdict.

A verdict is given only if the whole 95 % interval lies on one side of its threshold; else the question is undecided.
"""

import math
from collections.abc import Sequence

from eval.arms import TARGET_BITS, Arm, draws_rollouts, matched_gains_bits, paired_difference, paired_ratio, with_interval

# Two starts of about the same pass rate absorb "the same" if they differ by less than this many bits: well above what the
# remaining difference of their pass rates could explain. Fixed before the study was run.
CONTRAST_MARGIN_BITS = 0.5
# Problems count as matched if their pass rates before training lie within this factor of each other.
MATCHING_FACTOR = 1.25


def number(value: float | None) -> str:
    """A number with three digits that matter; a dash for what was not measured.

    >>> number(0.11634), number(-56948.2), number(2.264e6), number(1e-5), number(None)
    ('0.116', '-56,900', '2,260,000', '1.00e-05', '–')
    """
    if value is None:
        return "–"
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{float(f'{value:.3g}'):,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def estimate(summary: dict, scale: float = 1.0) -> str:
    """Mean with its interval, which is left out where all seeds agree (before training they do)."""
    if summary["mean"] is None:
        return "–"
    text = number(summary["mean"] * scale)
    if summary["interval"] and not math.isclose(*summary["interval"], rel_tol=1e-9):
        low, high = (number(bound * scale) for bound in summary["interval"])
        text += f" [{low}, {high}]"
    return text


def verdict_on(result: dict, margins: tuple[float, float], words: tuple[str, str, str], num_seeds: int, unmeasured: str) -> str:
    """Where the whole interval lies: `words` for above the margins, within and below; else undecided, and why."""
    if result["interval"] is None or result["n"] < num_seeds:  # the seeds that got there are not a fair sample of all
        return f"undecided: {unmeasured}"
    (low, high), (above, between, below) = margins, words
    start, end = result["interval"]
    if start > high:
        return above
    if end < low:
        return below
    if low < start and end < high:
        return between
    return "undecided: the interval holds more than one answer"


def findings(arms: Sequence[Arm]) -> list[dict]:
    """The questions of the study with their statistics and verdicts, in the order they are told."""
    by_name = {(arm.start, arm.name): arm for arm in arms}
    starts = list(dict.fromkeys(arm.start for arm in arms))
    controls = [name for _, name in by_name if name.endswith("_random")]
    rl_names = [name for name in dict.fromkeys(arm.name for arm in arms if arm.regime == "rl") if name not in controls]
    found = []
    for name in [*rl_names, "sft"]:  # SFT beside RL: what differs between the starts need not be peculiar to RL
        if len(starts) == 2 and all((start, name) in by_name for start in starts):
            found += _contrast(by_name[starts[0], name], by_name[starts[1], name])
    for name in rl_names:
        for start in starts:
            if (start, name) in by_name and (start, "sft") in by_name:
                found.append(_prices(by_name[start, name], by_name[start, "sft"]))
    return found


def _contrast(first: Arm, second: Arm) -> list[dict]:
    """The same arm from both starts, on all held-out problems and on those that match problem by problem."""
    no = "no, more from the {} start: pass rate alone does not predict what it absorbs"
    words = (no.format(first.start), f"yes, within {CONTRAST_MARGIN_BITS} bits", no.format(second.start))
    margins = (-CONTRAST_MARGIN_BITS, CONTRAST_MARGIN_BITS)
    by_seed = {result.seed: result for result in second.results}
    pairs = [(result, by_seed[result.seed]) for result in first.results if result.seed in by_seed]
    matched = [found for pair in pairs if (found := matched_gains_bits(*pair, MATCHING_FACTOR)) is not None]
    statistic = f"absorbed bits, {first.start} minus {second.start}, same seeds, threshold {CONTRAST_MARGIN_BITS} bits"
    cases = [("At about the same mean pass rate", paired_difference(first, second, "absorbed_bits"), statistic)]
    if matched:
        question = "On the same problems at about the same pass rate each"
        counted = f"{statistic}, {matched[0][2]} held-out problems within a factor of {MATCHING_FACTOR}"
        cases.append((question, with_interval([a - b for a, b, _ in matched]), counted))
    return [
        {
            "question": f"{question}, does {first.name} absorb the same from the {first.start} and the {second.start} start?",
            "statistic": text,
            **result,
            "verdict": verdict_on(result, margins, words, len(first.results), "not every seed has both"),
        }
        for question, result, text in cases
    ]


def _prices(rl: Arm, sft: Arm) -> dict:
    """The gain of one held-out bit in FLOPs, with the samples and updates behind it."""
    samples, flops = (paired_ratio(rl, sft, key) for key in ("samples_to_target", "flops_to_target"))
    reached = ", ".join(f"{len(arm.measured('flops_to_target'))} of {len(arm.results)} seeds of {arm.name}" for arm in (sft, rl))
    updates = " and ".join(f"{number(arm.summary('updates_to_target')['mean'])} updates of {arm.name}" for arm in (sft, rl))
    rollouts = f", {number(samples['mean'])} rollouts a label" if samples["n"] else ""
    return {
        "question": f"From the {rl.start} start, what does {rl.name} pay in FLOPs beside {sft.name}?",
        "statistic": f"FLOPs to +{TARGET_BITS:g} held-out bit, {rl.name} over {sft.name}, each at its tuned setting; {updates}{rollouts}",
        **flops,
        "verdict": verdict_on(
            flops,
            (1.0, 1.0),
            ("SFT needs fewer FLOPs", "neither", "RL needs fewer FLOPs"),
            len(rl.results),
            f"within the budget {reached} gained the bit",
        ),
    }


def sentence_of(finding: dict) -> str:
    """A finding as one sentence."""
    verdict = finding["verdict"][0].upper() + finding["verdict"][1:]
    return f"{finding['question']} {verdict} ({finding['statistic']}: {estimate(finding)}, n = {finding['n']} seeds)."


def matching_sentence(arms: Sequence[Arm]) -> str:
    """At which pass rates and surprisals the starts stand."""
    parts = []
    for start in dict.fromkeys(arm.start for arm in arms):
        values = next(arm for arm in arms if arm.start == start).results[0].values
        marked = values["pass_rate_before_marked"]
        exact, key, of_what = "exact ", "surprisal_bits_before", ""
        if draws_rollouts(arms):
            exact, key, of_what = "", "reference_surprisal_bits_before", " of the reference answer"
        by_mark = "" if marked is None else f", and {number(marked)} under the always-right author's mark"
        parts.append(
            f"{start}: mean {exact}pass rate {number(values['pass_rate_before'])}, mean surprisal{of_what} "
            f"{number(values[key])} bits{by_mark}"
        )
    return "Held-out problems before training: " + "; ".join(parts) + "."
