"""What does the exact pass rate change? `python -m eval.studies.ladder PART...` makes the page of the parts that were run.

Question, statistics, thresholds, and what was withdrawn are in README.md; each part is a YAML file. Prices by first crossing are
shown as what each arm paid at its own setting: they measure the optimizer too, so no claim rests on them.
"""

from collections.abc import Callable, Sequence

import numpy as np

from bitsample_llm.information import binary_entropy_bits
from bitsample_llm.report import columns
from bitsample_llm.report.command import report
from bitsample_llm.report.comparison import provenance, results_of, runs_of
from bitsample_llm.report.estimates import number_text
from bitsample_llm.report.pictures import main_picture
from bitsample_llm.report.runs import Arm, by_start
from bitsample_llm.report.study import Headline, Picture, Study, Table
from bitsample_llm.report.tables import arm_table, column_table, text_of
from eval.studies.ladder.claims import ELSEWHERE, claims_of
from eval.studies.ladder.pictures import decomposition_figure, noise_figure, pass_at_k_figure, transfer_figure
from eval.studies.ladder.rungs import Ladder, both_gained, read_ladder

OWN_SETTING = (
    "Prices are those of the first crossing of the target, each arm at the setting that its own search found. They depend on the "
    "learning rate at least as much as on the samples: with AdamW the gain follows learning rate x updates. Prices of two arms, or of "
    "two starts, at different settings are no exchange rate."
)
HOW_TO_READ = (
    "A rung is a start with a known, exact pass rate. Latent: the skill is there and shows seldom, as the author's mark asks. "
    "Unacquired: the skill is not there. Deep: so rare that no sampled rollout passes. Noise scale: the number of samples after which "
    "the mean gradient stands out from its noise. Hover over a point to see its rung and seed."
)


def starts_table(arms: Sequence[Arm], ladder: Ladder) -> Table:
    """Each rung before training."""
    coherence = {at.start: at.coherence for at in ladder.noise}
    rows = [["start", "reason", "ladder", "pass rate p", "p under the right mark", "−log2 p (bits)", "H(p) (bits)", "coherence"]]
    for arm, *_ in by_start(arms).values():
        run = arm.runs[0]
        entropy = binary_entropy_bits(np.minimum(np.exp2(list(run.log2_before.values())), 1.0)).mean()
        values = [run.value(column) for column in (columns.PASS_RATE_BEFORE, columns.PASS_RATE_BEFORE_ON["marked"])]
        values += [run.value(columns.SURPRISAL_BEFORE), float(entropy), coherence.get(arm.start)]
        rows.append([arm.start, *(arm.tags.get(tag, "") for tag in ("reason", "ladder")), *map(number_text, values)])
    told = ["coherence: cosine of the exact gradients of mean log p on training and on held-out problems"]
    return Table("The rungs before training", rows, "Means over held-out problems, exact.", told)


def rate_times_updates(arm: Arm) -> str:
    """Learning rate times updates to the target, mean over the seeds that gained it."""
    rate, updates = arm.manifest["config"].get("training", {}).get("learning_rate"), arm.measured(columns.UPDATES_TO_TARGET)
    return number_text(rate * float(np.mean(updates)) if rate is not None and updates else None)


def prices_table(title: str, arms: Sequence[Arm]) -> Table:
    """What each arm paid for the target, with the setting that it paid it at."""

    def setting(key: str) -> Callable[[Arm], str]:
        return lambda arm: f"{value:g}" if (value := arm.manifest["config"].get("training", {}).get(key)) else "–"

    cells = {
        "learning rate": setting("learning_rate"),
        "batch": setting("per_device_train_batch_size"),
        "target (bits)": lambda arm: number_text(arm.runs[0].value(columns.TARGET)),
        "seeds that gained it": lambda arm: f"{len(arm.measured(columns.FLOPS_TO_TARGET))} of {len(arm.runs)}",
        "samples": text_of(columns.SAMPLES_TO_TARGET),
        "GFLOP": text_of(columns.FLOPS_TO_TARGET),
        "rate × updates": rate_times_updates,
    }
    return arm_table(title, arms, cells, OWN_SETTING)


