"""What does a learned process reward gain? `python -m eval.studies.learned_reward FOLDER...` makes the page of the runs in the folders.

Question, statistics and thresholds are in README.md. `python -m eval.studies.learned_reward pack FOLDER... RECORD` writes the runs into two Parquet files of a record.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from bitsample_llm.report.command import report
from bitsample_llm.report.prices import HALF, pack_prices, read_prices
from bitsample_llm.report.remedy_runs import HOW_TO_READ, factors_picture, factors_table, narrow, settings_table
from bitsample_llm.report.study import Headline, Picture, Study, Table
from eval.studies.learned_reward.claims import (
    GIVEN,
    JUDGES,
    REMEDIES,
    SPOKEN,
    Found,
    claims_of,
    exploited_counts,
    found_of,
    mean_text,
)
from eval.studies.learned_reward.courses import pack_courses, read_courses
from eval.studies.learned_reward.pictures import reliability_figure, training_figure

NOTE = "Factor: FLOPs of plain GRPO over those with the reward. Given: FLOPs since the judge had its first verdicts."


def read(paths: Sequence[str]) -> Found:
    """The runs in the folders."""
    return found_of(read_prices(paths), read_courses(paths))


def courses_table(found: Found) -> Table:
    """What the policy made of each reward."""
    columns = "start/reward/runs/verdicts/best p/p in the end/true share/judged share/too short/fell/overrated/unlearned/accuracy, first/last"
    rows = [columns.split("/")]
    for rung in found.rungs:
        for arm in (arm for arm in found.arms(rung) if not arm.endswith(GIVEN)):
            pairs = found.pairs(rung, arm)
            fell, overrated, unlearned, _ = exploited_counts(pairs)
            shares = [
                mean_text([float(course.part(getattr(course, of), -1).mean()) for _, course in pairs])
                for of in ("true_share", "judged_share", "too_short")
            ]
            rates = [mean_text([of(run.pass_rate) for run, _ in pairs]) for of in (max, lambda rates: rates[-1])]
            verdicts = mean_text([course.verdicts for _, course in pairs]) if pairs[0][1].steps else "all"
            accuracies = [mean_text([course.accuracy(number) for _, course in pairs]) for number in (0, -1)]
            rows.append(
                [
                    rung,
                    SPOKEN[arm],
                    str(len(pairs)),
                    verdicts,
                    *rates,
                    *shares,
                    str(fell),
                    str(overrated),
                    str(unlearned),
                    *accuracies,
                ]
            )
    note = (
        "Means over runs. Verdicts: rollouts whose steps the verifier judged. p: held-out pass rate. Shares: of a rollout's steps before the first wrong one, in the last fifth of the updates. Too short: share of the rollouts that are right as far as they go and end too early, there. "
        "Fell: runs whose p ended more than .1 below its best. Overrated, unlearned: runs that the judge led astray, see README.md. "
        "Accuracy: share of the steps that the judge judges as the verifier does, in the first and in the last fifth after it was trained."
    )
    return Table("What the policy makes of it", rows, note)


def learned_reward_study(found: Found, command: str) -> Study:
    """The page of learned rewards."""
    rungs, claims, table = found.rungs, claims_of(found), factors_table(found, "What a reward costs", "reward", NOTE)
    said = " and ".join(
        f"{found.factor(rung, 'exact', HALF).text()} times the FLOPs of exact step verdicts and {found.factor(rung, 'learned_64', HALF).text()} times those of a judge of 64 rollouts at {rung}"
        for rung in rungs
    )
    exploited = ", ".join(
        f"{sum(exploited_counts(found.pairs(rung, arm))[-1] for rung in rungs)} of {sum(len(found.pairs(rung, arm)) for rung in rungs)} ({SPOKEN[arm]})"
        for arm in (*JUDGES, *REMEDIES)
        if any(run.arm == arm for run in found.runs)
    )
    return Study(
        title="What does a learned process reward gain, and is it exploited?",
        question="How many FLOPs does a reward by a learned judge of steps take until a target is reached and kept, and what does the policy make of it?",
        answer=f"To half of the bits, plain GRPO takes {said}. In the long run these judges are exploited: {exploited}.",
        main=Picture(
            "training",
            "What is rewarded, and what is true, over training",
            lambda: training_figure(found),
            "The policy is paid for the judged share. Where the dashed line holds and the full one falls, it follows the judge away from the truth.",
        ),
        table=table,
        terminal=[narrow(table)],
        how_to_read=HOW_TO_READ,
        provenance=f"{len(found.courses)} runs. Made by: {command}",
        headlines=[
            Headline(found.factor(rung, "learned_64", HALF).text(), f"factor of a judge of 64 rollouts, {rung}", HALF.name)
            for rung in rungs
        ],
        sentences=[claim.sentence("runs or pretraining seeds") for claim in claims if not claim.verdict.startswith("undecided")][
            :5
        ],
        claims=claims,
        tables=[courses_table(found), settings_table(found, "reward")],
        pictures=[
            factors_picture(found, "What does a reward save?"),
            Picture(
                "reliability",
                "What is the judge's probability worth?",
                lambda: reliability_figure(found),
                "On the line it is what it says. Bins of fewer than 20 steps are left out.",
            ),
        ],
        results={"factors": found.factor_fields()},
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["pack"]:
        *folders, record = sys.argv[2:]
        pack_prices(read_prices(folders), Path(record))
        pack_courses(read_courses(folders), Path(record))
    else:
        report(learned_reward_study, prog="python -m eval.studies.learned_reward", description=__doc__.splitlines()[0], read=read)
