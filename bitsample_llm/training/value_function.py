"""Will this rollout pass? A value function learns it, token by token, from the policy's own rollouts, and ends those that hardly can.

It is a linear head on the hidden states that generation computes anyway, so it costs no forward pass; what its learning costs is charged to the phase
`reward_model`. B rollouts of this process, T tokens, D hidden units.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from transformers import StoppingCriteria

from bitsample_llm.options import option
from bitsample_llm.records import RecordError
from bitsample_llm.training.budget import charge_reward_model
from bitsample_llm.training.checkpoint_state import KeepsState, head_tensors, restore_head
from bitsample_llm.training.early_stop import StopsEarly
from bitsample_llm.training.rewards import passed_rollouts
from bitsample_llm.training.value_record import ValueRecord

LEARNING_RATE, NUM_UPDATES, BATCH = 3e-2, 10, 32  # of the head, by Adam, after each generation, each on so many rollouts
HISTORY = 512  # rollouts that the head learns from and a threshold is chosen by
FEWEST_PASSES = 8  # among them, below which no rollout is ended: nothing is known yet of what passes
MOST_LOST = 0.05  # of the passes: an ended rollout counts as a fail, and a right one that does is learned from wrongly
CANDIDATES = 64  # thresholds that are compared
TRAINING_PASSES = 3  # a training forward and its backward cost this many times a forward pass over the same tokens
STATE_FILE = "value_function.safetensors"  # in a checkpoint


@dataclass
class ValueArguments:
    """What the value function is used for."""

    stop_at_low_value: bool = option(
        False,
        "End rollouts whose probability of passing, by a head that learns it as training goes on, falls below a threshold; they count as fails.",
    )
    value_baseline: bool = option(False, "Reward minus that probability, token by token, in place of the group's advantage.")
    value_run_on: float = option(
        0.25, "Share of each group that is never ended, from which the head learns and the threshold is chosen."
    )
    stop_as_others: bool = option(
        False,
        "Control for --stop_at_low_value: end a rollout where the head would have ended another one, so that chance saves as many tokens.",
    )


def ends_after(values: np.ndarray, threshold: float) -> int | None:
    """Tokens (of T values before them) of a rollout that ends at its first value below a threshold; None where there is none."""
    below = values < threshold
    return int(below.argmax()) + 1 if below.any() else None


def best_threshold(values: Sequence[np.ndarray], passed: Sequence[bool], num_prompt_tokens: int, group_size: int) -> float:
    """The threshold at which an informative group is expected to cost least, by rollouts that ran on: values (T) of each before its tokens were
    drawn, and whether it passed; 0, which ends nothing, where that is cheapest or where too few passed. No threshold ends more than `MOST_LOST` of the passes.

    With threshold t a rollout ends at its first value below t and fails. A group of G costs (P + L) (1 / q + 3) per rollout: P prompt tokens, L the mean number of tokens drawn, 3 for
    the update on it, and q = 1 - (1 - k)^G - p^G the probability that it holds a pass that was kept and a rollout that would have failed by itself: passes that are made to fail make no group
    informative. p is the share that passed, k the share that passed and was kept.
    """
    passed = np.asarray(passed, dtype=bool)
    if passed.sum() < FEWEST_PASSES:
        return 0.0
    lowest = np.array([of_rollout.min() for of_rollout in values])
    costs = {}
    for threshold in (0.0, *np.quantile(lowest, np.linspace(0, 1, CANDIDATES))):
        lengths = [ends_after(of_rollout, threshold) or len(of_rollout) for of_rollout in values]
        kept = (passed & (lowest >= threshold)).mean()
        if kept < (1 - MOST_LOST) * passed.mean():
            continue
        informative = 1 - (1 - kept) ** group_size - passed.mean() ** group_size
        cost = (num_prompt_tokens + np.mean(lengths)) * (1 / informative + TRAINING_PASSES) if informative > 0 else math.inf
        costs[float(threshold)] = float(cost)
    return min(costs, key=costs.get)  # of equal ones the lowest, which comes first


class ValueFunction:
    """The head, how it learns, and the rollouts that it was lately told of, with the hidden states (T, D) before their tokens."""

    def __init__(self, hidden_size: int, device):
        self.head = torch.nn.Linear(hidden_size, 1, device=device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        self.optimizer = torch.optim.Adam(self.head.parameters(), lr=LEARNING_RATE)
        self.history: deque[tuple[torch.Tensor, bool]] = deque(maxlen=HISTORY)
        self.num_told = 0
        self.flops = 0.0  # of asking the head and of its learning, in this process

    @torch.no_grad()
    def values(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Probability of passing (N)."""
        self.flops += 2.0 * hidden_ND.numel()
        return self.head(hidden_ND.float()).squeeze(-1).sigmoid()

    def tell(self, features: Sequence[torch.Tensor], passed: Sequence[bool]) -> None:
        """Remember hidden states (T, D) of rollouts that ran on, and their verdicts."""
        self.history.extend(zip(features, passed, strict=True))
        self.num_told += len(features)

    def learn(self) -> None:
        """Take a few updates by the cross-entropy of the verdicts, each at every token of some rollouts that are remembered."""
        rng = np.random.default_rng(self.num_told)  # the same rollouts on every process, and after a resume
        for _ in range(NUM_UPDATES):
            drawn = [self.history[index] for index in rng.integers(len(self.history), size=BATCH)]
            hidden_ND = torch.cat([of_rollout for of_rollout, _ in drawn]).float()
            passed_N = torch.cat([torch.full((len(of_rollout),), float(passed)) for of_rollout, passed in drawn]).to(
                hidden_ND.device
            )
            self.optimizer.zero_grad()
            logits_N = self.head(hidden_ND).squeeze(-1)
            torch.nn.functional.binary_cross_entropy_with_logits(logits_N, passed_N).backward()
            self.optimizer.step()
            self.flops += 6.0 * hidden_ND.numel()

    def threshold(self, num_prompt_tokens: int, group_size: int) -> float:
        """`best_threshold` by what is remembered, as the head sees it now."""
        values = [self.values(of_rollout).cpu().numpy() for of_rollout, _ in self.history]
        return best_threshold(values, [passed for _, passed in self.history], num_prompt_tokens, group_size)

    def ends_of_others(self, threshold: float, num: int, process: int = 0) -> list[float]:
        """After how many tokens the threshold ends `num` rollouts that are drawn from those remembered; infinitely many where it does not."""
        rng = np.random.default_rng([self.num_told, process])  # the same after a resume
        drawn = [self.history[index][0] for index in rng.integers(len(self.history), size=num)]
        return [ends_after(self.values(of_rollout).cpu().numpy(), threshold) or math.inf for of_rollout in drawn]

    def save(self, folder: Path) -> None:
        """Write what learning goes on from."""
        tensors = head_tensors(self.head, self.optimizer) | {"told": torch.tensor([self.num_told])}
        tensors |= {f"history.{number}.{int(passed)}": of_rollout for number, (of_rollout, passed) in enumerate(self.history)}
        save_file(tensors, folder / STATE_FILE)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote; a RecordError if the checkpoint has none of it."""
        if not (folder / STATE_FILE).is_file():
            raise RecordError(f"{folder} has no {STATE_FILE}: it is of a run without a value function, resume it without")
        tensors = load_file(folder / STATE_FILE, device=str(self.head.weight.device))
        restore_head(self.head, self.optimizer, tensors)
        self.num_told = int(tensors["told"])
        remembered = sorted((name for name in tensors if name.startswith("history.")), key=lambda name: int(name.split(".")[1]))
        self.history.extend((tensors[name], name.endswith(".1")) for name in remembered)


class StopAtLowValue(StoppingCriteria):
    """Notes the hidden state and the value before each token of a generation, and ends rows below a threshold but for those that `run_on_B` names;
    with `ends_after_B` after so many tokens instead.
    """

    def __init__(
        self, model, value_function: ValueFunction, threshold: float, run_on_B: Sequence[bool], ends_after_B: Sequence[float] = ()
    ):
        self.value_function, self.threshold, self.ends_after_B = value_function, threshold, ends_after_B
        self.run_on_B = torch.tensor(run_on_B)
        self.features: list[list[torch.Tensor]] = [[] for _ in run_on_B]
        self.values: list[list[float]] = [[] for _ in run_on_B]
        self._numbers = torch.arange(len(run_on_B))
        self._hidden_BD: torch.Tensor | None = None
        causal_lm = model.get_base_model() if hasattr(model, "get_base_model") else model  # without adapters around it
        self._hook = causal_lm.base_model.register_forward_hook(self._note)

    def _note(self, module, args, output) -> None:
        self._hidden_BD = output.last_hidden_state[:, -1].detach()

    def tell_rows(self, numbers: torch.Tensor) -> None:
        """Which rows of the generation are still in the batch, in order."""
        self._numbers = numbers.cpu()

    def __call__(self, input_ids, scores, **kwargs) -> torch.BoolTensor:
        values_B = self.value_function.values(self._hidden_BD)
        for number, hidden_D, value in zip(self._numbers.tolist(), self._hidden_BD, values_B.tolist(), strict=True):
            self.features[number].append(hidden_D)
            self.values[number].append(value)
        ends_B = values_B < self.threshold
        if self.ends_after_B:
            ends_B = torch.tensor(
                [len(self.values[n]) >= self.ends_after_B[n] for n in self._numbers.tolist()], device=values_B.device
            )
        return ends_B & ~self.run_on_B[self._numbers].to(values_B.device)

    def detach(self) -> None:
        """Listen to the model no longer."""
        self._hook.remove()


class LearnsValue(StopsEarly, KeepsState):
    """Mixin for GRPO and RLOO: learns the value function from rollouts that run on, ends others by it, or takes it for a baseline."""

    def __init__(self, *args, value: ValueArguments, **kwargs):
        super().__init__(*args, **kwargs)
        self._check_stops_early("a value function")
        self.value = value
        config = self.accelerator.unwrap_model(self.model).config.get_text_config()
        self.value_function = ValueFunction(config.hidden_size, self.accelerator.device)
        self.kept.append(self.value_function)
        self.num_run_on = math.ceil(value.value_run_on * self.num_generations)
        self.stop: StopAtLowValue | None = None
        self.counter = None  # a meter's FLOP counter, if one is told what the head costs
        self.record: ValueRecord | None = None  # of what the head said, if one is kept

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        try:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        finally:
            if self.stop is not None:
                self.stop.detach()

    def _criterion(self, prompt_ids) -> StopAtLowValue | None:
        if not self.model.training:
            return None
        threshold = 0.0
        if self.value.stop_at_low_value and self.value_function.history:
            length = round(np.mean([len(ids) for ids in prompt_ids]))
            threshold = max(gather_object([self.value_function.threshold(length, self.num_generations)]))  # prompts differ
        first = self.accelerator.process_index * len(prompt_ids)
        num_run_on = self.num_run_on if threshold > 0 else self.num_generations
        run_on_B = [(first + row) % self.num_generations < num_run_on for row in range(len(prompt_ids))]
        ends_after_B = []
        if self.value.stop_as_others and threshold > 0:
            ends_after_B = self.value_function.ends_of_others(threshold, len(prompt_ids), self.accelerator.process_index)
        model = self.accelerator.unwrap_model(self.model_wrapped)
        self.stop = StopAtLowValue(model, self.value_function, threshold, run_on_B, ends_after_B)
        return self.stop

    def _calculate_rewards(self, *args, **kwargs):
        rewards_BF = super()._calculate_rewards(*args, **kwargs)  # of all processes
        self._passed = passed_rollouts(rewards_BF).tolist()
        return rewards_BF

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return output
        first = self.accelerator.process_index * len(inputs)
        passed = self._passed[first : first + len(inputs)]
        if self.value.value_baseline:
            output["advantages"] = self._token_advantages(output, passed)
        ran_on = self.stop.run_on_B.nonzero().flatten().tolist()
        own = [(torch.stack(self.stop.features[row]).cpu(), self.stop.values[row], passed[row]) for row in ran_on]
        features, values, verdicts = zip(*gather_object(own), strict=True)
        if self.record is not None and self.accelerator.is_main_process:
            ends = [ends_after(np.array(of_rollout), self.stop.threshold) for of_rollout in values]
            self.record.add(self.state.global_step, self.stop.threshold, list(zip(values, ends, verdicts, strict=True)))
        self.value_function.tell([of_rollout.to(self.accelerator.device) for of_rollout in features], verdicts)
        self.value_function.learn()  # of the same rollouts on every process, so that the heads stay alike
        charge_reward_model(self.counter, self.value_function.flops)
        self.value_function.flops = 0.0
        return output

    def keep_record(self, record: ValueRecord) -> None:
        """Note what the head says of rollouts that run on, before it is told how they ended."""
        self.record = record
        self.kept.append(record)

    def _token_advantages(self, output, passed: Sequence[bool]) -> torch.Tensor:
        """(B, T) reward minus the value before each token, 0 where there is padding."""
        advantages_BT = torch.zeros(output["completion_mask"].shape, device=output["advantages"].device)
        for row, (values, is_pass) in enumerate(zip(self.stop.values, passed, strict=True)):
            advantages_BT[row, : len(values)] = float(is_pass) - torch.tensor(values)
        return advantages_BT


@cache
def learning_value(trainer_class: type) -> type:
    """The trainer with a value function, `Valuing` before its name."""
    return type(f"Valuing{trainer_class.__name__}", (LearnsValue, trainer_class), {})
