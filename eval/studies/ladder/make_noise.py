"""Measure how noisy the gradients of SFT and of policy gradients are at one start, without training.

    python -m eval.studies.ladder.make_noise --model_name_or_path data/base --difficulty 3 --mark H --num_train_problems 256 \\
        --groups_per_prompt 2 --num_generations 8 --problem_seed 1 --seed 1 --output_dir runs/noise

Writes into the directory's `noise.json` the noise scale of each arm in units (one label, one group) and in samples (one label, one
rollout). Arms named `_expected` are groups averaged over how many rollouts pass; `exact` ascends mean p. Prompts depend on
`--problem_seed`, what is sampled on `--seed`.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from trl import ModelConfig

from bitsample_llm.options import check_output_dir
from bitsample_llm.records import SCHEMA_VERSION
from bitsample_llm.records.writer import write_json_atomically
from bitsample_llm.scoring.likelihood import encode_answer, longest_answer, padded_batch
from bitsample_llm.scoring.sampling import sampled_completions
from bitsample_llm.tasks import Problem
from bitsample_llm.tasks.authors import uniform_wrong_answer
from bitsample_llm.training.arguments import OneLineParser, RunArguments, one_line_errors
from bitsample_llm.training.loading import load_model_and_tokenizer
from bitsample_llm.training.manifest import git_state, tags_of
from bitsample_llm.training.problems import RunProblems, load_problems
from bitsample_llm.training.run import set_up_process
from eval.studies.ladder import noise

MIN_FAILS = 10  # of fewer failing rollouts a jackknife cannot tell how little they say


@dataclass
class NoiseChoices:
    """How much is sampled, and where the answer goes."""

    output_dir: str = field(default="", metadata={"help": "Folder to write noise.json into."})
    groups_per_prompt: int = field(default=2, metadata={"help": "Groups, and wrong labels, drawn for each prompt."})
    num_generations: int = field(default=8, metadata={"help": "Rollouts in a group."})
    seed: int = field(default=0, metadata={"help": "Seed of the rollouts and the wrong labels."})


def check_noise(study: RunArguments, choices: NoiseChoices) -> None:
    """Refuse what cannot be measured with a ValueError that names the option."""
    if study.num_train_problems < noise.NUM_BLOCKS:
        raise ValueError(f"--num_train_problems must be at least {noise.NUM_BLOCKS}, got {study.num_train_problems}")
    check_output_dir(choices.output_dir)
    if study.dataset is not None:
        raise ValueError("--dataset: this measures the arithmetic tasks alone, leave it out")
    if study.shots:
        raise ValueError("--shots: this measures prompts without examples, leave it out")
    if study.answer_format == "scratchpad":
        raise ValueError("with a scratchpad several completions pass: choose --answer_format plain or reversed")


def score_of(model, prompt_ids: list[int], completions: Sequence[list[int]], pad_token_id: int) -> tuple[float, torch.Tensor]:
    """Summed log-probability in nats of completions of one prompt and its flat gradient (D,), both 0 for no completions."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not completions:
        return 0.0, torch.zeros(sum(parameter.numel() for parameter in parameters))
    batch = padded_batch([prompt_ids + completion for completion in completions], pad_token_id)
    batch = {key: value.to(model.device) for key, value in batch.items()}
    logits_BTV = model(**batch, use_cache=False).logits[:, len(prompt_ids) - 1 : -1].float()
    ids_BT, mask_BT = (batch[key][:, len(prompt_ids) :] for key in ("input_ids", "attention_mask"))
    value = (torch.log_softmax(logits_BTV, dim=-1).gather(-1, ids_BT[..., None])[..., 0] * mask_BT).sum()
    return value.item(), torch.cat([part.flatten() for part in torch.autograd.grad(value, parameters)]).cpu()


@dataclass(frozen=True)
class MeasuredPrompt:
    """Arms of one prompt by name, their basis with its Gram matrix, the log of its exact pass rate, its passing rollouts."""

    arms: dict[str, noise.PromptArm]
    basis_BD: torch.Tensor
    gram_BB: np.ndarray
    log_p: float
    num_passed: int


