"""Process reward against outcome reward: the section of the report that compares ways to assign credit.

An arm's way is read off its manifest. Comparisons are made start by start, paired by seed; thresholds are those of the record
`eval/records/2026-11-21_process_outcome`, fixed before its runs.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from eval.arms import Arm, paired_difference, paired_ratio
from eval.figures import COLOURS, plain
from eval.findings import estimate, number, verdict_on

OUTCOME = "outcome"
PROCESS = ("process_sum", "process_tokens", "first_error", "process_outcome")
CREDIT = ("process_tokens", "first_error")  # that say which step earned it
RATE, CURVE = "unsaturated_bits_per_petaflop", "absorbed_bits_over_log_flops"
RATIO_THRESHOLD = 3.0  # claim 8: below it, denser reward is not absorbed in the proportion it is offered
CURVE_MARGIN_BITS = 0.25
RATIO_PASS_RATE = 0.01  # claim 8 is asked of starts below it


def reward_of(arm: Arm) -> str | None:
    """What the arm is rewarded for; None for an arm that is not GRPO's."""
    choices = arm.results[0].run.manifest.get("config", {}).get("choices", {})
    return choices.get("reward") if choices.get("trainer") == "grpo" else None


def stops_early(arm: Arm) -> bool:
    """Whether its rollouts end at their first wrong step."""
    return bool(arm.results[0].run.manifest["config"]["choices"].get("stop_at_first_error"))


def process_arms(arms: Sequence[Arm]) -> dict[str, dict[tuple[str, bool], Arm]]:
    """Start -> (reward, early stop) -> arm, of the starts where some arm has a process reward."""
    by_start: dict[str, dict[tuple[str, bool], Arm]] = {}
    for arm in arms:
        if (reward := reward_of(arm)) is not None:
            by_start.setdefault(arm.start, {})[reward, stops_early(arm)] = arm
    order = (OUTCOME, *PROCESS, "random")
    return {
        start: dict(sorted(found.items(), key=lambda item: (order.index(item[0][0]), item[0][1])))
        for start, found in by_start.items()
        if any(reward in PROCESS for reward, _ in found)
    }


def whole_rollout_arms(arms: Sequence[Arm]) -> list[Arm]:
    """The arms whose rollouts are not stopped early, where figures cannot tell more apart."""
    return [arm for arm in arms if reward_of(arm) is None or not stops_early(arm)]


def process_findings(arms: Sequence[Arm]) -> list[dict]:
    """Claim 8 where the pass rate is low, then the differences of the learning curves."""
    found = []
    for start, by_way in process_arms(arms).items():
        outcome = by_way.get((OUTCOME, False))
        if outcome is None:
            continue
        if outcome.summary("pass_rate_before")["mean"] < RATIO_PASS_RATE and ("first_error", False) in by_way:
            found.append(_claim_8(start, by_way["first_error", False], outcome))
        for reward in PROCESS:
            if (reward, False) in by_way:
                found.append(_curve(f"From the {start} start, does {reward} help?", by_way[reward, False], outcome))
        for reward in CREDIT:
            if (reward, False) in by_way and ("process_sum", False) in by_way:
                question = f"From the {start} start, does the credit of {reward} help beyond its bits?"
                pair = by_way[reward, False], by_way["process_sum", False]
                found.append(_same_rate(_curve(question, *pair), *pair))
        for (reward, stops), arm in by_way.items():
            if stops and (reward, False) in by_way and reward != "random":
                found.append(_curve(f"From the {start} start, does an early stop help {reward}?", arm, by_way[reward, False]))
    return found


def _claim_8(start: str, process: Arm, outcome: Arm) -> dict:
    result = paired_ratio(process, outcome, RATE)
    offered = predicted_ratio(process)
    return {
        "question": f"From the {start} start, is a process reward absorbed three times as fast per FLOP (claim 8)?",
        "statistic": f"absorbed bits a petaFLOP before saturation, {process.name} over {outcome.name}; the offered bits predict "
        f"{offered:.3g}",
        **result,
        "verdict": verdict_on(
            result,
            (RATIO_THRESHOLD, RATIO_THRESHOLD),
            ("supported", "neither", "contradicted"),
            len(outcome.results),
            f"{result['n']} of {len(outcome.results)} seeds absorbed bits in both arms",
        ),
    }


def learning_rate(arm: Arm) -> float | None:
    """The learning rate of an arm's runs, where the manifest has it."""
    return arm.results[0].run.manifest.get("config", {}).get("training", {}).get("learning_rate")


def _same_rate(finding: dict, first: Arm, second: Arm) -> dict:
    """The finding, undecided if the arms differ in the learning rate too: then it is not the credit alone that differs."""
    rates = learning_rate(first), learning_rate(second)
    if rates[0] == rates[1]:
        return finding
    return finding | {"verdict": f"undecided: the learning rates differ too ({number(rates[0])} and {number(rates[1])})"}


def _curve(question: str, first: Arm, second: Arm) -> dict:
    result = paired_difference(first, second, CURVE)
    return {
        "question": question,
        "statistic": f"absorbed bits averaged over the log of the FLOPs, {first.name} minus {second.name}, margin "
        f"{CURVE_MARGIN_BITS} bits",
        **result,
        "verdict": verdict_on(
            result,
            (-CURVE_MARGIN_BITS, CURVE_MARGIN_BITS),
            ("it helps", "it makes no difference that matters", "it hurts"),
            len(first.results),
            "not every seed has both",
        ),
    }


