"""Episodes of several problems, a few labels, a curriculum: `python -m eval.studies.jaggedness.bridged RUNS FOLDER` prints what came of the predictions and writes results.json and figures.

Question, statistics and predictions are in README.md ("Longer horizons, a few labels, a curriculum"). RUNS holds the lines.parquet of the runs, which `python -m eval.studies.jaggedness pack` writes, and the slopes.json of the starts.
"""

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bitsample_llm.estimators import wilson_interval
from bitsample_llm.report.claims import Claim
from bitsample_llm.report.estimates import UNMEASURED, Estimate, number_text
from bitsample_llm.report.page import aligned_table
from bitsample_llm.report.style import COLOURS, DASHES, GREY, plt
from eval.studies.jaggedness.courses import MOVED, Course, read_courses
from eval.studies.jaggedness.slopes import Start, read_slopes

EPISODE = {
    "plain": 1,
    "together_4": 4,
    "together_16": 16,
    "plain_adamw": 1,
    "together_16_adamw": 16,
}  # problems for which one sign stands
BACK = 0.5
KEEP_FOR = 3.0
ARMS = ("plain", "together_4", "together_16", "apart_4", "labels_30", "labels_1", "probe")
NAMES = {
    "plain": "GRPO, one problem",
    "together_4": "4 problems, one choice",
    "together_16": "16 problems, one choice",
    "apart_4": "4 problems, a choice each",
    "labels_30": ".3 labels per rollout",
    "labels_1": ".01 labels per rollout",
    "probe": "problems near p = .5",
    "labels_alone": "the same labels without rollouts",
    "signed_outcome": "a verdict on answer and sign",
    "signed_steps": "credit by the first error, the sign first",
}

TITLES = {
    "plain": "GRPO,\none problem",
    "together_4": "episodes of 4,\none choice",
    "together_16": "episodes of 16,\none choice",
    "apart_4": "episodes of 4,\na choice each",
    "labels_30": ".3 labels\nper rollout",
    "labels_1": ".01 labels\nper rollout",
    "probe": "problems\nnear p = .5",
}


def back_price(course: Course) -> float | None:
    """GFLOP at which right rose above one half, kept until three times as many; None where that was not shown."""
    below = [number for number, right in enumerate(course.right) if right < BACK]
    first = below[-1] + 1 if below else 0
    if first == len(course.right) or course.flops[-1] < KEEP_FOR * course.flops[first]:
        return None
    return course.flops[first] / 1e9


def updates_until_move(course: Course) -> float:
    """Updates until ln(right / rule) had moved by `MOVED`, linear between evaluations; infinite where it never did."""
    moves = np.abs(np.subtract(course.log_odds, course.log_odds[0]))
    after = next((number for number, move in enumerate(moves) if move > MOVED), None)
    if after is None:
        return np.inf
    return float(np.interp(MOVED, moves[after - 1 : after + 1], course.updates[after - 1 : after + 1]))


def updates_until_back(course: Course) -> float:
    """Updates until right was above one half for the first time, linear between evaluations; infinite where it never was."""
    after = next((number for number, right in enumerate(course.right) if right > BACK), None)
    if after is None:
        return np.inf
    return float(np.interp(BACK, course.right[after - 1 : after + 1], course.updates[after - 1 : after + 1]))


def models_of(courses: list[Course], arm: str, rule_share: float) -> dict[str, list[Course]]:
    """The runs of a cell by model."""
    found: dict[str, list[Course]] = {}
    for course in sorted(courses, key=lambda course: (course.model, course.seed)):
        if (course.arm, course.share) == (arm, rule_share):
            found.setdefault(course.model, []).append(course)
    return found


def counted(courses: list[Course], arm: str, rule_share: float, what: str, is_so: Callable[[Course], bool]) -> Claim:
    """At how many models all seeds do what was foretold, with Wilson's interval and the verdict."""
    cell = models_of(courses, arm, rule_share)
    text = f"{NAMES.get(arm, arm)}, s = {rule_share:g}: {what}?"
    statistic = f"models at which all training seeds do so ({sum(map(len, cell.values()))} runs)"
    if not cell:
        return Claim(text, statistic, Estimate(None, None, 0), "undecided: not run")
    hits = sum(all(map(is_so, runs)) for runs in cell.values())
    low, high = interval = wilson_interval(hits, len(cell))
    verdict = "supported" if low > 0.5 else "contradicted" if high < 0.5 else "undecided"
    return Claim(text, statistic, Estimate(hits / len(cell), interval, len(cell)), verdict)


RISES = (
    ("plain", 0.8, False),
    ("plain", 0.95, False),
    ("together_4", 0.95, False),
    ("together_4", 0.8, True),
    ("together_16", 0.95, True),
)
RISES += (("apart_4", 0.8, False), ("apart_4", 0.95, False), ("labels_30", 0.8, True), ("labels_30", 0.95, True))
RISES += (("labels_1", 0.8, False), ("labels_1", 0.95, False), ("probe", 0.8, False), ("probe", 0.95, False))
RISES += tuple((arm, share, True) for arm in ("signed_outcome", "signed_steps") for share in (0.8, 0.95))
ENDS = (("labels_alone", 0.8, True), ("labels_alone", 0.95, True))
ENDS += (
    ("plain_adamw", 0.95, False),
    ("together_16_adamw", 0.95, True),
    ("labels_1_adamw", 0.95, False),
    ("labels_30_adamw", 0.95, True),
)
COMPARED = (
    (
        "apart_4",
        "plain",
        "moves later than with one problem",
        lambda one, other: updates_until_move(one) > updates_until_move(other),
    ),
    ("labels_1", "plain", "in the end above GRPO alone", lambda one, other: one.log_odds[-1] > other.log_odds[-1]),
    (
        "labels_alone",
        "labels_30",
        "in the end above the labels with rollouts",
        lambda one, other: one.log_odds[-1] > other.log_odds[-1],
    ),
    (
        "signed_steps",
        "signed_outcome",
        "back sooner than by the verdict",
        lambda one, other: updates_until_back(one) < updates_until_back(other),
    ),
)


