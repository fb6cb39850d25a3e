"""Does a denser reward carry more bits, and are they absorbed? `python -m eval.studies.process_outcome RUN...` makes the page.

Question, statistics and thresholds are in README.md, starts and arms in study.yaml.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from bitsample_llm.records import RecordError
from bitsample_llm.report import columns
from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.columns import CURVE_SCORE, PASS_RATE_BEFORE, RATE_BEFORE_SATURATION, Column
from bitsample_llm.report.command import report
from bitsample_llm.report.comparison import provenance, results_of, runs_of
from bitsample_llm.report.estimates import number_text
from bitsample_llm.report.pairs import paired_difference, paired_ratio
from bitsample_llm.report.pictures import pictures_of
from bitsample_llm.report.runs import Arm, MeasuredRun, by_start
from bitsample_llm.report.study import Headline, Picture, Study, Table
from bitsample_llm.report.style import COLOURS, GREY, error_bars, plain, plt, tip
from bitsample_llm.report.tables import column_table, detail_tables

OUTCOME, SCALARS = "outcome", ("process_sum", "process_prefix")
CREDIT = ("process_tokens", "first_error")  # that say which step earned it
PROCESS = (*SCALARS, *CREDIT, "process_outcome")
REWARDS = (OUTCOME, *PROCESS, "random")
RATIO_THRESHOLD = 3.0  # claim 8: below it, a denser reward is not absorbed in the proportion in which it is offered
RATIO_PASS_RATE = 0.01  # claim 8 is asked of starts below it
CURVE_MARGIN_BITS = 0.25
HELPS = Answers("it helps", "it makes no difference that matters", "it hurts")
HOW_TO_READ = (
    "Every arm is GRPO with the same budget of FLOPs, rollouts included; arms differ in what they are rewarded for. The outcome is "
    "one verdict on the whole answer. A process reward also uses the verdicts on single digits: process_sum as one number, the share "
    "of right digits; process_prefix as the share before the first wrong one; process_tokens and first_error as an advantage of each token; process_outcome is half first_error and half "
    "outcome. The curve score is absorbed bits averaged over the log of the FLOPs, so that early gains count."
)

# ---- columns of this study -------------------------------------------------------------------------------------------


def offered_by_first_error(run: MeasuredRun) -> float | None:
    """Mean over the steps until half of the available held-out bits were absorbed; None where no step was judged."""
    until = columns.flops_before_saturation(run)
    lines = [line for line in run.run.steps if line["flops/total"] <= until] or run.run.steps[:1]
    values = [value for line in lines if (value := line.get("bits/first_error_per_sample")) is not None]
    return float(np.mean(values)) if values else None


ROLLOUTS = (
    *("tokens, first tenth", "tokens, last tenth", "steps, first tenth", "steps, last tenth"),
    *("passes with a wrong step", "fails with all steps right"),
)


def rollout_means(run: MeasuredRun) -> dict[str, float]:
    """What `ROLLOUTS` names, mean over rollouts; empty without verdicts on steps."""
    table = run.run.table("rollouts").select(["num_tokens", "num_steps", "num_correct_before_first_error", "passed"])
    if not table.num_rows or table["num_steps"].null_count:
        return {}
    tokens, steps, right, passed = (column.to_numpy() for column in table.columns)
    first, last = slice(max(len(tokens) // 10, 1)), slice(-max(len(tokens) // 10, 1), None)
    hacks = passed.astype(bool) & (right != steps), ~passed.astype(bool) & (right == steps)
    values = (tokens[first], tokens[last], steps[first], steps[last], *hacks)
    return {heading: float(of_rollouts.mean()) for heading, of_rollouts in zip(ROLLOUTS, values, strict=True)}


OFFERED_BY_FIRST_ERROR = Column(
    "first_error_bits_per_sample",
    "bits",
    "offered by the first error",
    "entropy of the position of a rollout's first wrong step, of the same rollouts",
    offered_by_first_error,
)
HACKING = tuple(
    Column(heading, "1", heading, "mean over rollouts", lambda run, heading=heading: rollout_means(run).get(heading))
    for heading in ROLLOUTS
)

# ---- claims ----------------------------------------------------------------------------------------------------------


def choice(arm: Arm, name: str):
    """What its recipe was told; None where it was not asked."""
    return arm.manifest.get("config", {}).get("choices", {}).get(name)


def ways_by_start(arms: Sequence[Arm]) -> dict[str, dict[tuple[str, bool], Arm]]:
    """Start -> (reward, stopped at the first error) -> arm of GRPO."""
    found: dict[str, dict[tuple[str, bool], Arm]] = {start: {} for start in by_start(arms)}
    for arm in sorted((arm for arm in arms if choice(arm, "reward") in REWARDS), key=lambda a: REWARDS.index(choice(a, "reward"))):
        found[arm.start][choice(arm, "reward"), bool(choice(arm, "stop_at_first_error"))] = arm
    return {start: ways for start, ways in found.items() if ways}


def offered_ratio(process: Arm) -> float:
    """Bits that the first error offers over those of the outcome, before anything is learned: mean over seeds of the first step."""
    first_lines = [run.run.steps[0] for run in process.runs]
    offered = [np.mean([line[f"bits/{key}_per_sample"] for line in first_lines]) for key in ("first_error", "offered")]
    return float(offered[0] / offered[1])


def claim_8(process: Arm, outcome: Arm) -> Claim:
    """Whether the first error's bits are absorbed at least three times as fast as the outcome's."""
    ratio = paired_ratio(process, outcome, RATE_BEFORE_SATURATION)
    return judged(
        f"From the {process.start} start, is a process reward absorbed three times as fast per FLOP?",
        f"absorbed bits per PFLOP before saturation, {process.name} over {outcome.name}, threshold {RATIO_THRESHOLD:g}; the offered "
        f"bits predict {offered_ratio(process):.3g}",
        ratio,
        (RATIO_THRESHOLD, RATIO_THRESHOLD),
        Answers("supported", "neither", "contradicted"),
        len(outcome.runs),
        f"{ratio.n} of {len(outcome.runs)} seeds absorbed bits in both arms",
        number=8,
    )


def curve_claim(text: str, first: Arm, second: Arm, same_rate: bool = False) -> Claim:
    """Difference of two learning curves; undecided where `same_rate` is asked for and the two ran at different learning rates."""
    statistic = f"curve score, {first.name} minus {second.name}, margin {CURVE_MARGIN_BITS} bits"
    difference = paired_difference(first, second, CURVE_SCORE)
    rates = [arm.manifest["config"].get("training", {}).get("learning_rate") for arm in (first, second)]
    if same_rate and rates[0] != rates[1]:
        return Claim(text, statistic, difference, f"undecided: they ran at learning rates {rates[0]:g} and {rates[1]:g}")
    margins = (-CURVE_MARGIN_BITS, CURVE_MARGIN_BITS)
    return judged(text, statistic, difference, margins, HELPS, len(first.runs), "not every seed has both")


def claims_of(ways: dict[tuple[str, bool], Arm]) -> list[Claim]:
    """Of one start: claim 8 where its pass rate is low, then what each way to assign credit and the early stop do."""
    outcome, found = ways[OUTCOME, False], []
    asked = f"From the {outcome.start} start, does"
    first_error = ways.get(("first_error", False))
    if first_error and outcome.estimate(PASS_RATE_BEFORE).mean < RATIO_PASS_RATE:
        found.append(claim_8(first_error, outcome))
    found += [curve_claim(f"{asked} {r} help?", ways[r, False], outcome) for r in PROCESS if (r, False) in ways]
    found += [
        curve_claim(f"{asked} the credit of {r} help beyond the bits of {scalar}?", ways[r, False], ways[scalar, False], True)
        for scalar in SCALARS
        for r in CREDIT
        if {(scalar, False), (r, False)} <= ways.keys()
    ]
    stopped = [(r, arm) for (r, stops), arm in ways.items() if stops and r != "random" and (r, False) in ways]
    return found + [curve_claim(f"{asked} an early stop help {r}?", arm, ways[r, False]) for r, arm in stopped]


def credit_table(ways_of: dict[str, dict]) -> Table:
    """Curve scores of whole rollouts by reward and start, narrow enough for a terminal."""
    rows = [["curve score (bits)", *ways_of]]
    for reward in (r for r in REWARDS if any((r, False) in ways for ways in ways_of.values())):
        arms = [ways.get((reward, False)) for ways in ways_of.values()]
        rows.append([reward, *[arm.estimate(CURVE_SCORE).text() if arm else "–" for arm in arms]])
    return Table("Curve scores", rows)


def credit_figure(ways_of: dict[str, dict]) -> Figure:
    """Curve score by way of credit, a panel per start: every seed a point, mean and interval next to it."""
    figure, axes = plt.subplots(len(ways_of), 1, figsize=(6.4, 2.3 * len(ways_of) + 0.8), squeeze=False, sharex=True)
    rewards = [reward for reward in REWARDS if any(reward == r for ways in ways_of.values() for r, _ in ways)]
    for axis, (start, ways) in zip(axes[:, 0], ways_of.items(), strict=True):
        for (reward, stops), arm in ways.items():
            x = rewards.index(reward) + (0.16 if stops else -0.16)
            look = {"color": COLOURS[stops], "marker": "s" if stops else "o", "linestyle": "none", "alpha": 0.5, "markersize": 4}
            for run in arm.runs:
                score = run.value(CURVE_SCORE)
                axis.plot([x - 0.06], [score], gid=tip(run, f"curve score {score:.3g} bits"), **look)
            error_bars(axis, [x + 0.06], [arm.estimate(CURVE_SCORE)], color=COLOURS[stops], marker="_")
        axis.axhline(0, color=GREY, linewidth=0.8)
        axis.set_title(plain(f"{start} start"), loc="left")
        axis.set_ylabel("absorbed bits,\nmean over log FLOPs")
    axes[-1, 0].set_xticks(range(len(rewards)), [reward.replace("_", "\n", 1) for reward in rewards])
    names = {False: "whole rollouts", True: "stopped at the first error"}
    shown = [stops for stops in names if any(stops == how for ways in ways_of.values() for _, how in ways)]
    handles = [plt.Line2D([], [], linestyle="none", color=COLOURS[stops], marker="s" if stops else "o") for stops in shown]
    figure.legend(handles, [names[stops] for stops in shown], loc="outside upper right", ncols=2)
    return figure


def ratio_figure(pairs: Sequence[tuple[Arm, Arm]]) -> Figure:
    """Observed ratio of absorbed bits per FLOP, first error over outcome, against the ratio of the offered bits."""
    figure, axis = plt.subplots(figsize=(7.0, 4.6))
    for index, (process, outcome) in enumerate(pairs):
        predicted, observed = offered_ratio(process), paired_ratio(process, outcome, RATE_BEFORE_SATURATION)
        label = plain(f"{process.start} ({observed.n} of {len(outcome.runs)} seeds have a ratio)")
        axis.plot([predicted] * observed.n, observed.values, "o", color=COLOURS[index], alpha=0.6, label=label)
        error_bars(axis, [predicted * 1.06], [observed], color=COLOURS[index], marker="_")
    line = np.geomspace(0.9, max(offered_ratio(process) for process, _ in pairs) * 1.3, 50)
    axis.plot(line, line, color=GREY, linewidth=1, label="absorbed in the proportion offered")
    axis.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
    axis.set(xscale="log", yscale="log", xlabel="offered: first-error bits over outcome bits per rollout")
    axis.set_ylabel("absorbed bits per PFLOP,\nfirst_error over outcome")
    axis.legend(fontsize=9)
    return figure


def process_study(arms: Sequence[Arm], command: str) -> Study:
    """Credit by start. Raises RecordError without an arm that is rewarded for the outcome."""
    ways_of = {start: ways for start, ways in ways_by_start(arms).items() if (OUTCOME, False) in ways}
    if not ways_of:
        raise RecordError("no run of GRPO is rewarded for the outcome alone, which the others are compared with")
    shown = [arm for ways in ways_of.values() for arm in ways.values()]
    whole = [arm for ways in ways_of.values() for (_, stops), arm in ways.items() if not stops]
    claims = [claim for ways in ways_of.values() for claim in claims_of(ways)]
    pairs = [(ways["first_error", False], ways[OUTCOME, False]) for ways in ways_of.values() if ("first_error", False) in ways]
    told = sorted(claims, key=lambda claim: (claim.number != 8, claim.verdict.startswith("undecided")))
    counts = {word: sum(claim.verdict == word for claim in claims) for word in (HELPS.above, HELPS.below)}
    answer = f"A denser reward or an early stop helped in {counts[HELPS.above]} and hurt in {counts[HELPS.below]} of {len(claims)} comparisons"
    headlines = []
    if pairs:
        process, outcome = min(pairs, key=lambda pair: pair[1].estimate(PASS_RATE_BEFORE).mean)
        ratio, p = paired_ratio(process, outcome, RATE_BEFORE_SATURATION), number_text(outcome.estimate(PASS_RATE_BEFORE).mean)
        offered = number_text(offered_ratio(process))
        headlines = [
            Headline(f"× {offered}", "bits offered per rollout, first error over outcome", f"{process.start} start, p = {p}")
        ]
        answer += f"; at the lowest pass rate, {p}, the first error offered {offered} times the bits of the outcome"
        if ratio.n == len(outcome.runs):
            headlines.append(Headline(f"× {number_text(ratio.mean)}", "absorbed bits per FLOP, the same arms", ratio.text()))
            answer += f" and was absorbed {ratio.text()} times as fast"
    shapes = (columns.OFFERED_PER_SAMPLE, OFFERED_BY_FIRST_ERROR, columns.ABSORBED_BITS, columns.PASS_RATE_AFTER, CURVE_SCORE)
    title, caption = (
        "Is a denser reward absorbed in the proportion in which it is offered?",
        "Across, how many times more bits the position of the first error offers than the outcome; up, how many times faster bits "
        "were absorbed before saturation. Seeds in which an arm absorbed nothing have no ratio.",
    )
    return Study(
        title="Process reward against outcome reward",
        question="Does a denser reward carry more bits, and are they absorbed?",
        answer=f"{answer}.",
        main=Picture(
            "credit",
            "Which way to assign credit absorbs most?",
            lambda: credit_figure(ways_of),
            "Absorbed bits averaged over the log of the FLOPs, at the same FLOPs; each point is a seed, the bar next to it the mean "
            "with its 95 % t interval over seeds.",
        ),
        table=column_table("What each way of credit was offered and absorbed", shown, shapes),
        how_to_read=HOW_TO_READ,
        provenance=provenance(runs_of(arms), command),
        headlines=headlines,
        sentences=[claim.sentence() for claim in told[:4]],
        claims=claims,
        tables=[column_table("Lengths, steps and hacking", shown, HACKING), *detail_tables(shown)],
        pictures=[Picture("offered_absorbed", title, lambda: ratio_figure(pairs), caption)] * bool(pairs)
        + [p for p in pictures_of(whole) if p.name != "essay"],
        terminal=[credit_table(ways_of)],
        results=results_of(shown),
    )


if __name__ == "__main__":
    report(process_study, prog="python -m eval.studies.process_outcome", description=__doc__.splitlines()[0])
