"""What the numbers say, in sentences made of the numbers: each with its statistic, interval, count and a verdict.

A verdict is given only if the whole 95 % interval lies on one side of its threshold; else the question is undecided.
"""

from collections.abc import Sequence

from eval.arms import TARGET_BITS, Arm, paired_difference, paired_ratio

# Two starts of about the same pass rate absorb "the same" if they differ by less than this many bits: well above what the
# remaining difference of their pass rates could explain. Fixed before the study was run.
CONTRAST_MARGIN_BITS = 0.5


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
    if summary["interval"] and summary["interval"][0] < summary["interval"][1]:
        low, high = (number(bound * scale) for bound in summary["interval"])
        text += f" [{low}, {high}]"
    return text


def _verdict(result: dict, low: float, high: float, above: str, between: str, below: str, unmeasured: str) -> str:
    if result["interval"] is None:
        return f"undecided: {unmeasured}"
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
    for name in rl_names:
        if len(starts) == 2 and all((start, name) in by_name for start in starts):
            found.append(_contrast(by_name[starts[0], name], by_name[starts[1], name]))
        for start in starts:
            if (start, name) in by_name and (start, "sft") in by_name:
                found += _prices(by_name[start, name], by_name[start, "sft"])
    return found


def _contrast(first: Arm, second: Arm) -> dict:
    result = paired_difference(first, second, "absorbed_bits")
    no = "no, more from the {} start: pass rate alone does not predict what RL absorbs"
    verdict = _verdict(
        result,
        -CONTRAST_MARGIN_BITS,
        CONTRAST_MARGIN_BITS,
        no.format(first.start),
        f"yes, within {CONTRAST_MARGIN_BITS} bits",
        no.format(second.start),
        "fewer than two seeds have both",
    )
    return {
        "question": f"At about the same pass rate, does {first.name} absorb the same from the {first.start} and the {second.start} start?",
        "statistic": f"absorbed bits, {first.start} minus {second.start}, same seeds, threshold {CONTRAST_MARGIN_BITS} bits",
        **result,
        "verdict": verdict,
    }


def _prices(rl: Arm, sft: Arm) -> list[dict]:
    """The gain of one held-out bit, in samples and in FLOPs."""
    values = sft.results[0].values
    updates = " and ".join(f"{number(arm.summary('updates_to_target')['mean'])} updates of {arm.name}" for arm in (sft, rl))
    essay, inverse = number(values["surprisal_over_entropy_before"]), number(1 / values["pass_rate_before"])
    samples, flops = (paired_ratio(rl, sft, key) for key in ("samples_to_target", "flops_to_target"))
    reached = ", ".join(f"{len(arm.measured('flops_to_target'))} of {len(arm.results)} seeds of {arm.name}" for arm in (sft, rl))
    reached = f"within the budget {reached} gained the bit"
    label = ("a label buys more than a rollout", "neither", "a rollout buys more than a label")
    cheaper = ("SFT needs fewer FLOPs", "neither", "RL needs fewer FLOPs")
    return [
        {
            "question": f"From the {rl.start} start, how many rollouts of {rl.name} buy what one label buys?",
            "statistic": f"samples to +{TARGET_BITS:g} held-out bit, {rl.name} over {sft.name}; the essay's -log2 p / H(p) says "
            f"{essay}, the algebra's 1/p says {inverse}; in {updates}",
            **samples,
            "verdict": _verdict(samples, 1.0, 1.0, *label, reached),
        },
        {
            "question": f"From the {rl.start} start, what does {rl.name} pay in FLOPs beside {sft.name}?",
            "statistic": f"FLOPs to +{TARGET_BITS:g} held-out bit, {rl.name} over {sft.name}",
            **flops,
            "verdict": _verdict(flops, 1.0, 1.0, *cheaper, reached),
        },
    ]


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
        by_mark = "" if marked is None else f", and {number(marked)} under the always-right author's mark"
        parts.append(
            f"{start}: mean exact pass rate {number(values['pass_rate_before'])}, mean surprisal "
            f"{number(values['surprisal_bits_before'])} bits{by_mark}"
        )
    return "Held-out problems before training: " + "; ".join(parts) + "."
