"""What does a learned process reward gain? `python -m eval.studies.learned_reward FOLDER...` makes the page of the runs in the folders.

Question, statistics and thresholds are in README.md. `python -m eval.studies.learned_reward pack FOLDER... RECORD` writes the runs into two Parquet files of a record.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from bitsample_llm.report.command import report
from bitsample_llm.report.prices import HALF, NINE_TENTHS, pack_prices, read_prices
from bitsample_llm.report.remedies import price_text
from bitsample_llm.report.study import Headline, Picture, Study, Table
from eval.studies.learned_reward.claims import GIVEN, JUDGES, REMEDIES, SPOKEN, Found, claims_of, exploited_counts, mean_text
from eval.studies.learned_reward.courses import pack_courses, read_courses
from eval.studies.learned_reward.pictures import factors_figure, reliability_figure, training_figure

HOW_TO_READ = (
    "A factor above 1 says that the reward saves FLOPs, all that the judge costs included. A target counts once it is kept until three times its FLOPs were spent. "
    "Brackets: 95 % bootstrap over pretraining seeds and training seeds."
)
GIGA = 1e-9
TARGETS = (HALF, NINE_TENTHS)


def read(paths: Sequence[str]) -> Found:
    """The runs in the folders."""
    return Found(read_prices(paths), read_courses(paths))


def prices_table(found: Found, after: str = "") -> Table:
    """What each reward pays and saves; `after` its judge had its verdicts, of judges alone."""
    rows = [["start", "reward", *(text for target in TARGETS for text in (f"GFLOP to {target.name}", "kept", "factor"))]]
    for rung in found.rungs:
        for arm in (arm for arm in found.arms(rung) if not after or arm in JUDGES):
            row = [rung, SPOKEN[arm]]
            for target in TARGETS:
                prices = found.prices(rung, arm + after, target)
                row += [
                    price_text(prices, GIGA),
                    prices.kept_text(),
                    "1" if arm == "outcome" else found.factor(rung, arm + after, target).text(),
                ]
            rows.append(row)
    note = "Factor: FLOPs of plain GRPO over those with the reward. Kept: runs known to have reached and kept it. After > or <: one of the two has no price."
    return Table(
        "The same where the judge is given: FLOPs since it had its first verdicts" if after else "What a reward costs", rows, note
    )


def courses_table(found: Found) -> Table:
    """What the policy made of each reward."""
    columns = "start/reward/runs/verdicts/best p/p in the end/true share/judged share/too short/fell/overrated/unlearned/accuracy, first/last"
    rows = [columns.split("/")]
    for rung in found.rungs:
        for arm in found.arms(rung):
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


def narrow(table: Table) -> Table:
    """The columns that fit a terminal."""
    return Table(table.title, [[row[0], row[1], row[2], row[4]] for row in table.rows])


def learned_reward_study(found: Found, command: str) -> Study:
    """The page of learned rewards."""
    rungs, claims, table = found.rungs, claims_of(found), prices_table(found)
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
        provenance=f"{len(found.runs)} runs. Made by: {command}",
        headlines=[
            Headline(found.factor(rung, "learned_64", HALF).text(), f"factor of a judge of 64 rollouts, {rung}", HALF.name)
            for rung in rungs
        ],
        sentences=[claim.sentence("runs or pretraining seeds") for claim in claims if not claim.verdict.startswith("undecided")][
            :5
        ],
        claims=claims,
        tables=[prices_table(found, GIVEN), courses_table(found)],
        pictures=[
            Picture(
                "factors",
                "What does a reward save?",
                lambda: factors_figure(found),
                "Right of the line it saves FLOPs. Open marks: a bound.",
            ),
            Picture(
                "reliability",
                "What is the judge's probability worth?",
                lambda: reliability_figure(found),
                "On the line it is what it says. Bins of fewer than 20 steps are left out.",
            ),
        ],
        results={
            "factors": {
                rung: {
                    arm: {
                        target.name: {
                            **found.factor(rung, arm, target).estimate.fields(),
                            "text": found.factor(rung, arm, target).text(),
                        }
                        for target in TARGETS
                    }
                    for name in found.arms(rung)
                    if name != "outcome"
                    for arm in ((name, name + GIVEN) if name in JUDGES else (name,))
                }
                for rung in rungs
            }
        },
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["pack"]:
        *folders, record = sys.argv[2:]
        pack_prices(read_prices(folders), Path(record))
        pack_courses(read_courses(folders), Path(record))
    else:
        report(learned_reward_study, prog="python -m eval.studies.learned_reward", description=__doc__.splitlines()[0], read=read)
