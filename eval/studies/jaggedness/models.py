"""Many models: is the closed form right for a typical one, and what sets kinship? `python -m eval.studies.jaggedness.models FOLDER` makes the page.

Question, statistics and thresholds are in README.md. FOLDER holds the slopes.json of the models, named `FIRST.PHASE` or `FIRST_SIGNS.PHASE` (first pretraining, what stands in the signs' place, seed of
the second phase), the signs.json of the weights that each second phase began from, and the lines.parquet of runs from author F, which `python -m eval.studies.jaggedness pack` writes.
"""

import itertools
import math

import numpy as np
from matplotlib.figure import Figure

from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.command import report
from bitsample_llm.report.estimates import Estimate, number_text, over_seeds
from bitsample_llm.report.study import Headline, Picture, Study, Table
from bitsample_llm.report.style import COLOURS, GREY, MARKERS, plt
from eval.studies.jaggedness.claims import FACTOR, YES
from eval.studies.jaggedness.kinship import (
    AS_IT_IS,
    CLOSE_KIN,
    CROSSINGS,
    FIXED_RIGHT,
    FORETOLD,
    FORETOLD_SHIFT,
    KIN,
    MAIN,
    MOST_RIGHT,
    SHIFT,
    SIGNS,
    Found,
    components,
    is_fixed,
    mean_ratio,
    means_of,
    next_ratio,
    rank_correlation,
    read,
    share_of,
    shifts,
    slope_at_run,
)


def _of_models(found: Found) -> list[Claim]:
    natural, new = found.of([AS_IT_IS]), found.of(["unused"])
    within = Answers("contradicted: it recedes more easily", "supported", "contradicted: it recedes less easily")
    claims = []
    for crossing in CROSSINGS:
        for groups, which in ((natural, "signs as they are"), (new, "three new signs")):
            statistic = f"{which}, {crossing[0]}, s = {crossing[1]:g}: odds at the crossing over the closed form's, geometric mean over first pretrainings; thresholds {1 / FACTOR:g} and {FACTOR:g}"
            estimate, margins = mean_ratio(groups, crossing), (1 / FACTOR, FACTOR)
            claims.append(
                judged(
                    "Is the crossing of a typical model where the closed form says?",
                    statistic,
                    estimate,
                    margins,
                    within,
                    2,
                    "too few",
                    10,
                )
            )
    for value, what in ((KIN, "k"), (lambda model: math.log(model.ratio()), "the crossing's logarithm")):
        for groups, which in ((natural, "signs as they are"), (new, "three new signs")):
            if parts := components(groups, value):
                statistic = (
                    f"{which}: share of the variance of {what} that lies between first pretrainings; threshold .5; n counts models"
                )
                claims.append(
                    judged("Is it a property of the first pretraining?", statistic, parts.share, (0.5, 0.5), YES, 3, "too few")
                )
    for signs in ("unused", "rule"):
        moved = shifts(found, signs)
        statistic = f"{SIGNS[signs]}: k minus that of the same first pretraining with its signs as they are, of those with k foretold beyond {FORETOLD_SHIFT:g}, lowest and highest; threshold {SHIFT:g}"
        claims.append(
            judged(
                "Does another sign move kinship as foretold?",
                statistic,
                moved,
                (SHIFT, SHIFT),
                YES,
                1,
                "not measured",
            )
        )
    for groups, which in ((natural, "signs as they are"), (found.of(), "all")):
        errors = over_seeds(np.abs(np.subtract(*(means_of(groups, value) for value in (KIN, FORETOLD)))).tolist())
        statistic = f"{which}: distance of k from what the signs' weights before the second phase foretell, mean over first pretrainings with their signs; threshold {CLOSE_KIN:g}"
        answers = Answers("no", "undecided", "yes")
        claims.append(
            judged(
                "Is kinship what can be read before the second phase?",
                statistic,
                errors,
                (CLOSE_KIN, CLOSE_KIN),
                answers,
                2,
                "too few",
            )
        )
        for value, what in (
            (FORETOLD, "what the signs' weights foretell"),
            (lambda model: model.wrong, "the probability of wrong answers"),
        ):
            statistic = (
                f"{which}: Spearman's correlation of k with {what}; threshold 0; n counts first pretrainings with their signs"
            )
            answers = Answers("yes", "undecided", "yes, the other way")
            claims.append(
                judged(
                    "Does kinship go with what can be read before?",
                    statistic,
                    rank_correlation(groups, value),
                    (0.0, 0.0),
                    answers,
                    4,
                    "too few",
                )
            )
    return claims


