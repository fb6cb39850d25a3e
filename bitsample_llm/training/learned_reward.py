"""Which steps of a rollout are right? A judge learns it from the verifier's verdicts on early rollouts, and gives the reward from then on.

The judge is a linear head on the hidden states of all layers of the model that training began with, at the token that ends each step. It reads a frozen
copy, which costs a forward pass per rollout and does not drift as the policy moves; that and the head are charged to the phase `reward_model`. Every reward and every credit
of `credit.py` is the same formula with another judge. Where steps begin and end is told by the verifier; whether they are right is not.
B rollouts of this process, K steps of a rollout, N steps of several, H hidden units of all layers.
"""

import copy
import json
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

from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.options import option
from bitsample_llm.records import RecordError
from bitsample_llm.records.added_files import JUDGE_FILE
from bitsample_llm.scoring.likelihood import encode_prompt, padded_batch
from bitsample_llm.tasks import Step, Verdict
from bitsample_llm.training.budget import charge_reward_model
from bitsample_llm.training.checkpoint_state import KeepsState, head_tensors, keep_lines, restore_head
from bitsample_llm.training.process_grpo import steps_of_completion

LEARNING_RATE, BATCH = 3e-3, 64  # of the head, by AdamW, and the steps that each of its updates is made on
FIRST_UPDATES, LATER_UPDATES = 200, 10  # once enough rollouts were judged, and after each later generation of which some were
HISTORY = 512  # rollouts that it learns from, the last ones
SMALLEST_SPREAD = 1e-2  # of a hidden unit over steps, below which it is not magnified
NUM_BINS = 10  # of probabilities, in the file
STATE_FILE = "step_judge.safetensors"  # in a checkpoint


@dataclass
class JudgeArguments:
    """Who judges the steps."""

    judge_rollouts: int = option(
        0,
        "Learn from the verifier's verdicts on the steps of so many rollouts to judge steps, and take these judgements for the verdicts that --reward is made of; the rollouts teach the policy "
        "nothing. 0: the verifier judges all rollouts.",
    )
    judge_share: float = option(
        0.0, "Share of each later group that the verifier judges too, so that the judge goes on learning; 0: it is frozen."
    )
    judge_verdicts: str = option(
        "exact", "shuffled: the judge learns verdicts of other steps, as a control.", choices=["exact", "shuffled"]
    )


