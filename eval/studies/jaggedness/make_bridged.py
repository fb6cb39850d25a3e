"""GRPO whose verdict is on an episode of several problems, or that reads a label now and then.

    python eval/studies/jaggedness/make_bridged.py --config eval/studies/jaggedness/make_bridged.yaml --episode together --episode_length 4 \
        --model_name_or_path FOLDER --dataset problems.jsonl --verifier numeric --output_dir runs/bridged

An episode passes if all of its problems do. `apart`: the i-th rollouts of K neighbouring prompts of a batch are an episode, so each answer chooses its strategy anew. `together`: the sign
that a rollout begins with is put behind K - 1 more prompts, the same for its whole group, and answers to these are drawn; they are charged and not trained on. B rollouts in groups of G.
"""

from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, ModelConfig

from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.options import option
from bitsample_llm.scoring.likelihood import encode_answer, padded_batch
from bitsample_llm.training.arguments import OneLineParser, RunArguments, one_line_errors
from bitsample_llm.training.drawn_before import TakesDrawn, drawn_rollouts
from bitsample_llm.training.manifest import run_manifest
from bitsample_llm.training.objectives import completion_logps
from bitsample_llm.training.rewards import VerdictReward
from bitsample_llm.training.rl_trainer import training_row
from bitsample_llm.training.run import set_up_process, train_and_record
from bitsample_llm.training.started import started


@dataclass
class BridgeArguments:
    """What is not GRPO's."""

    episode: str = option(
        "apart", "Whether each answer of an episode chooses its strategy anew, or the first for all.", choices=["apart", "together"]
    )
    episode_length: int = option(1, "Problems of an episode; all of them must pass.")
    labels_per_rollout: float = option(0.0, "Labels per rollout. A label weighs as much as a rollout with an advantage of 1.")


class Bridged(TakesDrawn, GRPOTrainer):
    """GRPO with rewards of episodes, and labels among its rollouts; one process."""

    trains_on_other_tokens = True  # the meter asks: labels are among what is trained on

    def __init__(self, *args, how: BridgeArguments, verifier: RolloutVerifier, **kwargs):
        super().__init__(*args, **kwargs)
        groups = self.args.per_device_train_batch_size // self.num_generations
        if how.episode == "apart" and groups % how.episode_length:
            raise ValueError(f"--episode_length {how.episode_length} does not divide the {groups} prompts of a batch")
        self.how, self.verifier = how, verifier
        self.rng = np.random.default_rng([self.args.seed, 0xB41D6E])
        self.labels_due = 0.0

    def _further_passes(self, inputs, completion_ids) -> list[float]:
        """Whether each rollout's strategy passes the other problems of its episode, too."""
        group, num_more = self.num_generations, self.how.episode_length - 1
        more_GK = self.rng.integers(len(self.train_dataset), size=(len(inputs) // group, num_more)).tolist()
        judged = self.verifier.judged([example["problem_id"] for example in inputs], completion_ids)
        went_on = [row for row, (_, _, verdict) in enumerate(judged) if verdict.passed]  # the others have failed, whatever follows
        asked = [(row, self.train_dataset[other]) for row in went_on for other in more_GK[row // group]]
        signs = [completion_ids[row][:1] for row, _ in asked]
        texts = [example["prompt"] + sign for (_, example), sign in zip(asked, self._tokenizer.batch_decode(signs), strict=True)]
        answers = [sign + rest for sign, rest in zip(signs, drawn_rollouts(self, texts) if texts else [], strict=True)]
        passed_B = np.ones(len(inputs))
        for (row, _), (_, _, verdict) in zip(
            asked, self.verifier.judged([example["problem_id"] for _, example in asked], answers), strict=True
        ):
            passed_B[row] *= verdict.passed
        return passed_B.tolist()

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        rewards_B1 = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        length = self.how.episode_length
        if not self.model.training or length == 1:
            return rewards_B1
        if self.how.episode == "together":
            return rewards_B1 * rewards_B1.new_tensor(self.further_passes)[:, None]
        passed = rewards_B1.view(-1, length, self.num_generations).prod(dim=1, keepdim=True)
        return passed.expand(-1, length, -1).reshape(-1, 1)

    def _generate_and_score_completions(self, inputs):
        if self.model.training and self.how.episode == "together" and self.how.episode_length > 1:
            drawn = drawn_rollouts(self, [example["prompt"] for example in inputs])
            self.further_passes = self._further_passes(inputs, drawn)
            with self.taking(drawn):
                return super()._generate_and_score_completions(inputs)
        return super()._generate_and_score_completions(inputs)

    def compute_loss(self, model, inputs, *args, **kwargs):
        """TRL's loss, a sum over the tokens of the batch over their number, and that of the labels in the same unit."""
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if not self.model.training:
            return loss
        self.labels_due += self.how.labels_per_rollout * len(inputs["advantages"])
        num = int(self.labels_due)
        self.labels_due -= num
        if not num:
            return loss
        problems = list(self.verifier.problem_by_id.values())
        rows = [
            encode_answer(self._tokenizer, problems[row], self.verifier.end) for row in self.rng.integers(len(problems), size=num)
        ]
        labels = {}
        for name, texts, on_left in (
            ("prompt", [prompt for prompt, _ in rows], True),
            ("completion", [answer for _, answer in rows], False),
        ):
            batch = padded_batch(texts, self._tokenizer.pad_token_id, on_left)
            labels |= {f"{name}_ids": batch["input_ids"], f"{name}_mask": batch["attention_mask"]}
        return loss - completion_logps(self, model, labels).sum() / inputs["num_items_in_batch"]


def main() -> None:
    set_up_process()
    with one_line_errors():
        study, choices, args, model_args = OneLineParser(
            (RunArguments, BridgeArguments, GRPOConfig, ModelConfig)
        ).parse_args_and_config()
        start = started(study, args, model_args)
        trainer = Bridged(
            how=choices,
            verifier=start.verifier,
            model=start.model,
            reward_funcs=[VerdictReward(start.verifier)],
            args=args,
            train_dataset=Dataset.from_list(list(map(training_row, start.problems.train))),
            processing_class=start.tokenizer,
        )
        manifest = run_manifest(study, args, model_args, start.problems, choices=vars(choices))
    is_verdict = choices.episode_length == 1
    train_and_record(trainer, study, start.problems, manifest, start.checkpoint, start.verifier, reward_is_verdict=is_verdict)


if __name__ == "__main__":
    main()
