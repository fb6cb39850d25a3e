"""What is a rollout worth, in labels? `python -m eval.studies.exchange FOLDER` makes the page of the runs in FOLDER.

Question, statistics and thresholds are in README.md; `make_data_limited.py` makes the runs. `python -m eval.studies.exchange pack FOLDER RECORD` writes the runs and
starts of a folder into Parquet files of a record, whose folder is then what the page is made of.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitsample_llm.report.command import report
from bitsample_llm.report.estimates import number_text, over_seeds, ratio_over_seeds
from bitsample_llm.report.gains import Rung, gain_of_labels, pack_lines, read_lines, rungs_of, variances
from bitsample_llm.report.study import Headline, Picture, Study, Table
from eval.studies.exchange.claims import ENOUGH, FROM, claims_of, matched_claims, share_claim, worth_claim
from eval.studies.exchange.matched import Matched, matched_gains, matched_table, pack_starts, read_starts
from eval.studies.exchange.observer import read_observer
from eval.studies.exchange.pictures import gains_figure, rates_figure
from eval.studies.exchange.rates import (
    LEAST_GAIN_BITS,
    exchange_rate,
    law_errors,
    laws,
    models_of,
    rate_at_half,
    rate_estimate,
)


@dataclass(frozen=True)
class Recorded:
    """What the page is made of."""

    rungs: list[Rung]
    observer: dict[str, dict[str, list[tuple[int, float]]]]
    matched: list[Matched]


def read(paths: Sequence[str]) -> Recorded:
    """The runs in the folders, and the ideal observer's table where a folder has one."""
    rungs = rungs_of(read_lines(paths))
    return Recorded(rungs, read_observer([Path(path) for path in paths]), matched_gains(rungs, read_starts(paths)))


# ---- tables ----------------------------------------------------------------------------------------------------------


def rates_table(rungs: Sequence[Rung]) -> Table:
    """One row per rung: what one label gains, and what it costs in rollouts."""
    rows = [
        [
            "start",
            "p",
            "available bits",
            "one label gains (bits)",
            "rollouts per label",
            "at half of the bits",
            "1/p",
            "waiting law",
            "-log2 p / H(p)",
        ]
    ]
    for rung in rungs:
        models = models_of([rung])
        gained = over_seeds([float(gain_of_labels(rung, 1, model)) for model in models])
        of_models = [laws(rung, model) for model in models]
        mean_law = {name: [law for of_model in of_models if (law := of_model[name])] for name in of_models[0]}
        texts = {name: number_text(float(np.exp(np.mean(np.log(found))))) if found else "–" for name, found in mean_law.items()}
        rows.append(
            [
                rung.name,
                number_text(rung.mean_pass_rate),
                number_text(float(np.mean(list(rung.available_bits.values())))),
                gained.text(),
                rate.text() if (rate := rate_estimate(rung)).n > 2 else number_text(rate.mean),
                ratio_over_seeds([rate for model in models if (rate := rate_at_half(rung, model))]).text(),
                *(texts[name] for name in ("1/p", "waiting law", "essay, -log2 p / H(p)")),
            ]
        )
    return Table(
        "What one label is worth in rollouts",
        rows,
        note="Rollouts per label: rollouts whose passes gain, on average, what one label gains; then rollouts over labels to half of the available bits. Brackets: 95 % t interval over pretraining seeds; two have none. A dash: labels "
        f"gain less than {LEAST_GAIN_BITS} bits, or the price lies beyond the sizes that were run.",
    )


def narrow(table: Table) -> Table:
    """The columns of a table that fit a terminal."""
    left_out = {"at half of the bits", "available bits", "-log2 p / H(p)"}
    kept = [index for index, heading in enumerate(table.rows[0]) if heading not in left_out]
    return Table(table.title, [[row[index] for index in kept] for row in table.rows])


def settings_table(rungs: Sequence[Rung]) -> Table:
    """Every cell with its settings, its gain and the two variances."""
    rows = [
        ["start", "arm", "n", "runs", "learning rates", "updates", "gain (bits)", "variance between / within pretraining seeds"]
    ]
    for rung in rungs:
        for (arm, n), every in sorted(rung.runs.items()):
            for factor, rounds in sorted({(run.labels_per_pass or 1.0, run.rounds or 1) for run in every}):
                runs = [run for run in every if (run.labels_per_pass or 1.0, run.rounds or 1) == (factor, rounds)]
                between, within = variances(runs)
                rates, updates = (sorted({getattr(run, name) for run in runs}) for name in ("learning_rate", "updates"))
                name = arm + (f", {factor:g} a pass" if factor != 1.0 else "") + (f" ({rounds})" if rounds > 1 else "")
                gain = number_text(over_seeds([run.gain_bits for run in runs]).mean)
                setting = [", ".join(f"{rate:g}" for rate in rates), ", ".join(map(str, updates))]
                spread = f"{number_text(between)} / {number_text(within)}"
                rows.append([rung.name, name, str(n), str(len(runs)), *setting, gain, spread])
    return Table("Every cell", rows)


