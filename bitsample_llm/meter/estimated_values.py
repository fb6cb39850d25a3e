"""What TRL's experimental A2POTrainer (arXiv 2505.20686) shows: rollouts of the reference for the value of every prompt, before the training, and one rollout per prompt of each batch.

Every verdict that it is told offers H(pass rate), as in GRPO: exact, or by jackknife from the rollouts of the reference; that of a single rollout is null.
"""

import math

import torch
from accelerate.utils import gather_object

from bitsample_llm.meter.groups import RolloutObserver
from bitsample_llm.meter.hooks import require, wrap


class ValueObserver(RolloutObserver):
    """Records rollouts with their rewards; those of the reference are of generation 0."""

    makes_batch = "_prepare_inputs"
    sees_generation = False
    compares_rollouts = False  # but each with the value of its prompt

    def __init__(self, trainer, meter, *choices):
        require(trainer, "eos_token_ids", "ref_model", "_get_sequence_logps")
        self._rewards: list[float] = []
        self._policy_logps_B: torch.Tensor | None = None
        self._is_estimating = False  # the trainer draws from the reference
        wrap(trainer, "_prepare_inputs", self._around_inputs)  # before the batch that this makes is looked at
        super().__init__(trainer, meter, *choices)
        wrap(trainer, "_estimate_optimal_values", self._around_estimation)
        wrap(trainer, "_get_sequence_logps", self._around_logps)
        wrap(trainer.accelerator.unwrap_model(trainer.ref_model), "generate", self._around_reference)

    def _see_completions(self, ids_BT: torch.Tensor, prompt_mask_BT: torch.Tensor) -> None:
        """Keep the completions, each up to its end, of rows of prompts and completions."""
        ends = set(self.trainer.eos_token_ids)
        completions = ids_BT[:, prompt_mask_BT.shape[1] :].tolist()
        lengths = [next((at + 1 for at, token in enumerate(ids) if token in ends), len(ids)) for ids in completions]
        self._completion_ids = [ids[:length] for ids, length in zip(completions, lengths, strict=True)]
        self._num_own_tokens = lengths
        self._num_prompt_tokens = int(prompt_mask_BT.sum())

    def _around_inputs(self, original, inputs):
        output = original(inputs)
        kept = output["logits_to_keep"]
        self._see_completions(output["input_ids"], output["attention_mask"][:, :-kept])
        seen = {"completion_ids": output["input_ids"][:, -kept:], "completion_mask": output["attention_mask"][:, -kept:]}
        return output | seen

    def _around_reference(self, original, **kwargs):
        ids_BT = original(**kwargs)
        mask_BT = kwargs["attention_mask"]
        self._see_completions(ids_BT, mask_BT.repeat_interleave(len(ids_BT) // len(mask_BT), dim=0))
        return ids_BT

    def _around_rewards(self, original, prompts, completions, **columns):
        rewards_B = original(prompts, completions, **columns)
        if self._is_estimating or self.trainer.model.training:
            self._rewards = gather_object(rewards_B.tolist())
        if self._is_estimating:
            examples = [
                {"prompt": prompt} | {name: values[row] for name, values in columns.items()} for row, prompt in enumerate(prompts)
            ]
            self.num_generations = self.trainer.args.num_value_samples
            rollouts = self._counted_rollouts(examples)
            self._complete(rollouts)
            self.meter.add_rows("rollouts", rollouts)
            self.num_generations = 1
        return rewards_B

    def _around_estimation(self, original):
        self._is_estimating = True
        original()
        self._is_estimating = False

    def _around_logps(self, original, *args, **kwargs):
        logps_B = original(*args, **kwargs)
        if torch.is_grad_enabled():
            self._policy_logps_B = logps_B.detach()
        return logps_B

    def _record_loss(self, loss: float, inputs: dict, logps_BT: torch.Tensor | None) -> None:
        super()._record_loss(loss, inputs, self._policy_logps_B[:, None])

    def _complete(self, rollouts: list[dict]) -> None:
        super()._complete(rollouts)
        if not (self._is_estimating or self.exact_pass_rates):
            self.totals.count("bits/offered_total", math.nan)  # a part of it is not known from here on

    def _add_rewards(self, rollouts: list[dict]) -> None:
        for rollout, reward in zip(rollouts, self._rewards, strict=True):
            rollout["reward"] = reward
