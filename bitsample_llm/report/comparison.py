"""The page of any runs: SFT and RL at matched FLOPs, the essay's equation for every arm, where the FLOPs went.

    python -m bitsample_llm report RUN...

A study of its own (`eval/studies/`) takes these tables and pictures and adds its questions.
"""

from collections.abc import Sequence

from bitsample_llm.records import Run
from bitsample_llm.report import columns, sampled
from bitsample_llm.report.claims import Answers, Claim, judged
from bitsample_llm.report.estimates import number_text
from bitsample_llm.report.metered import for_terminal, metered_facts, metered_table
from bitsample_llm.report.pairs import paired_ratio, seeds_at_target
from bitsample_llm.report.pictures import main_picture, pictures_of
from bitsample_llm.report.runs import Arm, by_start, draws_rollouts, rivals
from bitsample_llm.report.study import Headline, Study
from bitsample_llm.report.tables import detail_tables, equation_table, mean_of, sampled_table, terminal_table

SAMPLES = "A label is a right answer given to SFT; a rollout is an answer that the model samples and a verifier judges."
ABSORBED = "Absorbed bits are what a held-out problem gained: log2 of its probability after training over before."
OFFERED = "Offered bits are what the essay says a sample tells: -log2 p for a label, at most H(p) for a verdict."
COST = "FLOPs are those that ran, rollouts included."
SEEDS = "Every line or point is one seed; hover over it to see which."


def price_claim(rl: Arm, sft: Arm) -> Claim:
    """FLOPs to the target gain, RL over SFT, with the samples and updates behind it."""
    samples, flops = (paired_ratio(rl, sft, column) for column in (columns.SAMPLES_TO_TARGET, columns.FLOPS_TO_TARGET))
    updates = " and ".join(f"{mean_of(columns.UPDATES_TO_TARGET)(arm)} updates of {arm.spoken}" for arm in (sft, rl))
    rollouts = f", {number_text(samples.mean)} rollouts per label" if samples.n else ""
    return judged(
        f"From the {rl.start} start, how many times the FLOPs of {sft.spoken} does {rl.spoken} need?",
        f"FLOPs to +{sft.runs[0].value(columns.TARGET):g} held-out bit, {rl.spoken} over {sft.spoken}, each at its own setting; "
        f"{updates}{rollouts}",
        flops,
        (1.0, 1.0),
        Answers("SFT needs fewer FLOPs", "neither", "RL needs fewer FLOPs"),
        len(rl.runs),
        f"within the budget {seeds_at_target((sft, rl), ', ')} gained the target",
    )


def price_claims(arms: Sequence[Arm]) -> list[Claim]:
    """One for each start that has an arm named sft, and each arm of RL there that is no control."""
    claims = []
    for of_start in by_start(arms).values():
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
    return f"{seeds_at_target((sft, rl), ' and ')} gained {target:g} bit within the budget"


def headlines(arms: Sequence[Arm]) -> list[Headline]:
    """FLOPs and samples to the same gain, and what was absorbed, from the first start that has both regimes."""
    pairs = [(start, *rivals(of_start)) for start, of_start in by_start(arms).items()]
    pairs = [pair for pair in pairs if None not in pair]
    if not pairs:
        return []
    start, sft, rl = pairs[0]
    shown, both = [], f"{rl.spoken} over {sft.spoken}"
    flops, samples = (paired_ratio(rl, sft, column) for column in (columns.FLOPS_TO_TARGET, columns.SAMPLES_TO_TARGET))
    if flops.n == len(rl.runs):
        gained = f"FLOPs to +{sft.runs[0].value(columns.TARGET):g} held-out bit, {both}"
        shown.append(Headline(f"× {number_text(flops.mean)}", gained, f"{start} start, {flops.text()}"))
        detail = f"{start} start, {samples.text()}; depends on the batch sizes"
        shown.append(Headline(f"× {number_text(samples.mean)}", "samples to the same gain: rollouts per label", detail))
    absorbed = [arm.estimate(columns.ABSORBED_BITS) for arm in (rl, sft)]
    value, detail = " : ".join(number_text(e.mean) for e in absorbed), " and ".join(e.text() for e in absorbed)
    return [*shown, Headline(value, f"bits absorbed by the end, {rl.spoken} : {sft.spoken}", f"{start} start, {detail}")]


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
    texts = {start: price_text(of_start) for start, of_start in by_start(arms).items()}
    answer = "; ".join(f"from the {start} start {text}" for start, text in texts.items() if text)
    answer = answer or f"{len(arms)} arms, {len(runs_of(arms))} runs; no start has both SFT and RL"
    claims, is_sampled = price_claims(arms), draws_rollouts(arms)
    meaning = [sampled.ABSORBED] if is_sampled else [ABSORBED, OFFERED]
    return Study(
        title="Bits per FLOP, SFT and RL",
        question="How much does a language model learn per FLOP from SFT and from RL?",
        answer=f"{answer[0].upper()}{answer[1:]}.",
        main=main_picture(arms),
        table=equation_table(arms),
        how_to_read=" ".join([SAMPLES, *meaning, COST, SEEDS]),
        provenance=provenance(runs_of(arms), command),
        headlines=headlines(arms),
        sentences=[*sampled.sampled_sentences(arms), *[claim.sentence() for claim in claims]],
        claims=claims,
        tables=[*([sampled_table(arms)] if is_sampled else []), *detail_tables(arms)],
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
        how_to_read=f"{OFFERED} {COST}",
        provenance=provenance(runs, command),
        terminal=[for_terminal(table)],
        results={"metered": facts},
    )