def _of_runs(found: Found) -> list[Claim]:
    claims = []
    for arm, what in (("sgd", "GRPO, SGD"), ("adamw", "GRPO, AdamW")):
        courses = [course for course in found.courses if course.arm == arm]
        moved = [course for course in courses if course.first_move]
        asked = [
            (
                "Does the slope foretell the first move?",
                "that moved as measured before",
                moved,
                lambda course: slope_at_run(found, course) * course.first_move > 0,
            ),
            (
                "Does it fix on the rule?",
                f"that end with more rule than right and less than {FIXED_RIGHT:g} right",
                courses,
                is_fixed,
            ),
            (
                "Does the general strategy win?",
                f"that end with more than {MOST_RIGHT:g} right",
                courses,
                lambda course: course.right[-1] > MOST_RIGHT,
            ),
        ]
        for text, which, of_them, holds in asked:
            statistic = f"{what}, F at .95: share of runs {which}; threshold .5; n counts runs, one per model"
            claims.append(judged(text, statistic, share_of(of_them, holds), (0.5, 0.5), YES, 1, "no run", 10))
    return claims


def models_table(found: Found) -> Table:
    """A row per model."""
    rows = [
        [
            "first",
            "right's sign",
            "phase",
            "right, F",
            "rule, F",
            "counts",
            "foretold k",
            "k: C, D, E, F",
            "over closed form, s = .8",
            "GRPO",
        ]
    ]
    for model in found.models:
        kin = ", ".join(f"{author.kinship('group of 8'):.2f}" for author in model.authors)
        ratios = [ratio_text(model.ratios[crossing]) for crossing in CROSSINGS]
        last, held = model.authors[-1], "yes" if model.counts else "no"
        rows.append(
            [
                model.first,
                SIGNS[model.signs],
                model.phase,
                f"{last.right:.2f}",
                f"{last.rule:.2f}",
                held,
                f"{model.foretold:.2f}",
                kin,
                *ratios,
            ]
        )
    note = "Foretold: by the signs' weights before the second phase. Brackets: eighths of the training problems; alone where the crossing lies beyond the authors."
    return Table("The models", rows, note)


def ratio_text(ratio: Estimate) -> str:
    """A ratio, or what it is known to lie below or above."""
    if ratio.mean is not None:
        return ratio.text()
    low, high = ratio.interval
    return f"< {number_text(high)}" if low == 0 else f"> {number_text(low)}"


def components_table(found: Found) -> Table:
    """What differs more: first pretrainings, or second phases of one?"""
    rows = [["signs", "of", "groups", "models", "spread between", "spread within", "share between"]]
    sides = (
        ("as they are", found.of([AS_IT_IS])),
        ("three new ones", found.of(["unused"])),
        ("all, renamed ones too", found.of()),
    )
    for (name, groups), (what, value) in itertools.product(
        sides, (("k", KIN), ("ln crossing", lambda model: math.log(model.ratio())))
    ):
        if parts := components(groups, value):
            shown = (number_text(parts.between), number_text(parts.within), parts.share.text())
            rows.append([name, what, str(len(groups)), str(sum(map(len, groups.values()))), *shown])
    return Table("What differs more?", rows, "Standard deviations; interval from an F distribution.")


def runs_table(found: Found) -> Table:
    """What the runs did."""
    rows = [["model", "arm", "slope before", "first move", "right in the end", "rule in the end"]]
    for course in sorted(found.courses, key=lambda course: (course.arm, course.model)):
        move = {1: "up", -1: "down", 0: "none"}[course.first_move]
        rows.append(
            [
                course.model,
                course.arm,
                number_text(slope_at_run(found, course)),
                move,
                f"{course.right[-1]:.3f}",
                f"{course.rule[-1]:.3f}",
            ]
        )
    return Table("The runs from author F at s = .95", rows, "GRPO. Slope: along the expected gradient, with AdamW along its signs.")


