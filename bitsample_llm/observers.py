"""What a TRL trainer shows of its samples while it trains, taken down without changing anything.

`LabelObserver` sees the labelled sequences of SFT, `RolloutObserver` the completions of GRPO and RLOO. Every private
attribute of TRL that the meter uses is used here. B sequences of this process, T tokens.
"""

from typing import Protocol

import numpy as np
import torch
from accelerate.utils import gather_object

from bitsample_llm.estimators import jackknife_entropy_bits
from bitsample_llm.information import believed_reward_bits, binary_entropy_bits, informative_group_probability
from bitsample_llm.likelihood import answer_logprobs
from bitsample_llm.rewards import RolloutVerifier

NATS_PER_BIT = float(np.log(2))


class Sink(Protocol):
    """Where observations go; the meter is one."""

    def add_rows(self, table: str, rows: list[dict]) -> None:
        """Rows of a records table."""

    def observe(self, key: str, values: list[float]) -> None:
        """Values whose mean over the step is a metric."""

    def count(self, key: str, amount: float) -> None:
        """An amount to add to a cumulative metric."""

    def place(self) -> dict:
        """The step under way."""


class SequenceLogps:
    """Keeps the log-probabilities that the trainer's own fused training forward computes, so that no second pass is needed."""

    def __init__(self, trainer, causal_lm, on_training_loss):
        self._trainer = trainer
        self._on_training_loss = on_training_loss
        self._last: tuple[np.ndarray, dict] | None = None
        causal_lm.register_forward_hook(self._keep, with_kwargs=True)
        wrap(trainer, "compute_loss", self._around_compute_loss)

    def _keep(self, module, args, kwargs, output) -> None:
        if module.training and torch.is_grad_enabled() and getattr(output, "log_probs", None) is not None:
            logps_B = output.log_probs.detach().sum(dim=1)  # ignored positions are zero
            self._last = logps_B.double().cpu().numpy(), kwargs

    def _around_compute_loss(self, original, model, inputs, *args, **kwargs):
        self._last = None
        result = original(model, inputs, *args, **kwargs)
        if self._trainer.model.training and torch.is_grad_enabled():
            loss = result[0] if isinstance(result, tuple) else result
            logps_B, forward_kwargs = self._last or (None, None)
            self._on_training_loss(float(loss.detach()), inputs, logps_B, forward_kwargs)
        return result


def wrap(trainer, name: str, around) -> None:
    """Replace a method of this trainer by `around(original, ...)`.

    Raises:
        AttributeError: naming the method, if this version of TRL does not have it.
    """
    original = getattr(trainer, name, None)
    if original is None:
        raise AttributeError(f"{type(trainer).__name__} has no {name}: this version of TRL is not one the meter knows")
    setattr(trainer, name, lambda *args, **kwargs: around(original, *args, **kwargs))


class LabelObserver:
    """Records the surprisal of every labelled sequence at the step that trains on it."""

    def __init__(self, trainer, causal_lm, sink: Sink):
        self.sink = sink
        self._problem_id_by_tokens = self._tokens_to_problem_ids(trainer.train_dataset)
        SequenceLogps(trainer, causal_lm, self._record)

    @staticmethod
    def _tokens_to_problem_ids(dataset) -> dict[tuple[int, ...], str]:
        if not {"problem_id", "input_ids"} <= set(getattr(dataset, "column_names", None) or ()):
            return {}
        return {tuple(row["input_ids"]): row["problem_id"] for row in dataset.select_columns(["problem_id", "input_ids"])}

    def _record(self, loss: float, inputs: dict, logps_B: np.ndarray | None, forward_kwargs: dict | None) -> None:
        self.sink.observe("train/loss", [loss])
        if logps_B is None:
            return
        ids_BT, mask_BT = forward_kwargs["input_ids"].cpu(), forward_kwargs["attention_mask"].cpu().bool()
        num_labelled = int((forward_kwargs["labels"] != -100).sum())
        rows = []
        for ids, mask, logp in zip(ids_BT, mask_BT, logps_B, strict=True):
            problem_id = self._problem_id_by_tokens.get(tuple(ids[mask].tolist()))
            rows.append({"problem_id": problem_id, "offered_bits": -logp / NATS_PER_BIT, "offered_bits_estimator": "surprisal"})
        parts = gather_object([(rows, int(mask_BT.sum()) - num_labelled, num_labelled)])
        rows = [row for part, _, _ in parts for row in part]
        bits = [row["offered_bits"] for row in rows]
        self.sink.count("tokens/prompt", sum(num_prompt for _, num_prompt, _ in parts))
        self.sink.count("tokens/completion", sum(num_completion for _, _, num_completion in parts))
        self.sink.count("samples/total", len(rows))
        self.sink.count("bits/offered_total", sum(bits))
        self.sink.observe("bits/offered_per_sample", bits)
        self.sink.observe("bits/surprisal_per_sample", bits)
        self.sink.add_rows("prompts", rows)

    def end_step(self) -> None:
        """Nothing is held back: labels are recorded as they are trained on."""

    end_generation = end_step


