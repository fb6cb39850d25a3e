"""Measure how noisy the gradients of SFT and of policy gradients are at one start, without training.

    python recipes/gradient_noise.py --model_name_or_path data/base --difficulty 3 --mark H --num_train_problems 256 \\
        --groups_per_prompt 2 --num_generations 8 --problem_seed 1 --seed 1 --output_dir runs/noise

Writes into the directory's `noise.json` each arm's noise scale in units (a label, a group) and in samples (a label, a rollout). Arms named `_expected` are groups
averaged over how many rollouts pass; `exact` ascends mean p. Prompts depend on `--problem_seed`, what is sampled on `--seed`.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from trl import ModelConfig

from bitsample_llm.measure import gradient_noise as noise
from bitsample_llm.options import check_output_dir
from bitsample_llm.records import SCHEMA_VERSION
from bitsample_llm.records.writer import write_json_atomically
from bitsample_llm.scoring.sampling import sampled_completions
from bitsample_llm.tasks.authors import uniform_wrong_answer
from bitsample_llm.training.arguments import OneLineParser, RunArguments, one_line_errors
from bitsample_llm.training.loading import load_model_and_tokenizer
from bitsample_llm.training.manifest import git_state, tags_of
from bitsample_llm.training.problems import RunProblems, load_problems
from bitsample_llm.training.run import set_up_process

MIN_FAILS = 10  # of fewer failing rollouts a jackknife cannot tell how little they say


@dataclass
class NoiseChoices:
    """How much is sampled, and where the answer goes."""

    output_dir: str = field(default="", metadata={"help": "Folder to write noise.json into."})
    groups_per_prompt: int = field(default=2, metadata={"help": "Groups, and wrong labels, drawn for each prompt."})
    num_generations: int = field(default=8, metadata={"help": "Rollouts in a group."})
    seed: int = field(default=0, metadata={"help": "Seed of the rollouts and the wrong labels."})


def check(study: RunArguments, choices: NoiseChoices) -> None:
    """Refuse what cannot be measured with a ValueError that names the option."""
    lowest = {"groups_per_prompt": 2, "num_generations": 2, "seed": 0, "num_train_problems": noise.NUM_BLOCKS}
    for name, bound in lowest.items():
        if (value := (vars(study) | vars(choices))[name]) < bound:
            raise ValueError(f"--{name} must be at least {bound}, got {value}")
    check_output_dir(choices.output_dir)
    if study.dataset is not None:
        raise ValueError("--dataset: this measures the arithmetic tasks alone, leave it out")
    if study.answer_format == "scratchpad":
        raise ValueError("with a scratchpad several completions pass: choose --answer_format plain or reversed")


def measured_prompts(model, tokenizer, problems: RunProblems, choices) -> Iterator[noise.MeasuredPrompt]:
    """The training prompts, one at a time, each with its own groups and wrong labels."""
    k, g = choices.groups_per_prompt, choices.num_generations
    rng = np.random.default_rng(choices.seed)
    torch.manual_seed(choices.seed)
    repeated = [problem for problem in problems.train for _ in range(k * g)]
    max_new_tokens = max(len(tokenizer(problem.answer)["input_ids"]) for problem in problems.train) + 1
    rollouts = sampled_completions(model, tokenizer, repeated, max_new_tokens, batch_size=1024)
    way = -1 if problems.task.answer_format == "reversed" else 1
    for index, problem in enumerate(problems.train):
        groups = [rollouts[start : start + g] for start in range(index * k * g, (index + 1) * k * g, g)]
        wrong = [uniform_wrong_answer(problem.answer[::way], problem.difficulty, rng)[::way] for _ in range(k)]
        labels = [tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for text in wrong]
        yield noise.measured_prompt(model, tokenizer, problem, groups, labels)


def reported(name: str, estimate: noise.NoiseEstimate, num_failed: int, choices: NoiseChoices, num_prompts: int) -> dict:
    """One arm's entry of the file. With a baseline the noise rests on rollouts that failed."""
    if name.startswith(("rloo", "grpo")) and num_failed < MIN_FAILS:
        estimate = replace(estimate, noise_scale=None, interval=None, trace=None, within_fraction=None)
    size = choices.num_generations if name.startswith(noise.ESTIMATORS) else 1
    return asdict(estimate) | {
        "noise_scale_in_samples": estimate.noise_scale and estimate.noise_scale * size,
        "interval_in_samples": estimate.interval and [bound * size for bound in estimate.interval],
        "unit": f"group of {size} rollouts" if size > 1 else "prompt" if name == "exact" else "label",
        "units": num_prompts * (1 if name in ("exact", "sft_0") else choices.groups_per_prompt),
    }


def measure(model, tokenizer, problems: RunProblems, choices: NoiseChoices) -> dict:
    """All that is measured at one start."""
    tally, log_p, num_passed = None, [], 0
    for index, prompt in enumerate(measured_prompts(model, tokenizer, problems, choices)):
        tally = tally or noise.NoiseTally(list(prompt.arms), prompt.basis_BD.shape[1])
        tally.add(index % noise.NUM_BLOCKS, prompt.arms, prompt.basis_BD, prompt.gram_BB)
        log_p.append(prompt.log_p)
        num_passed += prompt.num_passed
    num_failed = len(log_p) * choices.groups_per_prompt * choices.num_generations - num_passed
    trained_2D = torch.stack([tally.gradient("sft_0"), tally.gradient("exact")])
    heldout_2D = noise.exact_gradients(model, tokenizer, problems.evaluation_sets["heldout"])
    cosines = torch.cosine_similarity(trained_2D.double(), heldout_2D.double()).tolist()
    return {
        "mean_pass_rate": float(np.exp(log_p).mean()),
        "mean_surprisal_bits": float(-np.mean(log_p) / math.log(2)),
        "num_prompts": len(log_p),
        "num_passed": num_passed,
        "num_failed": num_failed,
        "coherence": {"log_p": cosines[0], "mean_p": cosines[1]},
        "arms": {arm: reported(arm, tally.estimate(arm), num_failed, choices, len(log_p)) for arm in tally.arms},
    }


def main() -> None:
    set_up_process()
    with one_line_errors():
        parser = OneLineParser((RunArguments, NoiseChoices, ModelConfig))
        study, choices, model_args = parser.parse_args_and_config()
        check(study, choices)
        problems = load_problems(study)
        model, tokenizer = load_model_and_tokenizer(model_args)
        start = study.start or Path(model_args.model_name_or_path).name
        origin = asdict(study) | asdict(choices) | git_state() | {"start": start, "command": " ".join(sys.argv)}
        origin |= {"tags": tags_of(study.tags)}
        measured = origin | measure(model.eval(), tokenizer, problems, choices)
        output_dir = Path(choices.output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        write_json_atomically(output_dir / "noise.json", measured)
        finished = {"schema_version": SCHEMA_VERSION, "state": "finished"}
        write_json_atomically(output_dir / "manifest.json", finished)  # last: a study takes it for done


if __name__ == "__main__":
    main()
