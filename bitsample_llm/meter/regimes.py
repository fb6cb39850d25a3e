"""What does a trainer learn from? Told by what TRL's trainers are and, the experimental ones, by what they have; and who records it."""

import trl

from bitsample_llm.meter.groups import RolloutObserver
from bitsample_llm.meter.labels import LabelObserver, SampleObserver
from bitsample_llm.meter.rollouts import GenerationObserver


def regime_of(trainer) -> str:
    """What a trainer learns from: `sft`, `rl`, `distillation` or `preference`; a TypeError for one that learns from something else."""
    if isinstance(trainer, trl.GRPOTrainer | trl.RLOOTrainer) or estimates_values(trainer):
        return "rl"
    if isinstance(trainer, trl.DistillationTrainer) or distils_itself(trainer) or mixes_completions(trainer):
        return "distillation"
    if isinstance(trainer, trl.SFTTrainer) and not hasattr(trainer, "teacher_model"):
        return "sft"
    is_preference = isinstance(trainer, trl.DPOTrainer | trl.KTOTrainer | trl.RewardTrainer)
    if is_preference or has_no_reference(trainer) or draws_pairs(trainer):
        return "preference"
    name = type(trainer).__name__
    if hasattr(trainer, "rollout_queue"):
        raise TypeError(
            f"a {name}'s rollouts are drawn and judged by other processes and servers, whose FLOPs the meter cannot see: train with {name.removeprefix('Async')} instead"
        )
    raise TypeError(
        f"InformationMeter knows the trainers in the table of bitsample_llm/README.md, and not what a {name} learns from"
    )


def has_no_reference(trainer) -> bool:
    """Whether a trainer learns from pairs by the policy alone, as TRL's experimental CPOTrainer, ORPOTrainer and TPOTrainer."""
    return any(hasattr(trainer, name) for name in ("cpo_loss", "odds_ratio_loss", "tpo_alpha"))


def draws_pairs(trainer) -> bool:
    """Whether a trainer draws two rollouts per prompt and has a reward tell the better one, as TRL's experimental OnlineDPOTrainer."""
    return hasattr(trainer, "_calculate_rewards_from_functions") and hasattr(trainer, "ref_model")


def estimates_values(trainer) -> bool:
    """Whether a trainer draws rollouts of its reference first, for the value of every prompt, then one per prompt, as TRL's experimental A2POTrainer."""
    return hasattr(trainer, "_estimate_optimal_values")


def distils_itself(trainer) -> bool:
    """Whether a trainer has a teacher that sees more than the student, as TRL's experimental SDFTTrainer and SDPOTrainer."""
    return hasattr(trainer, "teacher_context_builder") and hasattr(trainer, "sample_rollouts")


def mixes_completions(trainer) -> bool:
    """Whether a trainer has a teacher for completions of the data and of the student, as TRL's experimental GKDTrainer, GOLDTrainer and IWOPDTrainer."""
    return hasattr(trainer, "generalized_jsd_loss") and hasattr(trainer, "teacher_model")


def observer_of(trainer, meter, verifier, *rl_choices) -> SampleObserver | GenerationObserver:
    """What records the samples of a trainer. Modules are loaded where there is such a trainer; `rl_choices`: see `RolloutObserver`."""
    regime = regime_of(trainer)
    if estimates_values(trainer):
        from bitsample_llm.meter.estimated_values import ValueObserver  # noqa: PLC0415

        return ValueObserver(trainer, meter, verifier, *rl_choices)
    if regime == "rl":
        return RolloutObserver(trainer, meter, verifier, *rl_choices)
    if draws_pairs(trainer):
        from bitsample_llm.meter.drawn_pairs import DrawnPairObserver  # noqa: PLC0415

        return DrawnPairObserver(trainer, meter, verifier)
    if regime == "preference":
        from bitsample_llm.meter.preferences import preference_observer  # noqa: PLC0415

        return preference_observer(trainer, meter)
    if regime == "distillation":
        from bitsample_llm.meter.distillation import distillation_observer  # noqa: PLC0415

        return distillation_observer(trainer, meter, verifier)
    return LabelObserver(trainer, meter)