class RolloutObserver:
    """Records every rollout with its verdict, reward and surprisal, and every group with its pass rate."""

    def __init__(
        self, trainer, causal_lm, sink: Sink, verifier: RolloutVerifier | None, pass_threshold: float, reward_is_verdict: bool
    ):
        self.trainer = trainer
        self.causal_lm = causal_lm
        self.sink = sink
        self.verifier = verifier
        self.pass_threshold = pass_threshold
        self.reward_is_verdict = reward_is_verdict
        self.generation_step = 0
        self._rollouts: list[dict] | None = None  # the generation being trained on, of all processes
        self._logps_B: np.ndarray | None = None  # of this process's part of it
        self._trained_B: np.ndarray | None = None  # which rows of it have been trained on
        self._prompt_tokens = 0
        SequenceLogps(trainer, causal_lm, self._record_loss)
        wrap(trainer, "_generate_and_score_completions", self._around_generation)
        wrap(trainer, "_calculate_rewards", self._around_rewards)

    def _around_rewards(self, original, inputs, prompts, completions, completion_ids):
        rewards_BF = original(inputs, prompts, completions, completion_ids)  # of all processes, groups complete
        if self.trainer.model.training:
            self.end_generation()
            self.generation_step += 1
            local = [self._judged(*parts) for parts in zip(inputs, completions, completion_ids, strict=True)]
            rollouts = [self.sink.place() | rollout for rollout in gather_object(local)]
            for rollout, rewards in zip(rollouts, rewards_BF.tolist(), strict=True):
                rollout["rewards"] = dict(zip(self.trainer.reward_func_names, rewards, strict=True))
                rollout.setdefault("passed", sum(rewards) >= self.pass_threshold)
            self._rollouts = rollouts
            self._record_groups(rollouts)
        return rewards_BF

    def _judged(self, example: dict, completion, ids: list[int]) -> dict:
        rollout = {"problem_id": example.get("problem_id"), "num_tokens": len(ids), "text": str(completion)}
        if self.verifier is None:
            return rollout
        text, ended = self.verifier.text_and_end(ids)
        verdict = self.verifier.verdict(example["problem_id"], text, ended)
        return rollout | {
            "text": text,
            "ended": ended,
            "passed": verdict.passed,
            "reason": verdict.reason,
            "num_steps": len(verdict.steps),
            "num_correct_before_first_error": verdict.num_correct_before_first_error,
        }

    def _around_generation(self, original, inputs):
        output = original(inputs)
        if self.trainer.model.training:
            # the trainer shuffles rows after this; the index goes with them and finds its rollout again
            output["rollout_index"] = torch.arange(len(inputs), device=output["completion_ids"].device)
            self._logps_B = np.full(len(inputs), np.nan)
            self._trained_B = np.zeros(len(inputs), dtype=bool)
            self._prompt_tokens = int(output["prompt_mask"].sum())
        return output

    def _record_loss(self, loss: float, inputs: dict, logps_B: np.ndarray | None, forward_kwargs: dict | None) -> None:
        self.sink.observe("train/loss", [loss])
        if logps_B is not None and self._logps_B is not None:  # later iterations on the same rollouts are not the policy's own
            rows = inputs["rollout_index"].tolist()
            self._logps_B[rows] = logps_B
            self._trained_B[rows] = True

    def _record_groups(self, rollouts: list[dict]) -> None:
        size = self.trainer.num_generations
        groups = [rollouts[start : start + size] for start in range(0, len(rollouts), size)]
        rewards = [[sum(rollout["rewards"].values()) for rollout in group] for group in groups]
        informative = [float(max(group) > min(group)) for group in rewards]
        exact = self._exact_step_pass_rates([group[0]["problem_id"] for group in groups])
        rows = []
        for index, group in enumerate(groups):
            num_passed = sum(rollout["passed"] for rollout in group)
            row = {"problem_id": group[0]["problem_id"], "group_size": size, "num_passed": num_passed}
            if exact is not None:
                pass_rate = min(1.0, float(np.prod(exact[index])))
                row |= {"pass_rate": pass_rate, "step_pass_rates": exact[index].tolist()}
            if not self.reward_is_verdict:
                pass  # what a reward tells that is not the verdict is not measured: null
            elif exact is not None:
                row |= {"offered_bits": binary_entropy_bits(row["pass_rate"]), "offered_bits_estimator": "exact"}
            elif size > 1:
                row |= {"offered_bits": jackknife_entropy_bits(num_passed, size), "offered_bits_estimator": "jackknife"}
            rows.append(row)
        self.sink.add_rows("prompts", rows)
        if exact is not None:
            pass_rates = [row["pass_rate"] for row in rows]
            self.sink.observe("group/pass_rate", pass_rates)
            if self.reward_is_verdict:
                predicted = informative_group_probability(np.array(pass_rates), size)
                self.sink.observe("group/informative_fraction_predicted", predicted.tolist())
        bits = [row["offered_bits"] for row in rows if "offered_bits" in row]
        if bits:
            self.sink.observe("bits/offered_per_sample", bits)
            self.sink.count("bits/offered_total", sum(bits) * size)
        self.sink.observe("group/pass_rate_estimate", [float(rollout["passed"]) for rollout in rollouts])
        self.sink.observe("group/informative_fraction", informative)
        self.sink.count("samples/total", len(rollouts))
        self.sink.count("tokens/completion", sum(rollout["num_tokens"] for rollout in rollouts))

    def _exact_step_pass_rates(self, problem_ids: list[str]) -> list[np.ndarray] | None:
        """Exact pass rate of each step of each problem, given the steps before it.

        None without a verifier, or where sampling is not from the model's own distribution.
        """
        args = self.trainer.args
        own_distribution = args.temperature == 1 and args.top_p == 1 and not args.top_k and args.min_p is None
        if self.verifier is None or not own_distribution:
            return None
        distinct = list(dict.fromkeys(problem_ids))
        problems = [self.verifier.problem_by_id[problem_id] for problem_id in distinct]
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        by_id = dict(zip(distinct, answer_logprobs(model, self.trainer.processing_class, problems), strict=True))
        return [np.exp(by_id[problem_id]) for problem_id in problem_ids]

    def end_step(self) -> None:
        """Hand on the generation if all of it has been trained on."""
        if self._logps_B is not None and self._trained_B.all():  # the same on every process, which all gather or none
            self.end_generation()

    def end_generation(self) -> None:
        """Hand on the rollouts with the surprisal that their training forward showed, null where none was run."""
        if self._rollouts is None or self._logps_B is None:
            return
        parts = gather_object([(self._logps_B.tolist(), self._prompt_tokens)])
        logps = [logp for part, _ in parts for logp in part]
        self.sink.count("tokens/prompt", sum(num_tokens for _, num_tokens in parts))
        surprisals = []
        for index, (rollout, logp) in enumerate(zip(self._rollouts, logps, strict=True)):
            rollout["sample"] = index % self.trainer.num_generations
            rollout["surprisal_bits"] = None
            if not np.isnan(logp):
                rollout["surprisal_bits"] = max(0.0, -logp / NATS_PER_BIT)
                surprisals.append(rollout["surprisal_bits"])
        self.sink.observe("bits/surprisal_per_sample", surprisals)
        self.sink.observe("bits/believed_per_sample", [believed_reward_bits(value) for value in surprisals])
        self.sink.add_rows("rollouts", self._rollouts)
        self._rollouts = self._logps_B = None