class StepJudge:
    """The head, how it learns, and the steps that it was lately told of: features (K, H) and verdicts (K) of each rollout."""

    def __init__(self, num_features: int, device):
        self.head = torch.nn.Linear(num_features, 1, device=device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        self.optimizer = torch.optim.AdamW(self.head.parameters(), lr=LEARNING_RATE)
        self.centre_H, self.spread_H = torch.zeros(num_features, device=device), torch.ones(num_features, device=device)
        self.history: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=HISTORY)
        self.num_told = self.num_updates = 0
        self.flops = 0.0  # of asking the head and of its learning, in this process

    @torch.no_grad()
    def probabilities(self, features_NH: torch.Tensor) -> torch.Tensor:
        """That each step is right (N); 0 as long as nothing was learned."""
        if not self.num_updates:
            return torch.zeros(len(features_NH), device=features_NH.device)
        self.flops += 2.0 * features_NH.numel()
        return self.head((features_NH - self.centre_H) / self.spread_H).squeeze(-1).sigmoid()

    def tell(self, features: Sequence[torch.Tensor], correct: Sequence[torch.Tensor]) -> None:
        """Remember features (K, H) of the steps of some rollouts, and the verdicts (K) on them."""
        self.history.extend(zip(features, correct, strict=True))
        self.num_told += len(features)

    def learn(self, num_updates: int) -> None:
        """Take updates by the cross-entropy of the verdicts, each on some of the steps that are remembered."""
        features_NH = torch.cat([features_KH for features_KH, _ in self.history])
        correct_N = torch.cat([correct_K for _, correct_K in self.history])
        if not self.num_updates:
            self.centre_H, self.spread_H = features_NH.mean(dim=0), features_NH.std(dim=0).clamp(min=SMALLEST_SPREAD)
        rng = np.random.default_rng([self.num_told, self.num_updates])  # the same steps on every process, and after a resume
        for _ in range(num_updates):
            drawn = torch.from_numpy(rng.integers(len(correct_N), size=BATCH)).to(features_NH.device)
            self.optimizer.zero_grad()
            logits_N = self.head((features_NH[drawn] - self.centre_H) / self.spread_H).squeeze(-1)
            torch.nn.functional.binary_cross_entropy_with_logits(logits_N, correct_N[drawn]).backward()
            self.optimizer.step()
            self.flops += 6.0 * BATCH * features_NH.shape[1]
        self.num_updates += num_updates

    def save(self, folder: Path) -> None:
        """Write what learning goes on from."""
        tensors = head_tensors(self.head, self.optimizer)
        tensors |= {"scale.centre": self.centre_H, "scale.spread": self.spread_H}
        tensors["scale.counts"] = torch.tensor([self.num_told, self.num_updates])
        for number, (features_KH, correct_K) in enumerate(self.history):
            tensors |= {f"features.{number}": features_KH, f"correct.{number}": correct_K}
        save_file(tensors, folder / STATE_FILE)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote; a RecordError if the checkpoint has none of it."""
        if not (folder / STATE_FILE).is_file():
            raise RecordError(
                f"{folder} has no {STATE_FILE}: it is of a run without a learned reward, resume it without --judge_rollouts"
            )
        tensors = load_file(folder / STATE_FILE, device=str(self.head.weight.device))
        restore_head(self.head, self.optimizer, tensors)
        self.centre_H, self.spread_H = tensors["scale.centre"], tensors["scale.spread"]
        self.num_told, self.num_updates = tensors["scale.counts"].tolist()
        num_remembered = sum(name.startswith("features.") for name in tensors)
        self.history.extend((tensors[f"features.{number}"], tensors[f"correct.{number}"]) for number in range(num_remembered))


class LearnedVerifier(RolloutVerifier):
    """Verdicts in which a judge says of each step whether it is right; a rollout passes if all of its steps are judged right. As long as the judge knows
    nothing, every step is judged wrong, so that no rollout has an advantage.
    """

    def __init__(self, verifier: RolloutVerifier, model, how: JudgeArguments):
        super().__init__(verifier.task, list(verifier.problem_by_id.values()), verifier.tokenizer, verifier.end)
        self.how = how
        self.start = copy.deepcopy(model).eval().requires_grad_(False)  # before a trainer patches its forward pass
        config = self.start.config.get_text_config()
        self.judge = StepJudge((config.num_hidden_layers + 1) * config.hidden_size, self.start.device)
        self.features: list[torch.Tensor] = []  # (K, H) of each rollout that was asked for last, and what was said of its steps
        self.probabilities: list[torch.Tensor] = []
        self.exact: list = []  # and the verifier's own
        self._said: list[tuple[str, bool, Verdict]] = []

    def to(self, device) -> None:
        """Move the judge, and what it reads with, to a device."""
        self.start.to(device)
        self.judge = StepJudge(self.judge.head.in_features, device)

    def judged(self, problem_ids: Sequence[str], completion_ids: Sequence[list[int]]) -> list[tuple[str, bool, Verdict]]:
        """Text, whether it stopped by itself, and the judge's verdict of each completion."""
        exact = super().judged(problem_ids, completion_ids)
        if exact is not self.exact:  # the same list as long as the same is asked
            self.exact = exact
            self.features = self._features(problem_ids, completion_ids)
            self.probabilities = [self.judge.probabilities(features_KH) for features_KH in self.features]
            self._said = [
                (text, ended, judged_verdict(verdict.steps, (of_steps > 0.5).tolist()))
                for (text, ended, verdict), of_steps in zip(exact, self.probabilities, strict=True)
            ]
        return self._said

    @torch.no_grad()
    def _features(self, problem_ids: Sequence[str], completion_ids: Sequence[list[int]]) -> list[torch.Tensor]:
        """(K, H) of each completion: the start's hidden states at the last token of each step, or of the completion for a step without one."""
        prompts = [encode_prompt(self.tokenizer, self.problem_by_id[problem_id].prompt) for problem_id in problem_ids]
        sequences = [[*prompt, *ids] for prompt, ids in zip(prompts, completion_ids, strict=True)]
        pad_token_id = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        batch = {name: value.to(self.start.device) for name, value in padded_batch(sequences, pad_token_id).items()}
        layers = self.start(**batch, output_hidden_states=True, use_cache=False, logits_to_keep=1).hidden_states
        features = []
        for row, (prompt, ids, (_, _, verdict)) in enumerate(zip(prompts, completion_ids, self.exact, strict=True)):
            ends = {
                step: place for place, of_token in enumerate(steps_of_completion(self.end, ids, verdict.steps)) for step in of_token
            }
            places = [len(prompt) + ends.get(step, len(ids) - 1) for step in range(len(verdict.steps))]
            features.append(torch.cat([hidden_BTD[row, places].float() for hidden_BTD in layers], dim=1))
        return features


def judged_verdict(steps: Sequence[Step], correct: Sequence[bool]) -> Verdict:
    """The verdict on a completion with these steps, of which these are judged right."""
    said = tuple(Step(step.start, step.end, is_right) for step, is_right in zip(steps, correct, strict=True))
    return Verdict(all(correct), "correct" if all(correct) else "judged_wrong", said)