def predicted_ratio(arm: Arm) -> float:
    """Offered first-error bits over outcome bits at the start of training, mean over seeds of the first step's."""
    lines = [result.run.steps[0] for result in arm.results]
    first_error, outcome = (
        np.mean([line[key] for line in lines]) for key in ("bits/first_error_per_sample", "bits/offered_per_sample")
    )
    return float(first_error / outcome)


def process_rows(arms: Sequence[Arm]) -> list[list[str]]:
    """What each way of credit was offered and absorbed, and the checks for hacking, heading first."""
    columns = (
        ("offered by the outcome, bits", "outcome_bits_per_sample"),
        ("by the first error, bits", "first_error_bits_per_sample"),
        ("absorbed bits", "absorbed_bits"),
        ("pass rate after", "pass_rate_after"),
        ("curve score, bits", CURVE),
        ("unsaturated bits / PFLOP", RATE),
        ("rollouts", "samples"),
        ("tokens a completion, first", "completion_tokens_first"),
        ("last", "completion_tokens_last"),
        ("steps a completion, first", "steps_first"),
        ("last", "steps_last"),
        ("passes with a wrong step", "passes_with_wrong_step"),
        ("fails with all steps right", "fails_with_right_steps"),
    )
    rows = [["start", "arm", *[heading for heading, _ in columns]]]
    for start, by_way in process_arms(arms).items():
        rows += [[start, arm.name, *[estimate(arm.summary(key)) for _, key in columns]] for arm in by_way.values()]
    return rows


def credit_figure(arms: Sequence[Arm]) -> Figure:
    """Curve score by way of credit, a panel a start: every seed a point, mean and 95 % t interval beside it."""
    by_start = process_arms(arms)
    figure, axes = plt.subplots(len(by_start), 1, figsize=(8.5, 2.6 * len(by_start) + 0.6), squeeze=False, sharex=True)
    ways = list(dict.fromkeys(reward for by_way in by_start.values() for reward, _ in by_way))
    for axis, (start, by_way) in zip(axes[:, 0], by_start.items(), strict=True):
        for (reward, stops), arm in by_way.items():
            x = ways.index(reward) + (0.16 if stops else -0.16)
            values, summary = arm.measured(CURVE), arm.summary(CURVE)
            look = {"color": COLOURS[stops], "marker": "s" if stops else "o"}
            axis.plot([x - 0.06] * len(values), values, linestyle="none", alpha=0.5, markersize=4, **look)
            if summary["interval"]:
                low, high = summary["interval"]
                error = [[summary["mean"] - low], [high - summary["mean"]]]
                axis.errorbar([x + 0.06], [summary["mean"]], yerr=error, color=COLOURS[stops], marker="_", capsize=4)
        axis.axhline(0, color="#444444", linewidth=0.8)
        axis.set_title(plain(f"{start} start"), loc="left")
        axis.set_ylabel("absorbed bits,\nmean over log FLOPs")
    axes[-1, 0].set_xticks(range(len(ways)), ways)
    handles = [plt.Line2D([], [], linestyle="none", color=COLOURS[stops], marker="s" if stops else "o") for stops in (0, 1)]
    figure.legend(handles, ["whole rollouts", "stopped at the first error"], loc="outside upper right", ncols=2)
    return figure


def ratio_figure(arms: Sequence[Arm]) -> Figure:
    """Observed ratio of absorbed bits per FLOP, process over outcome, against the ratio of the offered bits."""
    figure, axis = plt.subplots(figsize=(7.0, 4.6))
    highest = 1.0
    for index, (start, by_way) in enumerate(process_arms(arms).items()):
        outcome, process = by_way.get((OUTCOME, False)), by_way.get(("first_error", False))
        if outcome is None or process is None:
            continue
        predicted, observed = predicted_ratio(process), paired_ratio(process, outcome, RATE)
        highest = max(highest, predicted)
        label = f"{start} ({observed['n']} of {len(outcome.results)} seeds have a ratio)"
        axis.plot([predicted] * observed["n"], observed["values"], "o", color=COLOURS[index], alpha=0.6, label=label)
        if observed["interval"]:
            low, high = observed["interval"]
            error = [[observed["mean"] - low], [high - observed["mean"]]]
            axis.errorbar([predicted * 1.06], [observed["mean"]], yerr=error, color=COLOURS[index], marker="_", capsize=4)
    line = np.geomspace(0.9, highest * 1.3, 50)
    axis.plot(line, line, color="#444444", linewidth=1, label="absorbed in the proportion offered")
    axis.axhline(1, color="#444444", linewidth=0.8, linestyle=":")
    axis.set(xscale="log", yscale="log", xlabel="offered: first-error bits over outcome bits a rollout")
    axis.set_ylabel("absorbed bits a petaFLOP,\nfirst_error over outcome")
    axis.legend(fontsize=9)
    return figure


FIGURES = (
    (
        "credit",
        "Which way to assign credit absorbs most?",
        credit_figure,
        "Absorbed bits averaged over the log of the FLOPs, at the same FLOPs; each point is a seed, the bar beside it the mean "
        "with its 95 % t interval over seeds.",
    ),
    (
        "offered_absorbed",
        "Is a denser reward absorbed in the proportion in which it is offered?",
        ratio_figure,
        "Across, how many times more bits the position of the first error offers than the outcome; up, how many times faster "
        "bits were absorbed before saturation. Seeds in which an arm absorbed nothing have no ratio.",
    ),
)
