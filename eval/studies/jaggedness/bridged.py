"""Episodes of several problems, a few labels, a curriculum: `python -m eval.studies.jaggedness.bridged RECORD [PICTURE]` prints what came of the predictions.

Question, statistics and predictions are in README.md ("Longer horizons, a few labels, a curriculum"). RECORD holds the lines.parquet of the runs, which `python -m eval.studies.jaggedness pack` writes, and the slopes.json of the starts.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bitsample_llm.estimators import wilson_interval
from bitsample_llm.report.estimates import number_text
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


def models_of(courses: list[Course], arm: str, rule_share: float) -> dict[str, list[Course]]:
    """The runs of a cell by model."""
    found: dict[str, list[Course]] = {}
    for course in sorted(courses, key=lambda course: (course.model, course.seed)):
        if (course.arm, course.share) == (arm, rule_share):
            found.setdefault(course.model, []).append(course)
    return found


def count_text(courses: list[Course], arm: str, rule_share: float, is_so: Callable[[Course], bool]) -> str:
    """At how many models all seeds do what was foretold, with Wilson's interval and the verdict."""
    cell = models_of(courses, arm, rule_share)
    if not cell:
        return "not run"
    hits = sum(all(map(is_so, runs)) for runs in cell.values())
    low, high = wilson_interval(hits, len(cell))
    verdict = "supported" if low > 0.5 else "contradicted" if high < 0.5 else "undecided"
    return f"{hits} of {len(cell)} models [{low:.2f}, {high:.2f}], {verdict} ({sum(map(len, cell.values()))} runs)"


def predictions(courses: list[Course]) -> list[tuple[str, str]]:
    """What was foretold, and what came out."""
    plain = {(course.model, course.share, course.seed): course for course in courses if course.arm == "plain"}

    def beside(course: Course) -> Course:
        return plain[course.model, course.share, course.seed]

    rows = []

    def say(number: int, arm: str, rule_share: float, what: str, is_so: Callable[[Course], bool]) -> None:
        rows.append((f"{number}. {NAMES.get(arm, arm)}, s = {rule_share:g}: {what}", count_text(courses, arm, rule_share, is_so)))

    moves = {-1: "first down", 1: "first up"}
    cells = [(1, "plain", 0.8, -1), (1, "plain", 0.95, -1), (1, "together_4", 0.95, -1), (1, "together_4", 0.8, 1)]
    cells += [(1, "together_16", 0.95, 1), (2, "apart_4", 0.8, -1), (2, "apart_4", 0.95, -1), (3, "labels_30", 0.8, 1)]
    cells += [(3, "labels_30", 0.95, 1), (3, "labels_1", 0.8, -1), (3, "labels_1", 0.95, -1), (4, "probe", 0.8, -1)]
    cells += [(4, "probe", 0.95, -1)]
    for number, arm, rule_share, move in cells:
        say(number, arm, rule_share, moves[move], lambda course, move=move: course.first_move == move)
        is_back = move == 1
        say(
            number,
            arm,
            rule_share,
            "back in the end" if is_back else "not back in the end",
            lambda course, is_back=is_back: (course.right[-1] > BACK) == is_back,
        )
    for rule_share in (0.8, 0.95):
        say(
            2,
            "apart_4",
            rule_share,
            "moves later than with one problem",
            lambda course: updates_until_move(course) > updates_until_move(beside(course)),
        )
        say(
            3,
            "labels_1",
            rule_share,
            "in the end above GRPO alone",
            lambda course: course.log_odds[-1] > beside(course).log_odds[-1],
        )
    for arm, is_back in (("plain", False), ("together_16", True), ("labels_1", False), ("labels_30", True)):
        say(
            5,
            f"{arm}_adamw",
            0.95,
            "back in the end" if is_back else "not back in the end",
            lambda course, is_back=is_back: (course.right[-1] > BACK) == is_back,
        )
    return rows


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
            if row is axes[0]:
                axis.set_title(NAMES[arm].replace(", ", ",\n"), fontsize=9)
            else:
                axis.set_xlabel("updates")
        row[0].set_ylabel(f"p right where the rule is wrong\nrule right on {rule_share:g}")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(models), title="pretraining seed")
    figure.savefig(path, dpi=110)


def main() -> None:
    record = Path(sys.argv[1])
    courses, starts = read_courses([record]), read_slopes(record)
    print(aligned_table(courses_table(courses, starts)))
    print()
    for question, answer in predictions(courses):
        print(f"{question}: {answer}")
    if len(sys.argv) > 2:
        draw(courses, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