class LearnsReward(KeepsState):
    """Mixin for GRPO and RLOO whose reward function, and credit, ask a `LearnedVerifier`: tells its judge the verifier's verdicts."""

    def __init__(self, *args, learned: LearnedVerifier, **kwargs):
        super().__init__(*args, **kwargs)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("--judge_rollouts needs the whole model on every process: use DDP")
        self.learned, self.how = learned, learned.how
        learned.to(self.accelerator.device)
        self.kept.append(learned.judge)
        self.log_file = Path(self.args.output_dir).parent / JUDGE_FILE
        self.counter = None  # a meter's FLOP counter, if one is told what the judge costs

    def charge_to(self, counter) -> None:
        """Tell a meter's FLOP counter what the judge costs from now on."""
        counter.count_other(self.learned.start, "reward_model")
        self.counter = counter

    def _load_optimizer_and_scheduler(self, checkpoint):
        if self.is_world_process_zero():  # what came after the checkpoint is made anew
            last = int(Path(checkpoint).name.split("-")[1]) if checkpoint is not None else 0
            keep_lines(self.log_file, lambda step: step <= last)
        return super()._load_optimizer_and_scheduler(checkpoint)

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return output
        judge, learned = self.learned.judge, self.learned
        is_first = not judge.num_updates
        share = 1.0 if is_first else self.how.judge_share
        first = self.accelerator.process_index * len(inputs)
        own = []
        for row, (features_KH, of_steps, (_, _, verdict)) in enumerate(
            zip(learned.features, learned.probabilities, learned.exact, strict=True)
        ):
            is_told = (first + row) % self.num_generations < math.ceil(share * self.num_generations)
            correct_K = torch.tensor([float(step.correct) for step in verdict.steps])
            own.append((correct_K, of_steps.cpu(), features_KH.cpu() if is_told else None))
        everyone = gather_object(own)
        told = [(features_KH, correct_K) for correct_K, _, features_KH in everyone if features_KH is not None]
        if told:
            self._teach(*zip(*told, strict=True))
            if not is_first:
                judge.learn(LATER_UPDATES)
            elif judge.num_told >= self.how.judge_rollouts:
                judge.learn(FIRST_UPDATES)
                if not self.how.judge_share:
                    judge.history.clear()
        if self.is_world_process_zero():
            self._log([] if is_first else [(correct_K, of_steps) for correct_K, of_steps, _ in everyone])
        charge_reward_model(self.counter, judge.flops)
        judge.flops = 0.0
        return output

    def _teach(self, features: Sequence[torch.Tensor], correct: Sequence[torch.Tensor]) -> None:
        judge = self.learned.judge
        if self.how.judge_verdicts == "shuffled":
            order = torch.from_numpy(np.random.default_rng([self.args.seed, judge.num_told]).permutation(sum(map(len, correct))))
            correct = torch.cat(list(correct))[order].split([len(correct_K) for correct_K in correct])
        device = self.accelerator.device  # of the same rollouts on every process, so that the heads stay alike
        judge.tell([features_KH.to(device) for features_KH in features], [correct_K.to(device) for correct_K in correct])

    def _log(self, rollouts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Append a line to the file, of verdicts (K) and judged probabilities (K) of rollouts: how many steps there are and how many of them are right, in bins
        of the probability; and the mean share of a rollout's steps before the first wrong one, by the verifier and by the judge. Nothing of it before the judge has learned.
        """
        line = {"step": self.state.global_step + 1, "told": self.learned.judge.num_told}
        if rollouts:
            line["true_prefix"] = round(float(np.mean([prefix_share(correct_K) for correct_K, _ in rollouts])), 4)
            line["judged_prefix"] = round(float(np.mean([prefix_share(of_steps > 0.5) for _, of_steps in rollouts])), 4)
            correct_N, of_steps_N = (torch.cat(parts).numpy() for parts in zip(*rollouts, strict=True))
            bins_N = np.minimum((of_steps_N * NUM_BINS).astype(int), NUM_BINS - 1)
            for name, weights in {"steps": None, "right": correct_N, "probability": of_steps_N}.items():
                line[name] = np.bincount(bins_N, weights, minlength=NUM_BINS).round(4).tolist()
        with open(self.log_file, "a") as file:
            file.write(json.dumps(line) + "\n")


def prefix_share(right_K: torch.Tensor) -> float:
    """Share of steps before the first wrong one."""
    return float(right_K.float().cumprod(dim=0).mean())


@cache
def learning_reward(trainer_class: type) -> type:
    """The trainer with a learned reward, `Judging` before its name."""
    return type(f"Judging{trainer_class.__name__}", (LearnsReward, trainer_class), {})
