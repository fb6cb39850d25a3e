"""Can a short run tell what training will cost? `python -m eval.studies.forecast FOLDER...` makes the page of the runs in the folders.

Question, forms and tests are in README.md. Runs with the tag `part=new` are the test: the law is fitted without them. `python -m eval.studies.forecast calibrate FOLDER...` fits it to all runs and
writes what `bitsample plan --short_runs` reads.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from bitsample_llm.records.writer import write_text_atomically
from bitsample_llm.report.claims import Claim
from bitsample_llm.report.command import report
from bitsample_llm.report.estimates import UNMEASURED, Estimate, number_text
from bitsample_llm.report.plan.forecast import CALIBRATION, LEAST_SHARE
from bitsample_llm.report.plan.pictures import calibration_figure
from bitsample_llm.report.prices import PricedRun, read_prices
from bitsample_llm.report.study import Headline, Picture, Study, Table
from eval.studies.forecast.observed import (
    ASKED_UPDATES,
    FORMS,
    HALF_WIDTH,
    LATER,
    LAW,
    UPDATES,
    Observed,
    Told,
    fitted_law,
    observed_beginnings,
    told_by_form,
    told_by_law,
    told_left_out,
)

KINDS = ("labels", "rollouts")
SHOWN = {
    "rms_error": "rms error of ln price",
    "coverage": "within the 80 % interval",
    "log_score": "log score",
    "brier": "Brier score",
}
LEAST_COVERED, MOST_COVERED, MOST_ERROR = 0.6, 0.95, 1.0  # of the test
NULLS = ("mean price", "1/p")
HOW_TO_READ = (
    "A beginning is the first updates of a run. The law draws a straight line through it: if F FLOPs gained a share s of the available bits, half of them cost F × 0.5 / s, times a "
    "fitted factor, the wider the smaller s is. Each start is left out when it is forecast. An 80 % interval should hold 80 % of the prices; a log score is better when it is larger, a Brier score when it is smaller."
)


def is_new(run: PricedRun) -> bool:
    """Whether the run is from a start that the law was not made for."""
    return run.tags.get("part") == "new" or run.tags.get("reason") == "pretrained"


def forms_table(kind: str, updates: Sequence[int], observed: Sequence[Observed]) -> Table:
    """How good each form is at beginnings of so many updates."""
    scores = {form: told_left_out(observed, FORMS.get(form)).scores() for form in (LAW, *FORMS)}
    rows = [["form", *SHOWN.values()]]
    for form, found in scores.items():
        rows.append([f"{form} (the law)" if form == LAW else form, *(number_text(found[key]) for key in SHOWN)])
    of_law = scores[LAW]
    note = (
        f"{of_law['n']} beginnings from {of_law['starts']} starts, each start left out; {of_law['known']} prices are known. Brier score: half of the bits within {LATER:g} times "
        f"what the beginning cost; the share of starts alone scores {number_text(of_law['brier_of_the_rate'])}."
    )
    return Table(f"Runs that learn from {kind}, after at most {' '.join(map(str, updates))} updates", rows, note)


def widths_table(observed_by_kind: dict[str, list[Observed]], told_by_kind: dict[str, Told]) -> Table:
    """What an interval is worth, by what the beginning has gained."""
    rows = [
        [
            "bits gained, of all",
            *(
                f"{what}, {kind}"
                for kind in told_by_kind
                for what in ("beginnings", "80 % interval: a factor of", "prices within it")
            ),
        ]
    ]
    for low, high in zip((-np.inf, LEAST_SHARE, 0.1, 0.25), (LEAST_SHARE, 0.1, 0.25, 0.5), strict=True):
        cells = [f"below {high:.0%}" if low < 0 else f"{low:.0%} to {high:.0%}"]
        for kind, told in told_by_kind.items():
            chosen_N = np.array([low <= one.beginning.share < high for one in observed_by_kind[kind]])
            known_N = chosen_N & told.is_known_N
            cells += [str(chosen_N.sum())]
            cells += (
                [number_text(float(np.exp(HALF_WIDTH * told.sd_N[chosen_N].mean()))), f"{told.covered_N[known_N].mean():.0%}"]
                if known_N.any()
                else [UNMEASURED] * 2
            )
        rows.append(cells)
    return Table("What the interval is worth", rows, "Each start left out; the factor is either way, at the mean width.")


def test_claim(kind: str, told: Told, nulls: dict[str, Told]) -> Claim:
    """Whether the law held at starts that it was not made for."""
    scores, others = told.scores(), {name: null.scores()["rms_error"] for name, null in nulls.items()}
    is_covered = LEAST_COVERED <= scores["coverage"] <= MOST_COVERED
    is_near = scores["rms_error"] < min(MOST_ERROR, *others.values())
    errors = ", ".join(f"{name} {number_text(error)}" for name, error in others.items())
    return Claim(
        f"At {scores['starts']} new starts, do the forecasts of runs that learn from {kind} hold?",
        f"share of {scores['known']} known prices within the 80 % interval, from {LEAST_COVERED} to {MOST_COVERED}; rms error of ln price "
        f"{number_text(scores['rms_error'])}, below {MOST_ERROR:g} and below {errors}",
        Estimate(scores["coverage"], None, scores["starts"]),
        "held" if is_covered and is_near else "failed",
    )


def forecast_study(runs: Sequence[PricedRun], command: str) -> Study:
    """The page: how good the law is, at starts left out and at new ones."""
    old, new = ([run for run in runs if is_new(run) == which] for which in (False, True))
    claims, tables, points, every_by_kind = [], [], {}, {}
    for kind in KINDS:
        every = every_by_kind[kind] = observed_beginnings(runs, kind)
        points[kind] = told_left_out(every)
        tables.append(forms_table(kind, UPDATES, every))
        tables.append(forms_table(kind, [ASKED_UPDATES], observed_beginnings(runs, kind, [ASKED_UPDATES])))
        if tested := observed_beginnings(new, kind):
            known = observed_beginnings(old, kind)
            nulls = {name: told_by_form(known, tested, FORMS[name]) for name in NULLS}
            claims.append(test_claim(kind, told_by_law(tested, fitted_law(known)), nulls))
    scores = {kind: told.scores() for kind, told in points.items()}
    told = " and ".join(f"{number_text(scores[kind]['rms_error'])} for {kind}" for kind in KINDS)
    starts = max(scores[kind]["starts"] for kind in KINDS)
    return Study(
        title="Can a short run tell what training will cost?",
        question="A run has made a few updates. What will half of the available bits have cost?",
        answer=f"Yes, by a straight line through its beginning: over {starts} starts, each left out, ln price is off by {told} (root mean square).",
        main=Picture(
            "calibration",
            "What was forecast, and what was paid?",
            lambda: calibration_figure(calibration_of(runs)),
            "One point per beginning, each start left out. On the diagonal the forecast was right; the band is a factor of two. Triangles: the price is at least that.",
        ),
        table=tables[0],
        how_to_read=HOW_TO_READ,
        provenance=f"{len(runs)} runs. Made by: {command}",
        headlines=[
            Headline(
                f"{scores[kind]['coverage']:.0%}",
                f"of the prices lie within the 80 % interval: {kind}",
                f"{scores[kind]['starts']} starts left out",
            )
            for kind in KINDS
        ],
        sentences=[claim.sentence("new starts") for claim in claims],
        claims=claims,
        tables=[*tables[1:], widths_table(every_by_kind, points)],
        terminal=[tables[0], tables[2]],
        results={"scores": scores, "laws": {kind: asdict(fitted_law(observed_beginnings(runs, kind))) for kind in KINDS}},
    )


def calibration_of(runs: Sequence[PricedRun]) -> dict:
    """What the plan reads: the laws, how good they were, and what was forecast and paid at beginnings of all lengths."""
    found: dict = {"laws": {}, "scores": {}, "points": {}}
    for kind in KINDS:
        observed = observed_beginnings(runs, kind)
        told = told_left_out(observed)
        found["laws"][kind] = asdict(fitted_law(observed))
        found["scores"][kind] = told.scores()
        found["points"][kind] = [
            [round(float(mean), 2), round(float(y), 2), bool(known)]
            for mean, y, known in zip(told.mean_N, told.y_N, told.is_known_N, strict=True)
        ]
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["calibrate"]:
        folders = sys.argv[2:]
        text = json.dumps(
            calibration_of(read_prices(folders)) | {"made_by": f"python -m eval.studies.forecast {' '.join(sys.argv[1:])}"}
        )
        write_text_atomically(CALIBRATION, text + "\n")
    else:
        report(forecast_study, prog="python -m eval.studies.forecast", description=__doc__.splitlines()[0], read=read_prices)