def predictions(courses: list[Course]) -> list[Claim]:
    """What was foretold, and at how many models it came out: where the general strategy rises first and is back in the end, and what differs from plain GRPO."""

    def beside(course: Course, arm: str) -> Course:
        """The run of another arm at the same start with the same seed."""
        cell = (course.model, course.share, course.seed)
        return next(other for other in courses if other.arm == arm and (other.model, other.share, other.seed) == cell)

    def is_back(course: Course) -> bool:
        return course.right[-1] > BACK

    claims = []
    for arm, rule_share, rises in RISES:
        move = 1 if rises else -1
        claims.append(
            counted(
                courses, arm, rule_share, f"first {'up' if rises else 'down'}", lambda course, move=move: course.first_move == move
            )
        )
    for arm, rule_share, rises in RISES + ENDS:
        claims.append(
            counted(
                courses,
                arm,
                rule_share,
                f"{'' if rises else 'not '}back in the end",
                lambda course, rises=rises: is_back(course) == rises,
            )
        )
    for rule_share, (arm, other, what, is_so) in itertools.product((0.8, 0.95), COMPARED):
        claims.append(
            counted(
                courses,
                arm,
                rule_share,
                what,
                lambda course, other=other, is_so=is_so: is_so(course, beside(course, other)),
            )
        )
    return claims


def courses_table(courses: list[Course], starts: list[Start]) -> list[list[str]]:
    """What the runs did, a row per cell and model."""
    by_model = {start.model: start for start in starts if start.mark == "F"}
    head = [
        "s",
        "arm",
        "model",
        "slope before",
        "first move",
        "updates to it",
        "right in the end",
        "rule",
        "easy",
        "GFLOP to right .5",
    ]
    rows = [head]
    for rule_share in (0.8, 0.95):
        for arm in dict.fromkeys([*ARMS, *(course.arm for course in courses)]):
            for model, runs in models_of(courses, arm, rule_share).items():
                length = EPISODE.get(arm)
                slope = (
                    number_text(by_model[model].slope("group of 8", rule_share**length)) if length and "adamw" not in arm else "–"
                )
                told = [", ".join({1: "up", -1: "down", 0: "none"}[run.first_move] for run in runs)]
                told.append(", ".join(number_text(updates_until_move(run)) for run in runs))
                for field in ("right", "rule", "easy"):
                    told.append(", ".join(f"{getattr(run, field)[-1]:.2f}" for run in runs))
                prices = [back_price(run) for run in runs]
                told.append(", ".join("–" if price is None else f"{price:.0f}" for price in prices))
                rows.append([f"{rule_share:g}", arm, model, slope, *told])
    return rows


def draw(courses: list[Course], path: Path) -> None:
    """Probability of the right answer on problems that carry against updates, a column per arm and a row per share; a line per run."""
    models = sorted({course.model for course in courses})
    figure, axes = plt.subplots(2, len(ARMS), figsize=(2.0 * len(ARMS), 5.4), sharex=True, sharey=True)
    for row, rule_share in zip(axes, (0.8, 0.95), strict=True):
        for axis, arm in zip(row, ARMS, strict=True):
            cell = models_of(courses, arm, rule_share)
            for look, model in enumerate(models):
                for number, run in enumerate(cell.get(model, ())):
                    style = {"color": COLOURS[look], "linestyle": DASHES[look], "linewidth": 1.1}
                    axis.plot(run.updates, run.right, **style, label=model if number == 0 else None)
            if not cell:
                axis.text(0.5, 0.5, "not run", ha="center", color=GREY, transform=axis.transAxes)
            axis.axhline(BACK, color=GREY, linewidth=0.6)
            axis.set(ylim=(0, 1))
        row[0].set_ylabel(f"p of the right answer\n(rule right on {rule_share:g})")
    for above, below, arm in zip(*axes, ARMS, strict=True):
        above.set_title(TITLES[arm], fontsize=9)
        below.set_xlabel("updates")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(models), title="pretraining seed")
    figure.savefig(path, dpi=110)


def main() -> None:
    record, folder = Path(sys.argv[1]), Path(sys.argv[2])
    courses, starts = read_courses([record]), read_slopes(record)
    claims = predictions(courses)
    print(aligned_table(courses_table(courses, starts)))
    print()
    print(aligned_table([["predicted", "models", "interval", "verdict"], *map(claim_row, claims)]))
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps({"claims": [claim.fields() for claim in claims]}, indent=1) + "\n")
    draw(courses, folder / "figures" / "courses.png")


def claim_row(claim: Claim) -> list[str]:
    """What was foretold, and at how many models it came out."""
    if claim.estimate.mean is None:
        return [claim.text, UNMEASURED, UNMEASURED, claim.verdict]
    low, high = claim.estimate.interval
    return [
        claim.text,
        f"{round(claim.estimate.mean * claim.estimate.n)} of {claim.estimate.n}",
        f"[{low:.2f}, {high:.2f}]",
        claim.verdict,
    ]


if __name__ == "__main__":
    main()
