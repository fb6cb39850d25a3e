"""What does the exact pass rate change? `python -m eval.studies.ladder PART...` makes the page of the parts that were run.

Question, statistics, thresholds, and what was withdrawn are in README.md; each part is a YAML file. Prices by first crossing are
shown as what each arm paid at its own setting: they measure the optimizer too, so no claim rests on them.
"""

from collections.abc import Sequence

import numpy as np

from bitsample_llm.information import binary_entropy_bits
from bitsample_llm.report import columns
from bitsample_llm.report.command import report
from bitsample_llm.report.comparison import provenance, results_of, runs_of
from bitsample_llm.report.estimates import number_text
from bitsample_llm.report.pictures import main_picture
from bitsample_llm.report.runs import Arm, by_start
from bitsample_llm.report.study import Headline, Picture, Study, Table
from bitsample_llm.report.tables import column_table
from eval.studies.ladder.claims import claims_of
from eval.studies.ladder.pictures import noise_figure, pass_at_k_figure
from eval.studies.ladder.rungs import Ladder, read_ladder

HOW_TO_READ = (
    "A rung is a start with a known, exact pass rate. Latent: the skill is there and shows seldom, as the author's mark asks. "
    "Unacquired: the skill is not there. Deep: so rare that no sampled rollout passes. Noise scale: the number of samples after which "
    "the mean gradient stands out from its noise. Hover over a point to see its rung and seed."
)


def starts_table(arms: Sequence[Arm], ladder: Ladder) -> Table:
    """Each rung before training."""
    coherence = {at.start: at.coherence for at in ladder.noise}
    rows = [["start", "reason", "pass rate p", "p under the right mark", "−log2 p (bits)", "H(p) (bits)", "coherence"]]
    for arm, *_ in by_start(arms).values():
        entropies = [binary_entropy_bits(np.minimum(np.exp2(list(run.log2_before.values())), 1.0)).mean() for run in arm.runs]
        shown = (columns.PASS_RATE_BEFORE, columns.PASS_RATE_BEFORE_ON["marked"], columns.SURPRISAL_BEFORE)
        values = [*(arm.estimate(column).mean for column in shown), float(np.mean(entropies)), coherence.get(arm.start)]
        rows.append([arm.start, arm.tags.get("reason", ""), *map(number_text, values)])
    told = ["coherence: cosine of the exact gradients of mean log p on training and on held-out problems"]
    return Table(
        "The rungs before training",
        rows,
        "Means over held-out problems, exact; over training seeds where their problems differ.",
        told,
    )


def tables_of(ladder: Ladder) -> list[Table]:
    """What the recorded parts hold."""
    shown = (columns.ABSORBED_BITS, columns.PASS_RATE_BEFORE, columns.PASS_RATE_AFTER, columns.TOTAL_FLOPS)
    titles = {
        "acquire": "Problems too rare for their rollouts",
        "decades": "SFT at a low rate",
    }
    return [column_table(title, arms, shown) for part, title in titles.items() if (arms := ladder.part(part))]


def pictures_of(ladder: Ladder) -> list[Picture]:
    """The pictures whose part was run, the main one first."""
    found = []
    if ladder.noise:
        caption = (
            "Noise scale of one label and of one rollout (groups averaged exactly over their passes), with the jackknife's 95 % interval "
            "over prompts. A missing point had a mean gradient that cannot be told from 0."
        )
        found.append(Picture("noise", "When are gradients noisy?", lambda: noise_figure(ladder.noise), caption))
    if budgets := ladder.part("acquire"):
        title = "Does a whole budget raise pass@k, or only pass@1?"
        found.append(
            Picture("pass_at_k", title, lambda: pass_at_k_figure(budgets), "Exact, on held-out problems; every seed a line.")
        )
    return found or [main_picture(arms) for arms in list(ladder.parts.values())[:1]]


def ladder_study(ladder: Ladder, command: str) -> Study:
    """The claims that the recorded parts can test, and what they show."""
    claims, arms = claims_of(ladder), [arm for of_part in ladder.parts.values() for arm in of_part]
    tests = [claim for claim in claims if not claim.verdict.startswith("control")]
    decided = [claim for claim in tests if not claim.verdict.startswith("undecided")]
    counts = {word: sum(claim.verdict.startswith(word) for claim in decided) for word in ("supported", "contradicted")}
    firsts = list({claim.number: claim for claim in reversed(decided)}.values())[::-1]
    rungs = starts_table(arms, ladder)
    main, *others = pictures_of(ladder)
    return Study(
        title="The ladder of pass rates",
        question="What does the exact pass rate change in what SFT and RL learn, where a skill is latent and where it is not there?",
        answer=f"Of the {len(tests)} tests of the essay's other claims {counts['supported']} support and {counts['contradicted']} contradict it; "
        f"{len(tests) - len(decided)} are undecided.",
        main=main,
        table=rungs,
        how_to_read=HOW_TO_READ,
        provenance=provenance(runs_of(arms), command),
        headlines=[
            Headline(number_text(c.estimate.mean), c.statistic, f"claim {c.number} {c.verdict}, {c.estimate.text()}")
            for c in firsts[:3]
        ],
        sentences=[claim.sentence("seeds" if claim.number == 1 else "pretraining seeds") for claim in firsts],
        claims=claims,
        tables=tables_of(ladder),
        pictures=others,
        terminal=[Table(rungs.title, [row[:5] for row in rungs.rows])],
        results={
            "parts": {part: results_of(of_part)["arms"] for part, of_part in ladder.parts.items()},
            "noise": [at.measured for at in ladder.noise],
        },
    )


if __name__ == "__main__":
    report(ladder_study, prog="python -m eval.studies.ladder", description=__doc__.splitlines()[0], read=read_ladder)
