"""What TRL's experimental OnlineDPOTrainer (arXiv 2402.04792) shows: two rollouts per prompt, and which of them the reward functions prefer.

A sample is a pair. It offers what the label of a pair of DPO does; a tie, which the trainer takes for a preference of the rollout drawn first, tells nothing: 0 bits. B prompts of a batch of this
process, their first rollouts before their second ones; T tokens.
"""

import time

import torch
from accelerate.utils import gather_object

from bitsample_llm.meter.hooks import require, wrap
from bitsample_llm.meter.labels import surprisal_bits_of
from bitsample_llm.meter.preferences import PreferenceObserver, label_bits
from bitsample_llm.meter.rollouts import sampling_settings


class DrawnPairObserver(PreferenceObserver):
    """Records pairs of rollouts with rewards, and with verdicts where there is a verifier."""

    def __init__(self, trainer, meter, verifier):
        require(trainer, "beta", "ref_model", "_generate_vllm")
        super().__init__(trainer, meter)
        self.verifier, self.sampling, self.generation_step = verifier, sampling_settings(trainer), 0
        self._rewards: torch.Tensor | None = None  # (2B)
        self._logps: dict[bool, torch.Tensor] = {}  # (2B, T): of the policy, True, and of the reference
        wrap(trainer, "_generate", self._around_generate)
        wrap(trainer, "_generate_vllm", self._around_server)
        wrap(trainer, "_forward", self._around_forward)
        wrap(trainer, "_calculate_rewards_from_functions", self._around_rewards)
        wrap(trainer, "training_step", self._around_step)  # which computes the loss itself

    def _around_generate(self, original, *args, **kwargs):
        self.meter.counter.generating = True
        drawn = self._drawn = original(*args, **kwargs)
        self.meter.counter.generating = False
        return drawn

    def _around_server(self, original, *args, **kwargs):
        started = time.perf_counter()
        drawn = self._drawn = original(*args, **kwargs)
        self.meter.counter.count_generation(_real_tokens(*drawn[:2]), drawn[3].sum(dim=1).tolist(), time.perf_counter() - started)
        return drawn

    def _around_forward(self, original, *args, **kwargs):
        logps_BT = original(*args, **kwargs)
        self._logps[torch.is_grad_enabled()] = logps_BT.detach().double()
        return logps_BT

    def _around_rewards(self, original, *args, **kwargs):
        self._rewards = original(*args, **kwargs)  # the trainer subtracts its penalty for no end in place
        return self._rewards

    def _around_step(self, original, model, inputs, *args, **kwargs):
        loss = original(model, inputs, *args, **kwargs)
        self.generation_step += 1
        self._record(float(loss), inputs, None)
        self._record_rollouts(inputs)
        return loss

    def margins_B(self, inputs: dict) -> torch.Tensor:
        """Log-odds in nats (B) that the first rollout is the better one."""
        ratios = ((self._logps[True] - self._logps[False]) * self._drawn[3]).sum(dim=1)
        first_B, second_B = ratios.chunk(2)
        return self.trainer.beta * (first_B - second_B)

    def rows(self, inputs: dict, logps_BT: torch.Tensor | None) -> list[dict]:
        first_B, second_B = self._rewards.chunk(2)
        bits_B = label_bits(self.margins_B(inputs) * (first_B - second_B).sign()) * (first_B != second_B)
        problem_ids = inputs.get("problem_id", [None] * len(bits_B))
        return [
            {"problem_id": problem_id, "offered_bits": bits, "offered_bits_estimator": "label"}
            for problem_id, bits in zip(problem_ids, bits_B.tolist(), strict=True)
        ]

    def num_tokens(self, inputs: dict) -> tuple[int, int]:
        completion = int(self._drawn[3].sum())
        return int(self._drawn[1].sum()) + completion, completion

    def _record_rollouts(self, inputs: dict) -> None:
        examples = [dict(zip(inputs, values, strict=True)) for values in zip(*inputs.values(), strict=True)]
        completion_ids = _real_tokens(*self._drawn[2:4])
        if self.verifier is not None:
            drawn = self.verifier.rows(self.verifier.problem_ids(examples) * 2, completion_ids)
        else:
            texts_and_ends = self.meter.end.texts_and_ends(completion_ids)
            drawn = [
                {"problem_id": example.get("problem_id"), "text": text, "ended": ended, "passed": None}
                for example, (text, ended) in zip(examples * 2, texts_and_ends, strict=True)
            ]
        logps = (self._logps[True] * self._drawn[3]).sum(dim=1).tolist()
        for row, ids, reward, logp in zip(drawn, completion_ids, self._rewards.tolist(), logps, strict=True):
            row |= {"num_tokens": len(ids), "reward": reward, "surprisal_bits": surprisal_bits_of(logp)}
        pairs = list(zip(drawn[: len(examples)], drawn[len(examples) :], strict=True))
        pairs = [pair for part in gather_object([pairs]) for pair in part]
        rollouts = [row | {"sample": sample} for pair in pairs for sample, row in enumerate(pair)]
        totals = self.meter.totals
        totals.observe("bits/surprisal_per_sample", [row["surprisal_bits"] for row in rollouts])
        totals.observe("group/pass_rate_estimate", [float(row["passed"]) for row in rollouts if row["passed"] is not None])
        totals.observe("group/informative_fraction", [float(first["reward"] != second["reward"]) for first, second in pairs])
        self.meter.add_rows("rollouts", rollouts)

    def resume(self, generation_step: int) -> None:
        self.generation_step = generation_step


def _real_tokens(ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> list[list[int]]:
    """Token ids of each row, those that the mask leaves out left out."""
    return [ids_T[mask_T.bool()].tolist() for ids_T, mask_T in zip(ids_BT, mask_BT, strict=True)]