def measured_prompt(model, tokenizer, problem: Problem, groups: list[list[list[int]]], wrong: list[list[int]]) -> MeasuredPrompt:
    """All arms of one prompt from K groups of G rollouts and K wrong labels, as token ids. Its basis holds grad log p, then the
    summed scores of each group's failing rollouts, then the score of each wrong label.
    """
    prompt_ids, answer_ids = encode_answer(tokenizer, problem)
    k, g = len(groups), len(groups[0])
    failed = [[rollout for rollout in group if rollout != answer_ids] for group in groups]
    spanning = [[answer_ids], *failed, *([label] for label in wrong)]
    logps, basis = zip(*(score_of(model, prompt_ids, part, tokenizer.pad_token_id) for part in spanning), strict=True)
    basis_BD = torch.stack(basis)
    gram_BB = (basis_BD @ basis_BD.T).double().numpy()
    log_p, square, size = logps[0], float(gram_BB[0, 0]), len(gram_BB)
    p, q = noise.pass_and_fail_probability(log_p)
    num_failed = np.array([len(rollouts) for rollouts in failed])
    failing_square = noise.fail_square(num_failed, np.diag(gram_BB)[1 : 1 + k], p / q, square, g)
    arms = {f"sft_{share:g}": noise.label_arm(share, np.eye(size)[1 + k :], gram_BB) for share in noise.LABEL_NOISES}
    arms["exact"] = noise.PromptArm(p * np.eye(size)[0], p**2 * square, p**2 * square)
    for estimator in noise.ESTIMATORS:
        weights = np.pad(noise.group_weights(estimator, g - num_failed, g), ((0, 0), (0, size - 1 - k)))
        arms[estimator] = noise.sampled_arm(weights, gram_BB)
        arms[f"{estimator}_expected"] = noise.expected_arm(estimator, log_p, square, failing_square, g, size)
    return MeasuredPrompt(arms, basis_BD, gram_BB, log_p, k * g - int(num_failed.sum()))


def exact_gradients(model, tokenizer, problems: Sequence[Problem]) -> torch.Tensor:
    """Gradients (2, D) of the mean of log p and of the mean of p over problems, free of sampling noise."""
    total_2D = torch.zeros(2, 1)
    for prompt_ids, answer_ids in (encode_answer(tokenizer, problem) for problem in problems):
        log_p, gradient_D = score_of(model, prompt_ids, [answer_ids], tokenizer.pad_token_id)
        total_2D = total_2D + torch.tensor([[1.0], [math.exp(log_p)]]) * gradient_D
    return total_2D / len(problems)


def measured_prompts(model, tokenizer, problems: RunProblems, choices) -> Iterator[MeasuredPrompt]:
    """The training prompts, one at a time, each with its own groups and wrong labels."""
    k, g = choices.groups_per_prompt, choices.num_generations
    rng = np.random.default_rng(choices.seed)
    torch.manual_seed(choices.seed)
    repeated = [problem for problem in problems.train for _ in range(k * g)]
    rollouts = sampled_completions(model, tokenizer, repeated, longest_answer(tokenizer, problems.train), batch_size=1024)
    way = -1 if problems.task.answer_format == "reversed" else 1
    for index, problem in enumerate(problems.train):
        groups = [rollouts[start : start + g] for start in range(index * k * g, (index + 1) * k * g, g)]
        wrong = [uniform_wrong_answer(problem.answer[::way], problem.difficulty, rng)[::way] for _ in range(k)]
        labels = [tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for text in wrong]
        yield measured_prompt(model, tokenizer, problem, groups, labels)


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
        tally.add(index % noise.NUM_BLOCKS, prompt.arms, prompt.basis_BD.numpy(), prompt.gram_BB)
        log_p.append(prompt.log_p)
        num_passed += prompt.num_passed
    num_failed = len(log_p) * choices.groups_per_prompt * choices.num_generations - num_passed
    trained_2D = torch.tensor(np.stack([tally.gradient("sft_0"), tally.gradient("exact")]))
    heldout_2D = exact_gradients(model, tokenizer, problems.evaluation_sets["heldout"])
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
        check_noise(study, choices)
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