def models_figure(found: Found) -> Figure:
    """The crossing over the closed form's, and k, against how the signs lay before the second phase; a point per model."""
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.4))
    firsts = list(dict.fromkeys(model.first for model in found.counted))
    colours, markers = dict(zip(firsts, COLOURS, strict=False)), dict(zip(SIGNS, MARKERS, strict=False))
    for model in found.counted:
        look = {"color": colours[model.first], "marker": markers[model.signs], "linestyle": "none", "markersize": 7, "alpha": 0.8}
        look |= {"fillstyle": "full" if model.signs == AS_IT_IS else "none"}
        ratio = model.ratios[MAIN]
        axes[0].plot([model.foretold], [model.ratio()], **look)
        if ratio.mean is None:
            axes[0].annotate(
                "",
                (model.foretold, model.ratio() * (0.8 if ratio.interval[0] == 0 else 1.25)),
                (model.foretold, model.ratio()),
                arrowprops={"arrowstyle": "->", "color": colours[model.first]},
            )
        axes[1].plot([model.foretold], [model.kinship], **look)
    axes[0].axhspan(1 / FACTOR, FACTOR, color=GREY, alpha=0.1)
    axes[0].axhline(1, color=GREY, linewidth=0.8)
    axes[1].axhline(0, color=GREY, linewidth=0.8)
    axes[1].axline((0, 0), slope=1, color=GREY, linewidth=0.8, linestyle="--")
    ticks = [0.25, 0.5, 1, 2, 4]
    axes[0].set(yscale="log", ylabel="odds at the crossing over the closed form's", title="s = .8, policy gradient")
    axes[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes[0].set_yticks([], minor=True)
    axes[1].set(ylabel="kinship k, mean over authors", title="GRPO, groups of 8")
    for axis in axes:
        axis.set(xlabel="k foretold by the signs' weights,\nread before the second phase")
    handles = [plt.Line2D([], [], color=colours[first], marker="o", linestyle="none", label=first) for first in firsts]
    handles += [
        plt.Line2D(
            [],
            [],
            color="black",
            marker=markers[signs],
            linestyle="none",
            fillstyle="full" if signs == AS_IT_IS else "none",
            label=SIGNS[signs],
        )
        for signs in dict.fromkeys(model.signs for model in found.counted)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8)
    return figure


def models_study(found: Found, command: str) -> Study:
    """The page."""
    claims = _of_models(found) + _of_runs(found) * bool(found.courses)
    natural, new = found.of([AS_IT_IS]), found.of(["unused"])
    sides = [(mean_ratio(groups), name) for groups, name in ((natural, "all"), (new, "three new signs")) if groups]
    said = "; ".join(f"{ratio.text()} ({name}, n = {ratio.n})" for ratio, name in sides)
    kin = {name: over_seeds(means_of(groups, KIN)) for name, groups in (("all", natural), ("new signs", new))}
    inside = [
        sum(1 / FACTOR <= math.exp(log) <= FACTOR for log in means_of(groups, lambda model: math.log(model.ratio())))
        for groups in (natural, new)
    ]
    results = {
        "kinship": {name: of_side.fields() for name, of_side in kin.items()},
        "next ratio": {name: next_ratio(groups) for name, groups in (("all", natural), ("new signs", new)) if len(groups) > 1},
        "within a factor of 2": dict(zip(("all", "new signs"), inside, strict=True)),
        "models": {
            model.name: {"counts": model.counts, "kinship": model.kinship, "foretold": model.foretold, "wrong": model.wrong}
            | {f"{objective}, {share:g}": model.ratios[objective, share].fields() for objective, share in CROSSINGS}
            for model in found.models
        },
    }
    return Study(
        title="Heuristic or general, over models",
        question="Is the closed form right for a typical model, and what sets how it errs?",
        answer=f"The general strategy begins to gain at {said} times the closed form's odds (s = .8, policy gradient).",
        main=Picture(
            "models",
            "Where does the general strategy begin to gain, and why?",
            lambda: models_figure(found),
            "A point per model; arrows: beyond the authors.",
        ),
        table=models_table(found),
        how_to_read="Slopes are exact, without training.",
        provenance=f"{len(found.models)} models, {len(found.courses)} runs. Made by: {command}",
        headlines=[
            Headline(ratio.text(), f"times the closed form's odds, {name}", f"n = {ratio.n} first pretrainings")
            for ratio, name in sides
        ],
        sentences=[claim.sentence("values") for claim in claims if not claim.verdict.startswith("undecided")][:5],
        claims=claims,
        tables=[components_table(found), *([runs_table(found)] if found.courses else [])],
        terminal=[components_table(found), *([runs_table(found)] if found.courses else [])],
        results=results,
    )


if __name__ == "__main__":
    report(models_study, prog="python -m eval.studies.jaggedness.models", description=__doc__.splitlines()[0], read=read)
