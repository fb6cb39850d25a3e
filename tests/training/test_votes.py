"""Votes: whose verdict is the reward, what the record still says of a rollout, two processes, and what does not go together."""

import numpy as np
import pytest
import torch
from conftest import BASE
from test_processes import launched
from test_real_models import ran

from bitsample_llm.training.objectives import ReinforceTrainer
from bitsample_llm.training.votes import vote_rewards

OPTIONS = {
    "mark": "C",
    "difficulty": 2,
    "num_train_problems": 64,
    "num_heldout_problems": 8,
    "max_steps": 3,
    "disable_tqdm": "true",
}
BATCH = {"per_device_train_batch_size": 16, "num_generations": 8, "max_completion_length": 5, "learning_rate": 1e-5}


def test_the_verdict_on_a_vote_is_that_of_its_best_member_or_of_its_commonest_answer():
    rewards_BF = torch.tensor([[0.0], [1.0], [0.0], [0.0], [0.0], [0.0], [1.0], [1.0]])
    answers = ["7", "8", "7", "5", "6", "7", "8", "8"]
    assert vote_rewards(rewards_BF, answers, "best", 4).flatten().tolist() == [1.0] * 8
    assert vote_rewards(rewards_BF, answers, "best", 2).flatten().tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    assert vote_rewards(rewards_BF, answers, "majority", 4).flatten().tolist() == [0.0] * 4 + [1.0] * 4
    # of equally frequent answers the one that was written first
    assert vote_rewards(rewards_BF[:4], ["8", "7", "7", "8"], "majority", 4).flatten().tolist() == [0.0] * 4
    assert vote_rewards(rewards_BF[1:5], ["8", "7", "7", "8"], "majority", 4).flatten().tolist() == [1.0] * 4


@pytest.mark.parametrize("vote", ["best", "majority"])
def test_members_are_rewarded_with_the_verdict_on_their_vote_and_recorded_with_their_own(monkeypatch, tmp_path, vote):
    run = ran(monkeypatch, "grpo", BASE, tmp_path / "run", vote=vote, skip_dead_updates="true", **OPTIONS | BATCH)
    rows = run.table("rollouts").to_pylist()
    votes = [rows[at : at + 4] for at in range(0, len(rows), 4)]
    assert len(votes) == 3 * 4
    for members in votes:
        assert len({row["problem_id"] for row in members}) == 1
        texts = [row["text"] for row in members]
        winner = texts.index(max(texts, key=texts.count))
        verdict = any(row["passed"] for row in members) if vote == "best" else members[winner]["passed"]
        assert {row["reward"] for row in members} == {float(verdict)}
    assert any(row["passed"] != bool(row["reward"]) for row in rows)
    groups = run.table("prompts").to_pylist()
    assert sum(row["num_passed"] for row in groups) == sum(row["passed"] for row in rows)
    assert all(row["offered_bits"] is None for row in groups)  # what a vote offers is nobody's verdict
    unequal = [len({row["reward"] for row in rows[at : at + 8]}) > 1 for at in range(0, len(rows), 8)]
    recorded = [line["group/informative_fraction"] for line in run.steps]
    assert recorded == pytest.approx(np.reshape(unequal, (3, 2)).mean(axis=1))
    assert run.manifest["arm"] == f"grpo_{vote}_of_4"


def test_a_trainer_without_a_baseline_learns_from_the_vote_too(monkeypatch, tmp_path):
    advantages = []

    def noted(original, self, inputs):
        output = original(self, inputs)
        advantages.append(output["advantages"].tolist())
        return output

    original = ReinforceTrainer._generate_and_score_completions
    monkeypatch.setattr(ReinforceTrainer, "_generate_and_score_completions", lambda self, inputs: noted(original, self, inputs))
    run = ran(monkeypatch, "grpo", BASE, tmp_path / "run", vote="best", trainer="reinforce", **OPTIONS | BATCH)
    rewards = [row["reward"] for row in run.table("rollouts").to_pylist()]
    assert [advantage for of_batch in advantages for advantage in of_batch] == rewards
    assert any(row["passed"] != bool(row["reward"]) for row in run.table("rollouts").to_pylist())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"vote": "best", "vote_size": 8}, "does not hold two or more votes of --vote_size 8: pass --num_generations 16"),
        ({"vote": "best", "vote_size": 3}, "does not hold two or more votes of --vote_size 3: pass --num_generations 6"),
        ({"vote": "best", "vote_size": 0}, "--vote_size must be at least 1, got 0"),
        ({"vote": "worst"}, "invalid choice: 'worst'"),
        ({"vote": "best", "reward": "random"}, "--vote needs --reward outcome, got random"),
        ({"vote": "best", "trainer": "rejection"}, "--vote needs --trainer grpo or rloo or reinforce, got rejection"),
        ({"vote": "best", "selection": "thompson"}, "--vote and --selection do not go together"),
        ({"vote": "best", "stop_at_low_value": "true"}, "--stop_at_low_value and --vote do not go together"),
    ],
)
def test_votes_that_cannot_be_are_told_in_one_line(recipe, tmp_path, options, told):
    words = [word for name, value in (OPTIONS | BATCH | options).items() for word in (f"--{name}", value)]
    done = recipe("grpo", *words, "--output_dir", tmp_path / "run")
    assert done.returncode in (1, 2)
    assert told in done.stderr and done.stderr.count("\n") == 1, done.stderr[-500:]


@pytest.mark.slow
def test_votes_that_two_processes_share_are_whole(tmp_path):
    options = OPTIONS | {"vote": "majority", "vote_size": 32, "num_generations": 64, "max_completion_length": 5, "max_steps": 2}
    run, _ = launched("grpo", "two_cpus", tmp_path / "two", **options)
    rows = run.table("rollouts").to_pylist()
    votes = [rows[at : at + 32] for at in range(0, len(rows), 32)]
    assert votes and all(len({row["reward"] for row in members}) == 1 for members in votes)
    texts = [[row["text"] for row in members] for members in votes]
    winners = [members[of_vote.index(max(of_vote, key=of_vote.count))] for members, of_vote in zip(votes, texts, strict=True)]
    assert [row["reward"] for row in winners] == [float(row["passed"]) for row in winners]
