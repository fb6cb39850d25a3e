"""What does a rollout offer at each start? `python -m eval.studies.observation.make_offered FILE`: bits of ever more that is told, in both conventions, by the exact distribution of every step.

One line per start and model: means over 128 held-out problems with the right answer given (`essay`), and over 8 rollouts of each by the policy's own belief (`belief`).
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from bitsample_llm.information import binary_entropy_bits, first_error_entropy_bits, surprisal_bits
from bitsample_llm.observation_bits import believed_observation_bits, first_error_label_bits
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import encode_answer
from bitsample_llm.scoring.sampling import sampled_completions
from bitsample_llm.tasks import load_task

NUM_PROBLEMS, NUM_ROLLOUTS, LONGEST = 128, 8, 12


def step_probabilities(model, prompt_ids: list[int], written_ids: list[int]) -> np.ndarray:
    """(K, V) distribution of each token that was written, after the prompt and those before it."""
    with torch.no_grad():
        logits_KV = model(torch.tensor([prompt_ids + written_ids])).logits[0, len(prompt_ids) - 1 : -1]
    return logits_KV.double().softmax(-1).numpy()


def offered_with_the_answer_given(q_KV: np.ndarray, right: list[int]) -> dict[str, float]:
    """Bits of each observation, by the distributions along the right answer."""
    p_K = np.minimum(q_KV[np.arange(len(right)), right], 1.0)
    return {
        "verdict": binary_entropy_bits(float(p_K.prod())),
        "first_error": first_error_entropy_bits(p_K),
        "first_error_label": first_error_label_bits(q_KV, right),
        "answer": float(surprisal_bits(p_K).sum()),
    }


def means(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each column."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def main() -> None:
    lines = []
    for rung, start in yaml.safe_load((Path(__file__).parent / "starts.yaml").read_text()).items():
        problems = load_task("addition", "reversed", difficulty=start["difficulty"], mark=start["mark"]).problems(
            "heldout", NUM_PROBLEMS, seed=0
        )
        for name, folder in start["models"].items():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
            tokenizer = AutoTokenizer.from_pretrained(folder)
            end = AnswerEnd.of(model, tokenizer)
            torch.manual_seed(0)
            sampled = sampled_completions(model, tokenizer, [p for p in problems for _ in range(NUM_ROLLOUTS)], LONGEST, end=end)
            encoded = [encode_answer(tokenizer, problem, end) for problem in problems]
            given = [offered_with_the_answer_given(step_probabilities(model, *pair), pair[1]) for pair in encoded]
            believed = [
                believed_observation_bits(step_probabilities(model, encoded[number // NUM_ROLLOUTS][0], list(ids)), list(ids))
                for number, ids in enumerate(sampled)
            ]
            lines.append({"rung": rung, "model": name, "essay": means(given), "belief": means(believed)})
    Path(sys.argv[1]).write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
