"""The page of any runs: SFT and RL at matched FLOPs, the essay's equation for every arm, where the FLOPs went.

    python -m bitsample_llm report RUN...

A study of its own (`eval/studies/`) takes these tables and pictures and adds its questions.
"""

from collections.abc import Sequence

from bitsample_llm.records import Run
from bitsample_llm.report import columns, sampled
from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.columns import Column
from bitsample_llm.report.estimates import number_text
from bitsample_llm.report.metered import for_terminal, metered_facts, metered_table
from bitsample_llm.report.pairs import paired_ratio
from bitsample_llm.report.pictures import (
    essay_figure,
    gain_figure,
    learning_figure,
    phase_figure,
    rate_figure,
    rivals,
    starts_of,
)
from bitsample_llm.report.runs import Arm, draws_rollouts
from bitsample_llm.report.study import Headline, Picture, Study, Table

BRACKETS = "Brackets hold the 95 % t interval over seeds."
THOUSANDS = ("", "thousand ", "million ", "billion ")
HOW_TO_READ = (
    "A label is a right answer given to SFT; a rollout is an answer that the model samples and a verifier judges. Absorbed bits "
    "are what a held-out problem gained: log2 of its probability after training over before. Offered bits are what the essay says "
    "a sample tells: -log2 p for a label, at most H(p) for a verdict. FLOPs are those that ran, rollouts included. Every line "
    "or point is one seed; hover over it to see which."
)

METERED = (
    "Offered bits are what the essay says a sample tells: -log2 p for a label, at most H(p) for a verdict. FLOPs are those that ran, "
    "rollouts included."
)


def column_table(title: str, arms: Sequence[Arm], shown: Sequence[Column], note: str = BRACKETS) -> Table:
    """A row for each arm; columns that no arm has are left out."""
    shown = [column for column in shown if any(arm.measured(column) for arm in arms)]
    rows = [["start", "arm", "seeds", *[sampled.titled(arms, column) for column in shown]]]
    rows += [
        [arm.start, arm.name, str(len(arm.runs)), *[arm.estimate(column).text(column.scale) for column in shown]] for arm in arms
    ]
    return Table(title, rows, note, [f"{column.heading}: {column.definition}" for column in shown])


