"""What every metric key means: its unit, its definition and how it is estimated. A key that is not here does not exist."""

from typing import NamedTuple

# Every FLOP a run executes belongs to one of these.
PHASES = ("prefill", "decode", "score_old", "score_reference", "train_forward", "train_backward", "reward_model", "evaluation")
# What a sample costs; evaluation is recorded and kept out of every denominator.
TRAINING_PHASES = tuple(phase for phase in PHASES if phase != "evaluation")


class Metric(NamedTuple):
    """`estimator` says how the number comes about; `cumulative` numbers count from the start of the run."""

    unit: str
    definition: str
    estimator: str
    cumulative: bool = False


GLOSSARY: dict[str, Metric] = {
    "train/loss": Metric(
        "nats", "The loss that the optimizer stepped on, as the trainer defines it", "sum over micro-batches, first process"
    ),
    "train/learning_rate": Metric("1", "Learning rate of the step", "scheduler"),
    "samples/total": Metric(
        "samples",
        "Labelled sequences (sft), completions (distillation), pairs or judged completions (preference) trained on, or rollouts drawn (rl)",
        "count",
        True,
    ),
    "tokens/prompt": Metric(
        "tokens",
        "Real prompt tokens of the samples, a prompt counted with every completion, and what tools answered in it",
        "count",
        True,
    ),
    "tokens/completion": Metric(
        "tokens", "Real completion tokens of the samples, end of sequence included, what tools answered left out", "count", True
    ),
    "bits/offered_per_sample": Metric(
        "bits",
        "What a sample offers by the essay's convention: the surprisal of the label (sft), H(pass rate) per rollout (rl), "
        "the divergence from the teacher over the completion (distillation), the surprisal of which completion was preferred, or of the verdict on it, and of an answer to imitate beside it (preference)",
        "sft: training forward; rl: exact where the pass rate is exact, else jackknife; distillation: loss, and of TRL's experimental trainers KL(teacher, student) over the whole vocabulary; preference: the model's own odds; "
        "mean over the step's samples",
    ),
    "bits/offered_total": Metric("bits", "Sum of the offered bits over all samples", "sum", True),
    "bits/offered_per_petaflop": Metric(
        "bits/PFLOP", "Offered bits over training FLOPs, both from the start of the run", "bits/offered_total over flops/total"
    ),
    "bits/first_error_per_sample": Metric(
        "bits",
        "What the position of the first wrong step of a rollout offers, as a process reward tells it (rl with step verdicts)",
        "exact from step pass rates where they are exact, else jackknife; mean over the step's prompts",
    ),
    "bits/believed_per_sample": Metric(
        "bits",
        "What an own sample of surprisal s is expected to tell: H(2^-s) for a verdict (rl)",
        "mean over the step's rollouts; null in sft, whose labels are not the model's samples, and where sampling is truncated",
    ),
    "bits/surprisal_per_sample": Metric(
        "bits",
        "Surprisal of the label (sft), of an answer to imitate (preference), or of an own completion, under the policy that trains on it; where sampling is "
        "truncated (manifest, `sampling`) the completions come from a narrower distribution than the one that scores them",
        "training forward",
    ),
    "group/pass_rate": Metric("1", "Mean exact pass rate of the step's prompts before the step", "teacher-forced"),
    "group/pass_rate_estimate": Metric("1", "Share of the step's rollouts that passed", "count"),
    "group/num_rollouts": Metric("rollouts", "Rollouts behind the estimates of the step", "count"),
    "group/informative_fraction": Metric("1", "Share of the step's groups whose rewards are not all equal", "count"),
    "group/informative_fraction_predicted": Metric(
        "1", "What the exact pass rates predict for it: 1 - p^G - (1-p)^G for groups of G rollouts", "mean over the step's prompts"
    ),
    "flops/dead_group_fraction": Metric(
        "1", "Share of the training FLOPs so far that went to groups whose rewards are all equal", "by share of groups", True
    ),
    "flops/total": Metric("FLOPs", "Executed training FLOPs: all phases but evaluation", "shapes that ran", True),
    "flops/encoders": Metric(
        "FLOPs",
        "The part of `flops/total` that ran in encoders of images or sounds, forward and backward; in models that have any",
        "products that ran",
        True,
    ),
    "flops/lost": Metric("FLOPs", "Spent on steps that a resume threw away; part of no other number", "records", True),
    "seconds/total": Metric("s", "Wall-clock time of training, evaluation left out", "clock", True),
}
# unit, definition and estimator of the cumulative metrics KIND/PHASE
BY_PHASE = {
    "flops": ("FLOPs", "Executed in PHASE, padding and finished rows included", "shapes that ran"),
    "flops_useful": ("FLOPs", "The part of `flops/PHASE` that went to real tokens (in prefill: of distinct prompts)", "masks"),
    "seconds": ("s", "Wall-clock time in PHASE; all that vLLM takes, new weights too, is in `decode`", "clock, first process"),
}
GLOSSARY |= {
    f"{kind}/{phase}": Metric(unit, definition.replace("PHASE", phase), estimator, True)
    for kind, (unit, definition, estimator) in BY_PHASE.items()
    for phase in PHASES
}


def is_cumulative(key: str) -> bool:
    """Whether a metric counts from the start of the run, so that a resumed run counts on from it."""
    return key in GLOSSARY and GLOSSARY[key].cumulative


def glossary_table() -> str:
    """All metrics as a Markdown table; the phases of one kind of metric share a row."""
    rows = {key: metric for key, metric in GLOSSARY.items() if key.split("/")[1] not in PHASES}
    rows |= {f"{kind}/PHASE": Metric(*metric, True) for kind, metric in BY_PHASE.items()}
    lines = ["| key | unit | definition | estimator |", "|---|---|---|---|"]
    for key, metric in rows.items():
        definition = metric.definition + (" (cumulative)" if metric.cumulative else "")
        cells = (f"`{key}`", metric.unit, definition, metric.estimator)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, "", f"Phases: {', '.join(f'`{phase}`' for phase in PHASES)}."])


if __name__ == "__main__":
    print(glossary_table())