def edges_table(rungs: Sequence[Rung]) -> Table:
    """How often a search ended at an edge, by reason, and what more updates might add there."""
    rows = [
        ["reason", "searches", "rate at an edge of those tried", "longest run the best", "its last doubling added (% of the bits)"]
    ]
    for reason in FROM:
        found = [
            (rung.available_bits[place[0]], s) for rung in rungs if rung.reason == reason for place, s in rung.settings.items()
        ]
        if found:
            at_rate, longest = (sum(not getattr(s, name) for _, s in found) for name in ("is_inner_rate", "is_inner_updates"))
            added = [100 * s.last_doubling_bits / bits for bits, s in found if not s.is_inner_updates]
            told = f"median {number_text(float(np.median(added)))}, most {number_text(max(added))}" if added else "–"
            rows.append([reason, str(len(found)), str(at_rate), str(longest), told])
    note = "Where the longest run was the best one, longer ones were not tried: what n samples teach is then a lower bound."
    return Table("How the settings were chosen", rows, note=note)


def errors_table(errors: dict[str, tuple[float, int]]) -> Table:
    """Root mean square log errors of the forms and of the null models, the smallest first."""
    errors = dict(sorted(errors.items(), key=lambda item: item[1][0]))
    rows = [["form", "rms error in ln", "n"], *([name, number_text(error), str(n)] for name, (error, n) in errors.items())]
    return Table(
        "Which form predicts the exchange rate?",
        rows,
        note="Nothing is fitted to the forms; the null models leave the pretraining seed out.",
    )


# ---- the page --------------------------------------------------------------------------------------------------------


def exchange_study(recorded: Recorded, command: str) -> Study:
    """The page of the exchange rate."""
    rungs = recorded.rungs
    by_reason = {reason: of_reason for reason in FROM if (of_reason := [rung for rung in rungs if rung.reason == reason])}
    worth = {reason: worth_claim(of_reason, reason) for reason, of_reason in by_reason.items()}
    shares = {reason: share_claim(of_reason, reason) for reason, of_reason in by_reason.items() if reason in ENOUGH}
    measured = {reason: claim.estimate for reason, claim in worth.items() if claim.estimate.mean is not None}
    told = [f"from {FROM[reason]} a rollout that passed was worth {found.text()} labels" for reason, found in measured.items()]
    answer = f"Summed over the starts of a kind, {'; '.join(told)}: one start may carry the sum."
    if not told:
        of_one = [f"from {FROM[reason]} one label gained {claim.estimate.text(100)} %" for reason, claim in shares.items()]
        answer = f"Of the bits that there are to gain, {', '.join(of_one)}; too few runs to say what a pass is worth."
    errors, rates = law_errors(rungs), rates_table(rungs)
    return Study(
        title="What is a rollout worth, in labels?",
        question="How many rollouts, each with its verdict, teach what one label teaches, when computing is free?",
        answer=answer,
        main=Picture(
            "gains",
            "What n samples teach",
            lambda: gains_figure(rungs, recorded.observer),
            "Share of the available held-out bits against the number of labels, or of rollouts of which those that passed are the labels. A line is the mean, points "
            "are pretraining seeds."
            + " Grey: observers who know the authors' own probabilities and learn only which author is wanted, or at each gate by itself whether it is open."
            * bool(recorded.observer),
        ),
        table=rates,
        how_to_read="Every arm is trained to the rate and number of updates that were best for other seeds, so that what differs is what the samples say, and not "
        "how long they were used. One label per sample; one verdict per rollout.",
        provenance=f"{sum(len(runs) for rung in rungs for runs in rung.runs.values())} runs. Made by: {command}",
        headlines=[
            *[
                Headline(claim.estimate.text(), f"labels per pass, {reason}", claim.verdict)
                for reason, claim in worth.items()
                if claim.estimate.mean is not None
            ],
            *[
                Headline(claim.estimate.text(), f"share of the available bits from one label, {reason}", claim.statistic)
                for reason, claim in shares.items()
            ][:1],
        ],
        sentences=[c.sentence("pretraining seeds") for c in [*worth.values(), *shares.values()] if c.estimate.mean is not None],
        claims=claims_of(rungs) + matched_claims(recorded.matched),
        tables=[
            *([errors_table(errors)] if errors else []),
            *([matched_table(recorded.matched)] if recorded.matched else []),
            edges_table(rungs),
            settings_table(rungs),
        ],
        pictures=[
            Picture(
                "rates",
                "Rollouts per label against the pass rate",
                lambda: rates_figure([(rung, model, exchange_rate(rung, model)) for rung in rungs for model in models_of([rung])]),
                "Rollouts whose passes gain what one label gains, one point per pretraining seed. Lines: 1/p and the essay's -log2 p / H(p), nothing fitted.",
            )
        ]
        if errors  # of labels alone there is no rate
        else [],
        terminal=[narrow(rates), *([errors_table(errors)] if errors else [])],
        results={
            "law_errors": errors,
            "exchange_rates": {rung.name: rate_estimate(rung).fields() for rung in rungs},
            "pass_rates": {rung.name: rung.pass_rate for rung in rungs},
        },
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["pack"]:
        folder, record = map(Path, sys.argv[2:4])
        pack_lines(folder, record)
        pack_starts(folder, record)
    else:
        report(exchange_study, prog="python -m eval.studies.exchange", description=__doc__.splitlines()[0], read=read)