def equation_table(arms: Sequence[Arm]) -> Table:
    """samples / FLOP x bits / sample = bits / FLOP, for every arm: offered, then absorbed."""
    per_flop = (columns.SAMPLES_PER_PETAFLOP, columns.OFFERED_PER_PETAFLOP, columns.RATE_BEFORE_SATURATION)
    largest = max((abs(value) for column in per_flop for arm in arms for value in arm.measured(column)), default=1.0)
    power = min(max(0, (len(f"{largest:.0f}") - 1) // 3), len(THOUSANDS) - 1)
    scale, word = 1000.0**-power, THOUSANDS[power]
    rows = [
        [
            "start",
            "arm",
            f"samples per PFLOP ({word.strip() or '1'})",
            "× offered bits per sample",
            f"= offered bits per PFLOP ({word}bits)",
            f"absorbed bits per PFLOP ({word}bits)",
            "labels or verdicts per 1,000 forward passes",
        ]
    ]
    for arm in arms:
        values = [arm.estimate(column) for column in per_flop]
        offered = arm.estimate(columns.OFFERED_PER_SAMPLE)
        events = number_text(arm.estimate(columns.EVENTS_PER_THOUSAND_PASSES).mean)
        cells = [values[0].text(scale), offered.text(), values[1].text(scale), values[2].text(scale), events]
        rows.append([arm.start, arm.name, *cells])
    shown = (
        columns.SAMPLES_PER_PETAFLOP,
        columns.OFFERED_PER_SAMPLE,
        columns.RATE_BEFORE_SATURATION,
        columns.EVENTS_PER_THOUSAND_PASSES,
    )
    title = "The essay's equation: samples / FLOP × bits / sample = bits / FLOP"
    return Table(title, rows, BRACKETS, [f"{column.heading}: {column.definition}" for column in shown])


def terminal_table(arms: Sequence[Arm]) -> Table:
    """The columns that matter most, for 100 columns of a terminal."""
    rows = [["start", "arm", "seeds", "absorbed bits", "pass rate", "offered bits/sample", "GFLOP"]]
    for arm in arms:
        before, after = (arm.estimate(column) for column in (columns.PASS_RATE_BEFORE, columns.PASS_RATE_AFTER))
        absorbed, offered = arm.estimate(columns.ABSORBED_BITS), arm.estimate(columns.OFFERED_PER_SAMPLE)
        rates = f"{number_text(before.mean)} → {number_text(after.mean)}"
        flops = number_text(arm.estimate(columns.TOTAL_FLOPS).mean * columns.TOTAL_FLOPS.scale)
        rows.append([arm.start, arm.name, str(len(arm.runs)), absorbed.text(), rates, number_text(offered.mean), flops])
    return Table("Arms", rows)


def detail_tables(arms: Sequence[Arm]) -> list[Table]:
    """All other columns, in tables narrow enough for a screen."""
    groups = {
        "What was absorbed": (
            *(columns.ABSORBED_BITS, columns.ABSORBED_MEDIAN, columns.ABSORBED_GAINS, columns.ABSORBED_LOSSES),
            *(columns.PASS_RATE_BEFORE, columns.PASS_RATE_AFTER, columns.PASS_RATE_BITS),
        ),
        "What it cost": (
            *(columns.TOTAL_FLOPS, columns.TOTAL_SECONDS, columns.SAMPLES, columns.UPDATES, columns.FLOPS_TO_TARGET),
            *(columns.SAMPLES_TO_TARGET, columns.UPDATES_TO_TARGET),
        ),
        "On other problems": tuple(columns.ABSORBED_ON.values()),
        "Rates and curves": (
            *(columns.ABSORBED_PER_PETAFLOP, columns.ABSORBED_PER_SECOND, columns.OFFERED_PER_SECOND),
            *(columns.CURVE_SCORE, columns.UPDATE_NORM),
        ),
        "Groups of rollouts": (columns.INFORMATIVE, columns.INFORMATIVE_PREDICTED, columns.DEAD_SHARE),
        "FLOPs by phase": (
            *(c for c in columns.FLOPS_BY_PHASE.values() if any(any(arm.measured(c)) for arm in arms)),
            columns.USEFUL_SHARE,
        ),
    }
    tables = [column_table(title, arms, shown) for title, shown in groups.items()]
    return [table for table in tables if len(table.rows[0]) > 3]


def price_claim(rl: Arm, sft: Arm) -> Claim:
    """FLOPs to the target gain, RL over SFT, with the samples and updates behind it."""
    samples, flops = (paired_ratio(rl, sft, column) for column in (columns.SAMPLES_TO_TARGET, columns.FLOPS_TO_TARGET))
    reached = ", ".join(
        f"{len(arm.measured(columns.FLOPS_TO_TARGET))} of {len(arm.runs)} seeds of {arm.spoken}" for arm in (sft, rl)
    )
    updates = " and ".join(
        f"{number_text(arm.estimate(columns.UPDATES_TO_TARGET).mean)} updates of {arm.spoken}" for arm in (sft, rl)
    )
    rollouts = f", {number_text(samples.mean)} rollouts per label" if samples.n else ""
    return judged(
        f"From the {rl.start} start, how many times the FLOPs of {sft.spoken} does {rl.spoken} need?",
        f"FLOPs to +{sft.runs[0].value(columns.TARGET):g} held-out bit, {rl.spoken} over {sft.spoken}, each at its own setting; "
        f"{updates}{rollouts}",
        flops,
        (1.0, 1.0),
        Answers("SFT needs fewer FLOPs", "neither", "RL needs fewer FLOPs"),
        len(rl.runs),
        f"within the budget {reached} gained the target",
    )


def price_claims(arms: Sequence[Arm]) -> list[Claim]:
    """One for each start that has an arm named sft, and each arm of RL there that is no control."""
    claims = []
    for start in starts_of(arms):
        of_start = [arm for arm in arms if arm.start == start]
        sft, _ = rivals(of_start)
        claims += [price_claim(arm, sft) for arm in of_start if sft and arm.regime == "rl" and not arm.is_control]
    return claims


def price_text(arms: Sequence[Arm]) -> str:
    """What RL pays from the one start that the arms share, as a clause; empty without both regimes."""
    sft, rl = rivals(arms)
    if sft is None or rl is None:
        return ""
    flops, target = paired_ratio(rl, sft, columns.FLOPS_TO_TARGET), sft.runs[0].value(columns.TARGET)
    if flops.n == len(rl.runs):
        return f"{rl.spoken} needed {flops.text()} times the FLOPs of {sft.spoken} to gain {target:g} bit"
    gained = " and ".join(
        f"{len(arm.measured(columns.FLOPS_TO_TARGET))} of {len(arm.runs)} seeds of {arm.spoken}" for arm in (sft, rl)
    )
    return f"{gained} gained {target:g} bit within the budget"


def headlines(arms: Sequence[Arm]) -> list[Headline]:
    """FLOPs and samples to the same gain, and what was absorbed, from the first start that has both regimes."""
    for start in starts_of(arms):
        sft, rl = rivals([arm for arm in arms if arm.start == start])
        if sft is None or rl is None:
            continue
        flops, samples = (paired_ratio(rl, sft, column) for column in (columns.FLOPS_TO_TARGET, columns.SAMPLES_TO_TARGET))
        target, found = f"+{sft.runs[0].value(columns.TARGET):g} held-out bit", []
        if flops.n == len(rl.runs):
            found.append(
                Headline(
                    f"× {number_text(flops.mean)}",
                    f"FLOPs to {target}, {rl.spoken} over {sft.spoken}",
                    f"{start} start, {flops.text()}",
                )
            )
            found.append(
                Headline(
                    f"× {number_text(samples.mean)}",
                    "samples to the same gain: rollouts per label",
                    f"{start} start, {samples.text()}; depends on the batch sizes",
                )
            )
        absorbed = [arm.estimate(columns.ABSORBED_BITS) for arm in (rl, sft)]
        value = " : ".join(number_text(estimate.mean) for estimate in absorbed)
        detail = " and ".join(estimate.text() for estimate in absorbed)
        return [*found, Headline(value, f"bits absorbed by the end, {rl.spoken} : {sft.spoken}", f"{start} start, {detail}")]
    return []


def pictures_of(arms: Sequence[Arm]) -> list[Picture]:
    """The pictures below the main one."""
    is_sampled = draws_rollouts(arms)
    return [
        Picture(
            "learning",
            "What did a FLOP buy on held-out problems?",
            lambda: learning_figure(arms),
            sampled.LEARNING
            if is_sampled
            else "Surprisal of the right answer and mean pass rate on problems whose operands were trained on in no form, against "
            "all FLOPs of training.",
        ),
        Picture(
            "essay",
            "What does a sample offer, against the pass rate?",
            lambda: essay_figure(arms),
            sampled.ESSAY
            if is_sampled
            else "Lines are the essay's two formulas; points show where the recorded samples fell, in blocks of 64 averaged over bins of the "
            "pass rate. The essay's pair compares a realised surprisal with an expected entropy, so a verdict seems to tell more than a "
            "label above p = 0.5. In the right panel both are what a policy expects to learn from its own completion: there a label "
            "never tells less.",
        ),
        Picture(
            "rates",
            "How fast were bits absorbed before saturation?",
            lambda: rate_figure(arms),
            "Each point is a seed; the bar below is the mean with its 95 % t interval over seeds. The axis is linear around 0 and "
            "logarithmic outside. Runs that absorbed half of the bits are rated up to that point, the others over their whole budget.",
        ),
        Picture(
            "phases", "Where did the FLOPs go?", lambda: phase_figure(arms), "Executed FLOPs, padding and finished rows included."
        ),
    ]


def main_picture(arms: Sequence[Arm]) -> Picture:
    """Absorbed bits against FLOPs with the ratio drawn in."""
    return Picture(
        "gain",
        "How many FLOPs buy the same gain?",
        lambda: gain_figure(arms),
        "Bits absorbed on held-out problems against training FLOPs, every seed a line. The arrow spans the FLOPs to the same gain, "
        "SFT on the left and RL on the right; brackets hold the 95 % t interval over seeds.",
    )


def runs_of(arms: Sequence[Arm]) -> list[Run]:
    """The recorded runs of the arms."""
    return [run.run for arm in arms for run in arm.runs]


def provenance(runs: Sequence[Run], command: str) -> str:
    """Commits and versions that the runs were made with, and the command of this report."""
    manifests = [run.manifest for run in runs]
    commits = sorted(
        {(m["git_commit"] or "unknown")[:12] + " (with uncommitted changes)" * bool(m["git_dirty"]) for m in manifests}
    )
    packages = ", ".join(f"{name} {version}" for name, version in manifests[0]["packages"].items()) or "packages unknown"
    return f"{len(manifests)} runs at commit {', '.join(commits)}; {packages}; device {manifests[0]['device']}. Made by: {command}"


def results_of(arms: Sequence[Arm]) -> dict:
    """Every column of every seed, for results.json."""
    return {
        "arms": [
            {
                "start": arm.start,
                "arm": arm.name,
                "regime": arm.regime,
                "seeds": [run.seed for run in arm.runs],
                "runs": [str(run.run.run_dir) for run in arm.runs],
                "values": {column.name: arm.estimate(column).fields() for column in columns.COLUMNS},
            }
            for arm in arms
        ]
    }


def comparison_study(arms: Sequence[Arm], command: str) -> Study:
    """The study of any arms: what RL pays compared with SFT, from each start that has both."""
    answers = []
    for start in starts_of(arms):
        if text := price_text([arm for arm in arms if arm.start == start]):
            answers.append(f"from the {start} start {text}")
    answer = "; ".join(answers) or f"{len(arms)} arms, {sum(len(arm.runs) for arm in arms)} runs; no start has both SFT and RL"
    claims = price_claims(arms)
    return Study(
        title="Bits per FLOP, SFT and RL",
        question="How much does a language model learn per FLOP from SFT and from RL?",
        answer=f"{answer[0].upper()}{answer[1:]}.",
        main=main_picture(arms),
        table=equation_table(arms),
        how_to_read=sampled.HOW_TO_READ if draws_rollouts(arms) else HOW_TO_READ,
        provenance=provenance(runs_of(arms), command),
        headlines=headlines(arms),
        sentences=[*sampled.sampled_sentences(arms), *[claim.sentence() for claim in claims]],
        claims=claims,
        tables=[*([sampled.sampled_table(arms)] if draws_rollouts(arms) else []), *detail_tables(arms)],
        pictures=pictures_of(arms),
        terminal=[terminal_table(arms)],
        results=results_of(arms),
    )


def metered_study(runs: Sequence[Run], command: str) -> Study:
    """The study of runs that were never evaluated on held-out problems."""
    facts = [metered_facts(run) for run in runs]
    table = metered_table(facts)
    return Study(
        title="Bits and FLOPs of training",
        question="What did the samples of these runs offer, and what did they cost?",
        answer=f"{len(facts)} runs without held-out evaluations: what they absorbed was not measured.",
        main=None,
        table=table,
        how_to_read=METERED,
        provenance=provenance(runs, command),
        terminal=[for_terminal(table)],
        results={"metered": facts},
    )