def tables_of(ladder: Ladder) -> list[Table]:
    """What the recorded parts hold."""
    cells, long = ladder.part("cells"), ladder.part("long")
    shown = (columns.ABSORBED_BITS, columns.PASS_RATE_BEFORE, columns.PASS_RATE_AFTER)
    elsewhere = [columns.ABSORBED_ON[split] for split in ELSEWHERE]
    controlled = {arm.start for arm in cells if "control" in arm.tags}
    controls = [arm for arm in cells if arm.start in controlled and ("control" in arm.tags or arm.name == "sft")]
    of_parts = {
        "What each arm paid, at its own setting": cells,
        "What each arm paid, by length of the answer": ladder.part("length"),
    }
    tables = [prices_table(title, arms) for title, arms in of_parts.items() if arms]
    if controls:
        tables.append(column_table("Controls", controls, (*shown, columns.SAMPLES_TO_TARGET)))
    if long:
        tables.append(column_table("What a whole budget does, here and on other problems", long, (*shown, *elsewhere)))
    return tables


def pictures_of(ladder: Ladder) -> list[Picture]:
    """The pictures whose part was run, the main one first."""
    found, cells = [], ladder.part("cells")
    if ladder.noise:
        caption = (
            "Noise scale of one label and of one rollout (groups averaged exactly over their passes), with the jackknife's 95 % interval "
            "over prompts. A missing point had a mean gradient that cannot be told from 0."
        )
        found.append(Picture("noise", "When are gradients noisy?", lambda: noise_figure(ladder.noise), caption))
    if pairs := both_gained(cells):
        caption = "At the gain in distribution that both were to reach; above the line GRPO's bits go further than SFT's."
        found.append(Picture("transfer", "Are RL's bits worth more elsewhere?", lambda: transfer_figure(pairs), caption))
    if budgets := [arm for arm in ladder.part("long") if "read_for" not in arm.tags]:
        title = "Does a whole budget raise pass@k, or only pass@1?"
        found.append(
            Picture("pass_at_k", title, lambda: pass_at_k_figure(budgets), "Exact, on held-out problems; every seed a line.")
        )
    if prices := [arm for arm in cells if "control" not in arm.tags and "reason" in arm.tags]:
        title = "What was paid, from a label to a sampled reward?"
        caption = f"From sft to pass_rate the objective changes, then the information, then the estimator. {OWN_SETTING}"
        found.append(Picture("decomposition", title, lambda: decomposition_figure(prices), caption))
    return found or [main_picture(arms) for arms in list(ladder.parts.values())[:1]]


def ladder_study(ladder: Ladder, command: str) -> Study:
    """The claims that the recorded parts can test, and what they show."""
    claims, arms = claims_of(ladder), [arm for of_part in ladder.parts.values() for arm in of_part]
    tests = [claim for claim in claims if not claim.verdict.startswith("control")]
    decided = [claim for claim in tests if not claim.verdict.startswith("undecided")]
    counts = {word: sum(claim.verdict.startswith(word) for claim in decided) for word in ("supported", "contradicted")}
    firsts = list({claim.number: claim for claim in reversed(decided)}.values())[::-1]
    rungs = starts_table(ladder.part("cells") or arms, ladder)
    main, *others = pictures_of(ladder)
    return Study(
        title="The ladder of pass rates",
        question="What does the exact pass rate change in what SFT and RL learn, where a skill is latent and where it is not there?",
        answer=f"How many rollouts buy what a label buys is open: prices here are those of each arm's own setting. Of the {len(tests)} "
        f"tests of the essay's other claims {counts['supported']} support and {counts['contradicted']} contradict it; "
        f"{len(tests) - len(decided)} are undecided.",
        main=main,
        table=rungs,
        how_to_read=HOW_TO_READ,
        provenance=provenance(runs_of(arms), command),
        headlines=[
            Headline(number_text(c.estimate.mean), c.statistic, f"claim {c.number} {c.verdict}, {c.estimate.text()}")
            for c in firsts[:3]
        ],
        sentences=[claim.sentence("prompts" if claim.number in (4, 5) else "seeds") for claim in firsts],
        claims=claims,
        tables=tables_of(ladder),
        pictures=others,
        terminal=[Table(rungs.title, [[*row[:2], *row[3:6]] for row in rungs.rows])],
        results={
            "parts": {part: results_of(of_part)["arms"] for part, of_part in ladder.parts.items()},
            "noise": [at.measured for at in ladder.noise],
        },
    )


if __name__ == "__main__":
    report(ladder_study, prog="python -m eval.studies.ladder", description=__doc__.splitlines()[0], read=read_ladder)
