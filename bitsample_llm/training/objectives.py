"""Objectives between SFT and policy gradient, each a subclass of TRL's trainer with another loss.

From labels to sampled rewards, one thing changes at a time: `log_likelihood` is SFT; `pass_rate` ascends the exact probability
of passing, which is reinforcement learning with infinitely many rollouts; the verdict likelihood learns from the sampled
verdicts of GRPO, without a policy gradient. B samples, T tokens.
"""

from functools import cache

import torch
from accelerate.utils import gather_object
from trl import GRPOTrainer, SFTTrainer

from bitsample_llm.meter.verdicts import RolloutVerifier

# Losses from the log-probabilities (B) in nats of whole answers, mean over samples. The normalised form is the limit of
# GRPO's for ever larger groups, whose advantages of passes are sqrt((1-p)/p) and of fails -sqrt(p/(1-p)).
OBJECTIVES = {
    "log_likelihood": lambda logps_B: -logps_B.mean(),
    "pass_rate": lambda logps_B: -logps_B.exp().mean(),
    "normalised_pass_rate": lambda logps_B: -(_odds_root(logps_B.detach()) * logps_B).mean(),
}
_SURE = -1e-6  # log-probabilities above it count as this: log(1 - p) has no value at p = 1


def _odds_root(logps_B: torch.Tensor) -> torch.Tensor:
    """sqrt(p / (1 - p))."""
    return (logps_B / 2).exp() / (-torch.expm1(logps_B.clamp(max=_SURE))).sqrt()


def completion_logps(trainer: GRPOTrainer, model, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Log-probabilities (B) in nats of whole completions of a batch, with gradients."""
    mask_BT = inputs["completion_mask"]
    logps_BT, *_ = trainer._get_per_token_logps_and_entropies(
        model,
        torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
        torch.cat([inputs["prompt_mask"], mask_BT], dim=1),
        inputs["completion_ids"].size(1),
    )
    return (logps_BT * mask_BT).sum(dim=1)


class AnswerObjectiveTrainer(SFTTrainer):
    """SFTTrainer whose loss is a function of the probability of the whole answer, one of `OBJECTIVES`; a ValueError where answers
    of several samples share a row.
    """

    def __init__(self, *args, objective: str, **kwargs):
        super().__init__(*args, **kwargs)
        if self.args.packing or self.args.padding_free:
            raise ValueError("an objective of whole answers needs one sample a row: set packing and padding_free to false")
        self.objective = objective

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean over the samples of a batch; TRL's is a mean over tokens."""
        if not self.model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = model(**{**inputs, "use_cache": False}, fused_lm_head=True)
        loss = OBJECTIVES[self.objective](outputs.log_probs.sum(dim=1))  # ignored positions are zero
        if num_items_in_batch is not None:  # transformers then leaves the division by accumulated batches to the loss
            loss = loss / self.current_gradient_accumulation_steps
        return (loss, outputs) if return_outputs else loss


class SkipsDeadUpdates:
    """Mixin: a batch without a non-zero advantage on any process costs neither a forward pass nor an update.

    Otherwise Adam would still move by its momentum.
    """

    def compute_loss(self, model, inputs, *args, **kwargs):
        """TRL's loss, or a zero that no parameter has a part in, so that the optimizer passes over all of them."""
        if self.model.training:
            alive = (inputs["advantages"] != 0).any().float()
            if not self.accelerator.reduce(alive, "sum") > 0:
                return torch.zeros((), device=alive.device, requires_grad=True)
        return super().compute_loss(model, inputs, *args, **kwargs)


class SkipsDeadRows:
    """Mixin before `SkipsDeadUpdates`, for batches of several groups: rows without an advantage cost no forward pass where they have no part in TRL's loss.

    That is so where the loss is a sum over the tokens of a batch, divided by their number in the whole generation.
    """

    def compute_loss(self, model, inputs, *args, **kwargs):
        """TRL's loss, from the rows that have an advantage; the others leave `inputs`, where who listens finds what was trained on."""
        is_sum = self.loss_type in ("cispo", "dapo", "vespo") and self.top_entropy_quantile == 1.0
        if self.model.training and is_sum and self.beta == 0.0 and not self._entropy_bonus_enabled:
            alive_B = inputs["advantages"] != 0
            most = max(1, *gather_object([int(alive_B.sum())]))  # on every process as many: TRL gathers what it logs by row
            kept, num_rows = torch.argsort(~alive_B, stable=True)[:most], len(alive_B)
            for name, value in inputs.items():
                if isinstance(value, torch.Tensor) and value.dim() and len(value) == num_rows:
                    inputs[name] = value[kept]
        return super().compute_loss(model, inputs, *args, **kwargs)


class ReinforceTrainer(GRPOTrainer):
    """GRPOTrainer without a baseline: the advantage of a rollout is its reward, so that only passes teach, each as much as any other."""

    def _calculate_rewards(self, *args, **kwargs):
        rewards_per_func = super()._calculate_rewards(*args, **kwargs)  # of all processes
        self.take_rewards(rewards_per_func)
        return rewards_per_func

    def take_rewards(self, rewards_BF: torch.Tensor) -> None:
        """What the next advantages are made of, of all processes."""
        self._rewards = (rewards_BF * self.reward_weights.to(rewards_BF.device)).nansum(dim=1)

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        num = len(output["advantages"])
        output["advantages"] = self._rewards[self.accelerator.process_index * num :][:num]
        return output


class RejectionTrainer(ReinforceTrainer):
    """SFT on the rollouts that passed, in rounds: each generation is drawn from the policy as it is then, and its passes are used
    `num_iterations` times over.
    """

    def _compute_loss(self, model, inputs):
        logps_B = completion_logps(self, model, inputs)
        passed_B = inputs["advantages"] > 0
        loss = -(logps_B * passed_B).sum() / passed_B.sum().clamp(min=1)
        return loss / self.current_gradient_accumulation_steps


@cache
def skipping_dead_updates(trainer_class: type) -> type:
    """The trainer that skips updates from which nothing is learned, `Skipping` before its name."""
    return type(f"Skipping{trainer_class.__name__}", (SkipsDeadUpdates, trainer_class), {})


class VerdictLikelihoodTrainer(GRPOTrainer):
    """Learns from sampled verdicts by maximum likelihood: log pi(a) for a completion that passed, log(1 - pi(a)) for one that
    failed. A pass of probability p tells -log2 p bits, a fail -log2(1 - p): on average the entropy of the reward.
    """

    def __init__(self, *args, verifier: RolloutVerifier, **kwargs):
        super().__init__(*args, **kwargs)
        self.verifier = verifier

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        ids = [row[mask.bool()].tolist() for row, mask in zip(output["completion_ids"], output["completion_mask"], strict=True)]
        judged = self.verifier.judged([example["problem_id"] for example in inputs], ids)
        output["passed"] = torch.tensor([verdict.passed for _, _, verdict in judged], device=output["completion_ids"].device)
        return output

    def _compute_loss(self, model, inputs):
        logps_B = completion_logps(self, model, inputs)
        log_fail_B = torch.log(-torch.expm1(logps_B.clamp(max=_SURE)))
        loss = -torch.where(inputs["passed"], logps_B, log_fail_B).mean()
        return loss / self.current_gradient_accumulation_steps
