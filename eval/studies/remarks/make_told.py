"""Does a start read remarks, and what do they tell? `python -m eval.studies.remarks.make_told FILE`: a line per start and model, of its own rollouts on held-out problems, before training.

For each kind of remark: the exact probability of the right answer after a rollout that failed and the remark on it (`p_right`, mean; `log2_p_right`, mean of logs; `bare` without either); bits per rollout by
the essay's convention (`offered`); the divergence of the prediction after the remark from the bare one, summed over the rollout's own tokens, which is what SDPO learns from, as the model reads it
(`in_context`) and as a perfect reader would (`ideal`); and its part at the first error (`at_error`).
"""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from bitsample_llm.information import binary_entropy_bits, first_error_entropy_bits, surprisal_bits
from bitsample_llm.observation_bits import first_error_label_bits
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import encode_answer, exact_pass_rates
from bitsample_llm.scoring.sampling import sampled_completions
from bitsample_llm.tasks import load_task
from bitsample_llm.tasks.remarks import KINDS, first_error, remark

NUM_PROBLEMS, NUM_ROLLOUTS, LONGEST = 128, 4, 5


def log2_predictions(model, prompt_ids: list[int], written_ids: list[int]) -> np.ndarray:
    """(K, V) log2 of the distribution of each token that was written, after the prompt and those before it."""
    with torch.no_grad():
        logits_KV = model(torch.tensor([prompt_ids + written_ids])).logits[0, len(prompt_ids) - 1 : -1]
    return logits_KV.double().log_softmax(-1).numpy() / np.log(2)


def ideal_bits(kind: str, bare_KV: np.ndarray, written: list[int], right: list[int], place: int | None) -> float:
    """Divergence, summed over the rollout's tokens, of a perfect reader's prediction from the bare one: what was right is certain, what is told is certain, what is known to be wrong is left out,
    and after the error only who was told the whole answer knows more.
    """
    p_K = np.exp2(bare_KV[np.arange(len(written)), written])
    if place is None:
        return float(surprisal_bits(p_K).sum())
    if kind == "verdict":
        return float(-np.log2(1 - p_K.prod()))  # of the whole rollout: that it was another one
    before = float(surprisal_bits(p_K[:place]).sum())
    told = [*range(place, min(len(written), len(right)))] if kind == "answer" else [place]
    if kind == "place":
        return before - float(np.log2(1 - p_K[place]))
    return before - float(sum(bare_KV[at, right[at]] for at in told))


def told_by(kind: str, model, tokenizer, problems, encoded, rollouts, end) -> dict[str, float]:
    """Means over rollouts of what a remark of this kind tells."""
    asked, in_context, at_error, ideal = [], [], [], []
    for number, written in enumerate(rollouts):
        problem, (prompt_ids, right) = problems[number // NUM_ROLLOUTS], encoded[number // NUM_ROLLOUTS]
        text, ended = end.texts_and_ends([written])[0]
        context = problem.prompt + text + remark(kind, text, problem.answer, ended)
        bare_KV = log2_predictions(model, prompt_ids, written)
        read_KV = log2_predictions(model, tokenizer(context)["input_ids"], written)
        bits_K = (np.exp2(read_KV) * (read_KV - bare_KV)).sum(axis=1)
        place = first_error(text, problem.answer, ended)
        in_context.append(bits_K.sum())
        at_error.append(0.0 if place is None else bits_K[place])
        ideal.append(ideal_bits(kind, bare_KV, written, right, place))
        if place is not None:
            asked.append(dataclasses.replace(problem, prompt=context, problem_id=f"{problem.problem_id} {number}"))
    p_right = exact_pass_rates(model, tokenizer, asked, end=end)
    read = {"p_right": p_right, "log2_p_right": np.log2(p_right), "in_context": in_context, "at_error": at_error, "ideal": ideal}
    return {name: float(np.mean(values)) for name, values in read.items()}


def offered_bits(model, encoded) -> dict[str, float]:
    """Bits per rollout of each kind of remark with the right answer given, mean over problems."""
    told = {kind: [] for kind in KINDS}
    for prompt_ids, right in encoded:
        q_KV = np.exp2(log2_predictions(model, prompt_ids, right))
        p_K = np.minimum(q_KV[np.arange(len(right)), right], 1.0)
        bits = (
            binary_entropy_bits(float(p_K.prod())),
            first_error_entropy_bits(p_K),
            first_error_label_bits(q_KV, right),
            float(surprisal_bits(p_K).sum()),
        )
        for kind, value in zip(KINDS, bits, strict=True):
            told[kind].append(value)
    return {kind: float(np.mean(values)) for kind, values in told.items()}


def main() -> None:
    lines = []
    for start in yaml.safe_load((Path(__file__).parent / "starts.yaml").read_text()).values():
        task = load_task("addition", "reversed", difficulty=start["difficulty"], mark=start["mark"])
        problems, folder = task.problems("heldout", NUM_PROBLEMS, seed=0), start["model_name_or_path"]
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        end = AnswerEnd.of(model, tokenizer)
        encoded = [encode_answer(tokenizer, problem, end) for problem in problems]
        torch.manual_seed(0)
        drawn = sampled_completions(model, tokenizer, [p for p in problems for _ in range(NUM_ROLLOUTS)], LONGEST, end=end)
        rollouts, bare = [list(ids) for ids in drawn], exact_pass_rates(model, tokenizer, problems, end=end)
        kinds = {kind: told_by(kind, model, tokenizer, problems, encoded, rollouts, end) for kind in KINDS}
        about = {
            "rung": start["tags"]["rung"],
            "model": start["tags"]["model"],
            "bare": float(bare.mean()),
            "log2_bare": float(np.log2(bare).mean()),
        }
        lines.append(about | {"offered": offered_bits(model, encoded), "remarks": kinds})
    Path(sys.argv[1]).write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
