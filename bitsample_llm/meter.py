"""The meter: what a TRL trainer's samples tell, and what they cost, written down as it trains.

    meter = InformationMeter(trainer, output_dir="runs/mine")
    trainer.add_callback(meter)

It only observes. Every use of a private attribute of TRL is in this file. B sequences of this process, T tokens.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback

from bitsample_llm.estimators import jackknife_entropy_bits
from bitsample_llm.flop_counter import FlopCounter
from bitsample_llm.glossary import PHASES, TRAINING_PHASES
from bitsample_llm.information import (
    believed_reward_bits,
    binary_entropy_bits,
    informative_group_probability,
)
from bitsample_llm.likelihood import answer_logprobs
from bitsample_llm.records import RunWriter
from bitsample_llm.rewards import RolloutVerifier
from bitsample_llm.tasks import Problem

NATS_PER_BIT = float(np.log(2))


class InformationMeter(TrainerCallback):
    """Records bits and FLOPs of a TRL trainer into a run directory.

    Args:
        trainer: an SFTTrainer, GRPOTrainer or RLOOTrainer, unmodified.
        output_dir: the run directory to write; see `records.py`.
        manifest: what the run directory should say of the run besides what the trainer knows.
        verifier: judges completions and knows the problems, which makes pass rates exact. Without one, a rollout passes if
            its reward reaches `pass_threshold`.
        evaluation_sets: split -> held-out problems, scored exactly at the start, every `evaluation_flops` and at the end.
        evaluation_flops: training FLOPs between evaluations.
        pass_threshold: reward that counts as a pass where there is no verifier.
        counter: a counter that has been running on this model before the trainer was made; its FLOPs count.

    Raises:
        RecordError: if the run directory holds a run, or cannot be written.
        AttributeError: naming the attribute of TRL that this version of the meter misses.
    """

    def __init__(
        self,
        trainer,
        output_dir: str | Path,
        manifest: dict | None = None,
        verifier: RolloutVerifier | None = None,
        evaluation_sets: dict[str, Sequence[Problem]] | None = None,
        evaluation_flops: float | None = None,
        pass_threshold: float = 1.0,
        counter: FlopCounter | None = None,
    ):
        self.trainer = trainer
        self.run_dir = Path(output_dir)
        self.verifier = verifier
        self.evaluation_sets = evaluation_sets or {}
        self.evaluation_flops = evaluation_flops
        self.pass_threshold = pass_threshold
        self.is_rl = hasattr(trainer, "reward_funcs")
        self.tokenizer = trainer.processing_class
        self.model = trainer.accelerator.unwrap_model(trainer.model)
        self.counter = counter or FlopCounter(self.model, {self.tokenizer.eos_token_id})
        self.is_main = trainer.accelerator.is_main_process
        self._manifest = {
            "regime": "rl" if self.is_rl else "sft",
            "trainer": type(trainer).__name__,
            "world_size": trainer.accelerator.num_processes,
            "device": str(trainer.accelerator.device.type),
            "seed": trainer.args.seed,
            **(manifest or {}),
        }
        self._writer: RunWriter | None = None
        self._resume_step: int | None = None
        self.cumulative: dict[str, float] = defaultdict(float)
        self._counted = {key: np.zeros(len(PHASES)) for key in ("flops", "flops_useful", "seconds")}
        self._step_values: dict[str, list[float]] = defaultdict(list)
        self._step_loss = 0.0
        self._generation_step = 0
        self._pending: dict | None = None  # the generation whose completions are being trained on
        self._sequence_logps: tuple[torch.Tensor, dict] | None = None
        self._next_evaluation_flops = 0.0
        self._last_evaluated_step = -1
        self._start_parameters = [parameter.detach().clone() for parameter in self._trained_parameters()]
        self._clock = time.perf_counter()
        self._attach()
        if self.is_main and not trainer.args.resume_from_checkpoint:  # a taken directory is refused before any training
            self._writer = RunWriter.create(self.run_dir, self._manifest)

    # ---- attaching to the trainer -------------------------------------------------------------------------------------

    def _attach(self) -> None:
        self.counter.causal_lm.register_forward_hook(self._keep_sequence_logps, with_kwargs=True)
        self._wrap("compute_loss", self._around_compute_loss)
        if self.is_rl:
            self._wrap("_generate_and_score_completions", self._around_generation)
            self._wrap("_calculate_rewards", self._around_rewards)
        else:
            self._problem_id_by_tokens = self._tokens_to_problem_ids()

    def _wrap(self, name: str, around) -> None:
        original = getattr(self.trainer, name, None)
        if original is None:
            raise AttributeError(f"{type(self.trainer).__name__} has no {name}: this version of TRL is not one the meter knows")
        setattr(self.trainer, name, lambda *args, **kwargs: around(original, *args, **kwargs))

    def _trained_parameters(self) -> list[torch.Tensor]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _tokens_to_problem_ids(self) -> dict[tuple[int, ...], str]:
        dataset = self.trainer.train_dataset
        if not {"problem_id", "input_ids"} <= set(getattr(dataset, "column_names", None) or ()):
            return {}
        return {tuple(row["input_ids"]): row["problem_id"] for row in dataset.select_columns(["problem_id", "input_ids"])}

    # ---- what a forward, a loss and a generation show ----------------------------------------------------------------

    def _keep_sequence_logps(self, module, args, kwargs, output) -> None:
        if module.training and torch.is_grad_enabled() and getattr(output, "log_probs", None) is not None:
            self._sequence_logps = output.log_probs.detach().sum(dim=1), kwargs  # ignored positions are zero

    def _around_compute_loss(self, original, model, inputs, *args, **kwargs):
        self._sequence_logps = None
        result = original(model, inputs, *args, **kwargs)
        if self.trainer.model.training and torch.is_grad_enabled():
            loss = result[0] if isinstance(result, tuple) else result
            self._step_loss += float(loss.detach())
            if self._sequence_logps is not None:
                logps_B, forward_kwargs = self._sequence_logps
                if self.is_rl:
                    self._pending["logps"][inputs["rollout_index"].tolist()] = logps_B.double().cpu().numpy()
                else:
                    self._record_labels(logps_B.double().cpu().numpy(), forward_kwargs)
        return result

    def _record_labels(self, logps_B: np.ndarray, forward_kwargs: dict) -> None:
        ids_BT, mask_BT = forward_kwargs["input_ids"].cpu(), forward_kwargs["attention_mask"].cpu()
        labelled_B = (forward_kwargs["labels"].cpu() != -100).sum(dim=1)
        rows = []
        for ids, mask, logp in zip(ids_BT, mask_BT.bool(), logps_B, strict=True):
            problem_id = self._problem_id_by_tokens.get(tuple(ids[mask].tolist()))
            rows.append({"problem_id": problem_id, "offered_bits": -logp / NATS_PER_BIT, "offered_bits_estimator": "surprisal"})
        counts = int(mask_BT.sum() - labelled_B.sum()), int(labelled_B.sum())
        gathered = gather_object([(rows, counts)])
        rows = [row for part, _ in gathered for row in part]
        for _, (num_prompt, num_completion) in gathered:
            self.cumulative["tokens/prompt"] += num_prompt
            self.cumulative["tokens/completion"] += num_completion
        bits = [row["offered_bits"] for row in rows]
        self.cumulative["samples/total"] += len(rows)
        self.cumulative["bits/offered_total"] += sum(bits)
        self._step_values["bits/offered_per_sample"] += bits
        self._step_values["bits/surprisal_per_sample"] += bits
        self._add_rows("prompts", rows)

    def _around_generation(self, original, inputs):
        output = original(inputs)
        if self.trainer.model.training:
            # the trainer shuffles rows after this; the index follows them and finds its rollout again
            output["rollout_index"] = torch.arange(len(inputs), device=output["completion_ids"].device)
            self._pending["logps"] = np.full(len(inputs), np.nan)
            self._pending["prompt_tokens"] = int(output["prompt_mask"].sum())
        return output

    def _around_rewards(self, original, inputs, prompts, completions, completion_ids):
        rewards_BF = original(inputs, prompts, completions, completion_ids)  # of all processes, groups complete
        if self.trainer.model.training:
            self._flush_rollouts()
            self._generation_step += 1
            rollouts = []
            for example, ids, completion in zip(inputs, completion_ids, completions, strict=True):
                rollout = {"problem_id": example.get("problem_id"), "num_tokens": len(ids), "text": str(completion)}
                if self.verifier is not None:
                    rollout["text"], rollout["ended"] = self.verifier.text_and_end(ids)
                    verdict = self.verifier.verdict(rollout["problem_id"], rollout["text"], rollout["ended"])
                    rollout |= {
                        "passed": verdict.passed,
                        "reason": verdict.reason,
                        "num_steps": len(verdict.steps),
                        "num_correct_before_first_error": verdict.num_correct_before_first_error,
                    }
                rollouts.append(rollout)
            rollouts = gather_object(rollouts)
            names = self.trainer.reward_func_names
            for rollout, rewards in zip(rollouts, rewards_BF.tolist(), strict=True):
                rollout |= self._place()
                rollout["rewards"] = dict(zip(names, rewards, strict=True))
                rollout.setdefault("passed", sum(rewards) >= self.pass_threshold)
            self._pending = {"rollouts": rollouts}
            self._record_groups(rollouts)
        return rewards_BF

    def _record_groups(self, rollouts: list[dict]) -> None:
        group_size = self.trainer.num_generations
        groups = [rollouts[start : start + group_size] for start in range(0, len(rollouts), group_size)]
        problem_ids = [group[0]["problem_id"] for group in groups]
        passed = np.array([[rollout["passed"] for rollout in group] for group in groups])
        rewards = [[sum(rollout["rewards"].values()) for rollout in group] for group in groups]
        informative = [max(group) > min(group) for group in rewards]
        num_passed = passed.sum(axis=1)
        exact = self._exact_step_pass_rates(problem_ids)
        rows = []
        for index, (problem_id, count) in enumerate(zip(problem_ids, num_passed.tolist(), strict=True)):
            row = {"problem_id": problem_id, "group_size": group_size, "num_passed": count}
            if exact is not None:
                pass_rate = float(np.prod(exact[index]))
                row |= {"pass_rate": pass_rate, "step_pass_rates": exact[index].tolist()}
                row |= {"offered_bits": binary_entropy_bits(pass_rate), "offered_bits_estimator": "exact"}
            elif group_size > 1:
                row |= {"offered_bits": jackknife_entropy_bits(count, group_size), "offered_bits_estimator": "jackknife"}
            rows.append(row)
        self._add_rows("prompts", rows)
        if exact is not None:
            pass_rates = [row["pass_rate"] for row in rows]
            self._step_values["group/pass_rate"] += pass_rates
            predicted = informative_group_probability(np.array(pass_rates), group_size)
            self._step_values["group/informative_fraction_predicted"] += predicted.tolist()
        bits = [row["offered_bits"] for row in rows if "offered_bits" in row]
        self._step_values["bits/offered_per_sample"] += bits
        self.cumulative["bits/offered_total"] += sum(bits) * group_size
        self._step_values["group/pass_rate_estimate"] += passed.ravel().astype(float).tolist()
        self._step_values["group/informative_fraction"] += [float(value) for value in informative]
        self._step_values["dead_groups"] += [float(not value) for value in informative]
        self.cumulative["samples/total"] += len(rollouts)
        self.cumulative["tokens/completion"] += sum(rollout["num_tokens"] for rollout in rollouts)

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
        by_id = dict(zip(distinct, answer_logprobs(self.model, self.tokenizer, problems), strict=True))
        return [np.exp(by_id[problem_id]) for problem_id in problem_ids]

    def _flush_rollouts(self) -> None:
        """Write the rollouts of the last generation, with the surprisal that its training forward showed."""
        if self._pending is None or "logps" not in self._pending:
            return
        parts = gather_object([(self._pending["logps"].tolist(), self._pending["prompt_tokens"])])
        logps = [logp for part, _ in parts for logp in part]
        self.cumulative["tokens/prompt"] += sum(num_tokens for _, num_tokens in parts)
        group_size = self.trainer.num_generations
        for index, (rollout, logp) in enumerate(zip(self._pending["rollouts"], logps, strict=True)):
            rollout["sample"] = index % group_size
            rollout["surprisal_bits"] = None if np.isnan(logp) else max(0.0, -logp / NATS_PER_BIT)
        surprisals = [rollout["surprisal_bits"] for rollout in self._pending["rollouts"]]
        surprisals = [value for value in surprisals if value is not None]
        self._step_values["bits/surprisal_per_sample"] += surprisals
        self._step_values["bits/believed_per_sample"] += list(believed_reward_bits(np.array(surprisals))) if surprisals else []
        self._add_rows("rollouts", self._pending["rollouts"])
        self._pending = None

    def _place(self) -> dict:
        """The step under way and the generation it trains on."""
        return {
            "step": self.trainer.state.global_step + 1,
            "generation_step": self._generation_step if self.is_rl else None,
        }

    def _add_rows(self, table: str, rows: list[dict]) -> None:
        if self._writer is not None:
            self._writer.add_rows(table, [self._place() | row for row in rows])

    # ---- the trainer's events ----------------------------------------------------------------------------------------

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the records (a resumed run counts on from its checkpoint's step) and score the start."""
        if args.resume_from_checkpoint:
            last: dict = {}
            if self.is_main:
                self._writer, last = RunWriter.resume(self.run_dir, state.global_step)
            last = gather_object([last])[0]
            for key, value in last.items():
                if key == "generation_step":
                    self._generation_step = value or 0
                elif key != "step" and value is not None:
                    self.cumulative[key] = value
            self._next_evaluation_flops = self._evaluation_after(self.total_flops)
            self._skip_what_the_counter_saw()
        else:
            self._count(args.device)  # what it saw before there was a trainer
        if self.evaluation_sets and state.global_step == 0:
            self._evaluate(0)
        self._clock = time.perf_counter()

    @property
    def total_flops(self) -> float:
        """Executed training FLOPs of all processes so far; the same number on every process."""
        return sum(self.cumulative[f"flops/{phase}"] for phase in TRAINING_PHASES)

    def _evaluation_after(self, flops: float) -> float:
        return (flops // self.evaluation_flops + 1) * self.evaluation_flops if self.evaluation_flops else float("inf")

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        """The backward pass of the step is over."""
        self.counter.backward_ended()

    def on_substep_end(self, args, state, control, **kwargs):
        """The backward pass of a micro-batch is over."""
        self.counter.backward_ended()

    def on_step_end(self, args, state, control, **kwargs):
        """Sum up the step over processes, evaluate where due, and write the step line."""
        if self.is_rl:
            self._flush_rollouts()
        flops_before = self.total_flops
        self._count(args.device)
        self.cumulative["seconds/total"] += time.perf_counter() - self._clock
        dead = self._step_values.pop("dead_groups", None)
        if dead is not None:
            dead_flops = self.cumulative["flops/dead_group_fraction"] * flops_before
            dead_flops += float(np.mean(dead)) * (self.total_flops - flops_before)
            self.cumulative["flops/dead_group_fraction"] = dead_flops / self.total_flops
        if self.evaluation_sets and self.total_flops >= self._next_evaluation_flops:
            self._evaluate(state.global_step)
        self._write_step(state.global_step)
        self._clock = time.perf_counter()

    def _skip_what_the_counter_saw(self) -> None:
        """Preparations done again by a resumed run were counted in its first life; now they are lost."""
        self._counted = {key: np.array(values) for key, values in self.counter.totals().items()}
        self.cumulative["flops/lost"] += float(self._counted["flops"].sum())

    def _count(self, device) -> None:
        """Add what the counters of all processes saw since the last call to the cumulative numbers."""
        totals = self.counter.totals()
        for key, values in totals.items():
            new = np.array(values) - self._counted[key]
            self._counted[key] = np.array(values)
            if key != "seconds":
                new = self.trainer.accelerator.reduce(torch.tensor(new, device=device), "sum").cpu().numpy()
            for phase, value in zip(PHASES, new, strict=True):
                self.cumulative[f"{key}/{phase}"] += float(value)
        self.cumulative["flops/total"] = self.total_flops

    def _write_step(self, step: int) -> None:
        measured = {key: float(np.mean(values)) for key, values in self._step_values.items() if values}
        if self.is_rl:
            measured["group/num_rollouts"] = len(self._step_values["group/pass_rate_estimate"])
        scheduler = self.trainer.lr_scheduler
        measured["train/learning_rate"] = scheduler.get_last_lr()[0] if scheduler is not None else None
        measured["train/loss"] = self._step_loss if np.isfinite(self._step_loss) else None
        self.cumulative["flops/lost"] += 0.0
        line = {"step": step, "generation_step": self._generation_step if self.is_rl else None, **measured, **self.cumulative}
        self.last_line = line
        if self._writer is not None:
            self._writer.add_step(line)
        self._step_values.clear()
        self._step_loss = 0.0

    def on_save(self, args, state, control, **kwargs):
        """End the segment, so that no file holds rows of both sides of a checkpoint."""
        if self._writer is not None:
            self._writer.flush()

    def on_train_end(self, args, state, control, **kwargs):
        """Score the end, and close the records."""
        if self.evaluation_sets and state.global_step != self._last_evaluated_step:
            self._evaluate(state.global_step)
        if self._writer is not None:
            self._writer.close("finished")

    def close_failed(self, reason: str) -> None:
        """Write into the manifest that the run failed and why; rows so far are kept."""
        if self._writer is not None:
            self._writer.close("failed", reason)

    # ---- evaluation --------------------------------------------------------------------------------------------------

    def _evaluate(self, step: int) -> None:
        """Score all evaluation sets exactly, on the first process."""
        self._last_evaluated_step = step
        self._next_evaluation_flops = self._evaluation_after(self.total_flops)
        if self._writer is None:
            return
        pairs = zip(self._trained_parameters(), self._start_parameters, strict=True)
        update_norm = float(sum(((now.detach() - start) ** 2).sum().double() for now, start in pairs)) ** 0.5
        shared = {"update_norm": update_norm, "total_flops": self.total_flops, "total_seconds": self.cumulative["seconds/total"]}
        for split, problems in self.evaluation_sets.items():
            rows = []
            for problem, logps in zip(problems, answer_logprobs(self.model, self.tokenizer, problems), strict=True):
                log2_BT = logps / NATS_PER_BIT
                row = {"step": step, "split": split, "problem_id": problem.problem_id, **shared}
                rows.append(row | {"log2_pass_rate": float(log2_BT.sum()), "token_log2_probabilities": log2_BT.tolist()})
            self._writer.add_rows("evals", rows)
