"""How often is a vote right, by the model's own answers? `python -m eval.studies.inference_scaling.make_votes FILE`: at each start of votes.yaml, 64 rollouts of each of 64 held-out problems, and their votes of four."""

import json
import sys
from pathlib import Path

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import exact_pass_rates
from bitsample_llm.scoring.sampling import sampled_completions
from bitsample_llm.tasks import load_task
from bitsample_llm.training.votes import vote_rewards

NUM_PROBLEMS, NUM_ROLLOUTS, SIZE = 64, 64, 4


def main() -> None:
    lines = []
    starts = yaml.safe_load((Path(__file__).parent / "votes.yaml").read_text())["starts"]
    for rung, start in starts.items():
        task = load_task("addition", "reversed", difficulty=start["difficulty"], mark=start["mark"])
        problems = task.problems("heldout", NUM_PROBLEMS, seed=0)
        repeated = [problem for problem in problems for _ in range(NUM_ROLLOUTS)]
        for name, folder in start["models"].items():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
            tokenizer = AutoTokenizer.from_pretrained(folder)
            torch.manual_seed(0)
            verifier = RolloutVerifier(task, problems, tokenizer, AnswerEnd.of(model, tokenizer))
            completions = sampled_completions(model, tokenizer, repeated, 5, end=verifier.end)
            judged = verifier.judged([problem.problem_id for problem in repeated], completions)
            rewards_BF = torch.tensor([[float(verdict.passed)] for _, _, verdict in judged])
            answers = [(text, ended) for text, ended, _ in judged]
            rates = {vote: float(vote_rewards(rewards_BF, answers, vote, SIZE).mean()) for vote in ("best", "majority")}
            exact = exact_pass_rates(model, tokenizer, problems).tolist()
            lines.append({"rung": rung, "model": name, "exact": exact, "passed": float(rewards_BF.mean()), **rates})
    Path(sys.argv[1]).write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
