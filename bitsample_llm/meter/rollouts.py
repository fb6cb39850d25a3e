"""What trainers that sample show of their rollouts. B rollouts of this process, T tokens.

The rollouts of a generation are held back until all of them have been trained on, because their surprisal is that of the training
forward; what is half-trained when a checkpoint is saved is kept with the records.
"""

import math
import time

import numpy as np
import torch
from accelerate.utils import gather_object

from bitsample_llm.information import believed_reward_bits
from bitsample_llm.meter.hooks import TrainingLosses, wrap
from bitsample_llm.meter.labels import surprisal_bits_of

TOP_K_OF_GENERATE = 50  # of transformers, where nothing says how many


def sampling_settings(trainer) -> dict:
    """How a trainer samples: temperature, truncation, under which prompt, and whether that is the model's own distribution."""
    args = trainer.args
    asked = {name: getattr(args, name, None) for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")}
    asked |= {key: value for key, value in (getattr(args, "generation_kwargs", None) or {}).items() if key in asked}
    model = trainer.accelerator.unwrap_model(trainer.model)
    if asked["top_k"] is None and not getattr(trainer, "use_vllm", False):
        asked["top_k"] = model.generation_config.top_k or TOP_K_OF_GENERATE
    is_some = 0 < (asked["top_k"] or 0) < model.config.get_text_config().vocab_size
    is_truncated = asked["top_p"] not in (None, 1) or is_some or bool(asked["min_p"])
    is_other = getattr(trainer, "draws_under_other_prompt", False)
    is_own = not (is_truncated or is_other) and asked["temperature"] == 1 and asked["repetition_penalty"] in (None, 1)
    return asked | {"is_truncated": is_truncated, "is_own_distribution": is_own, "is_under_other_prompt": is_other}


class GenerationObserver:
    """Records completions, and what they cost where no forward pass was seen; subclasses add what their trainer tells of them."""

    makes_batch = "_generate_and_score_completions"  # the trainer's method that draws the rollouts of a batch
    sees_generation = True  # by the trainer's method `_generate`; else a subclass finds the completions

    def __init__(self, trainer, meter, verifier, num_generations: int):
        self.trainer = trainer
        self.meter, self.totals, self.counter = meter, meter.totals, meter.counter
        self.verifier, self.num_generations = verifier, num_generations
        self.sampling = sampling_settings(trainer)
        self.generation_step = 0
        self._rollouts: list[dict] | None = None  # the generation being trained on, of all processes
        self._logps_B: np.ndarray | None = None  # of this process's part of it
        self._trained_B: np.ndarray | None = None  # which rows of it have been trained on
        self._completion_ids: list[list[int]] = []
        self._num_own_tokens: list[int] = []  # of each completion: what tools answered in it is not the model's
        self._num_turns = 0
        self._num_prompt_tokens = 0
        TrainingLosses(trainer, self.counter.causal_lm, self._record_loss)
        if self.sees_generation:
            wrap(trainer, "_generate", self._around_generate)
        if hasattr(trainer, "_generate_single_turn"):  # trainers without tools have one turn
            wrap(trainer, "_generate_single_turn", self._around_turn)
        wrap(trainer, self.makes_batch, self._around_generation)

    def _around_generate(self, original, prompts):
        counter, passes_before, turns_before = self.counter, self.counter.num_passes, self._num_turns
        counter.generating, started = True, time.perf_counter()
        result = original(prompts)
        counter.generating = False
        prompt_ids, completion_ids = result[:2]
        if counter.num_passes == passes_before and self._num_turns == turns_before:  # a `rollout_func` that calls a server
            counter.count_generation(prompt_ids, [len(ids) for ids in completion_ids], time.perf_counter() - started)
        self._completion_ids = [list(map(int, ids)) for ids in completion_ids]
        own_masks = result[2] if len(result) > 3 else None  # RLOO, which has no tools, returns three things
        self._num_own_tokens = [int(sum(mask)) for mask in own_masks] if own_masks else list(map(len, completion_ids))
        num_tokens = sum(map(len, prompt_ids)) + sum(map(len, completion_ids))
        self._num_prompt_tokens = num_tokens - sum(self._num_own_tokens)
        return result

    def _around_turn(self, original, prompt_ids, *args, **kwargs):
        """One turn of a generation; there are several where the model calls tools."""
        counter, passes_before = self.counter, self.counter.num_passes
        # continuous batching packs the prompts of many rollouts into rows that no formula of ours prices
        is_packed, started = getattr(self.trainer, "use_transformers_continuous_batching", False), time.perf_counter()
        counter.paused = is_packed
        result = original(prompt_ids, *args, **kwargs)
        was_unseen = is_packed or counter.num_passes == passes_before
        counter.paused = False
        self._num_turns += 1
        if was_unseen:
            lengths = [len(ids) for ids in (result[0] if isinstance(result, tuple) else result)]
            counter.count_generation(prompt_ids, lengths, time.perf_counter() - started, with_adapters=is_packed)
        return result

    def _around_generation(self, original, inputs):
        output = original(inputs)
        if self.trainer.model.training:
            self.end_generation()
            self.generation_step += 1
            rollouts = self._counted_rollouts(inputs)
            self._complete(rollouts)
            # the trainer shuffles rows after this; the index goes with them and finds its rollout again
            output["rollout_index"] = torch.arange(len(inputs), device=output["completion_ids"].device)
            self._logps_B = np.full(len(inputs), np.nan)
            self._trained_B = np.zeros(len(inputs), dtype=bool)
            self._rollouts = rollouts
        return output

    def _counted_rollouts(self, inputs: list[dict]) -> list[dict]:
        """Rows of the rollouts just drawn, of all processes, counted."""
        parts = gather_object([(self._own_rollouts(inputs), self._num_prompt_tokens)])
        place = self.meter.place()
        rollouts = [rollout for part, _ in parts for rollout in part]
        for index, rollout in enumerate(rollouts):
            rollout.update(place, sample=index % self.num_generations)
        self.totals.count("samples/total", len(rollouts))
        self.totals.count("tokens/prompt", sum(num_tokens for _, num_tokens in parts))
        self.totals.count("tokens/completion", sum(rollout["num_tokens"] for rollout in rollouts))
        return rollouts

    def _own_rollouts(self, inputs: list[dict]) -> list[dict]:
        """Rows of the rollouts of this process; without a verifier `passed` is null."""
        if self.verifier is not None:
            rows = self.verifier.rows(self.verifier.problem_ids(inputs), self._completion_ids)
        else:
            problem_ids = [example.get("problem_id") for example in inputs]
            texts_and_ends = self.meter.end.texts_and_ends(self._completion_ids)
            rows = [
                {"problem_id": problem_id, "text": text, "ended": ended, "passed": None}
                for problem_id, (text, ended) in zip(problem_ids, texts_and_ends, strict=True)
            ]
        for row, num_tokens in zip(rows, self._num_own_tokens, strict=True):
            row["num_tokens"] = num_tokens
        return rows

    def _complete(self, rollouts: list[dict]) -> None:
        """Add to the rollouts of all processes what the trainer knows of them, and record their groups, or where it has none how many passed."""
        if self.verifier is not None:
            self.totals.observe("group/pass_rate_estimate", [float(rollout["passed"]) for rollout in rollouts])

    def _record_loss(self, loss: float, inputs: dict, logps_BT: torch.Tensor | None) -> None:
        self.totals.observe("train/loss", [loss])
        if self._rollouts is None:  # handed on: later iterations on the same rollouts are not the policy's own
            return
        rows = np.array(inputs["rollout_index"].tolist())
        is_first_B = ~self._trained_B[rows]  # rows that left the batch keep a generation here for its later iterations
        self._trained_B[rows] = True
        if logps_BT is not None and not getattr(self.trainer, "trains_on_other_tokens", False):
            is_scored_B = inputs["completion_mask"].any(dim=1)  # TRL may mask truncated completions: they have no surprisal
            if (own_BT := inputs.get("tool_mask")) is not None:  # what tools answered was not sampled; before it is the prompt
                logps_BT = logps_BT[:, -own_BT.shape[1] :] * own_BT
            logps_B = torch.where(is_scored_B, logps_BT.double().sum(dim=1), torch.nan)
            self._logps_B[rows[is_first_B]] = logps_B.cpu().numpy()[is_first_B]

    def end_step(self) -> None:
        """Hand on the generation if all of it has been trained on."""
        if self._trained_B is not None and self._trained_B.all():  # the same on every process, which all gather or none
            self.end_generation()

    def end_generation(self) -> None:
        """Hand on the rollouts with the surprisal that their training forward showed, null where none was run."""
        if self._rollouts is None:
            return
        rollouts = self.pending_rollouts()
        surprisals = [rollout["surprisal_bits"] for rollout in rollouts if rollout["surprisal_bits"] is not None]
        self.totals.observe("bits/surprisal_per_sample", surprisals)
        if not any(self.sampling[key] for key in ("is_truncated", "is_under_other_prompt")):  # else surprisal is not the sampler's
            self.totals.observe("bits/believed_per_sample", believed_reward_bits(np.array(surprisals)).tolist())
        self._rollouts = self._logps_B = self._trained_B = None  # first, so that an interrupt between hands nothing on twice
        self.meter.add_rows("rollouts", rollouts)

    def pending_rollouts(self, alone: bool = False) -> list[dict]:
        """Rows of the generation that is being trained on, with the surprisals known so far.

        All processes ask together, or the first one `alone`, because another has failed: the others' surprisals stay null.
        """
        if self._rollouts is None:
            return []
        logps = self._logps_B.tolist()
        logps = logps + [np.nan] * (len(self._rollouts) - len(logps)) if alone else gather_object(logps)
        for rollout, logp in zip(self._rollouts, logps, strict=True):
            rollout["surprisal_bits"] = surprisal_bits_of(logp) if math.isfinite(logp) else None
        return self._rollouts

    def resume(self, generation_step: int) -> None:
        """Go on after a generation. The one under way is forgotten: the record holds what was known of it at the checkpoint."""
        self.generation_step = generation_step
        self._rollouts = self._logps_B = self._trained_B = None
