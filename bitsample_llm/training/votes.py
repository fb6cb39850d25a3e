"""What if several rollouts stand for one answer? Best of n and majority of n, trained as the policy that they are.

A group of G rollouts is split into G / n votes of n rollouts each, in the order in which they were drawn. The verdict on a vote is the reward of all its
members; what the record says of a rollout is still its own verdict. B rollouts of all processes, F reward functions.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from accelerate.utils import gather_object

from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.options import option
from bitsample_llm.training.objectives import ReinforceTrainer


@dataclass
class VoteArguments:
    """Whose verdict is the reward."""

    vote: str | None = option(
        None,
        "Reward the members of a vote of --vote_size rollouts with the vote's verdict. best: any of them passes. majority: the answer that most of them wrote "
        "passes; of equally frequent ones the one that was written first counts.",
        choices=["best", "majority"],
    )
    vote_size: int = option(4, "Rollouts per vote; --num_generations must hold at least two votes.")


def vote_rewards(rewards_BF: torch.Tensor, answers: Sequence[Hashable], vote: str, size: int) -> torch.Tensor:
    """Rewards (B, F) of the votes that the rollouts are members of: of `best` the largest of the vote, of `majority` that of the answer that most members wrote.

    >>> rewards = torch.tensor([[0.0], [1.0], [0.0], [0.0], [0.0], [0.0]])
    >>> vote_rewards(rewards, ["7", "8", "7", "5", "6", "7"], "best", 3).flatten().tolist()
    [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    >>> vote_rewards(rewards, ["7", "8", "7", "5", "6", "7"], "majority", 3).flatten().tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    starts = range(0, len(rewards_BF), size)
    if vote == "best":
        members = rewards_BF.sum(dim=1).view(-1, size).argmax(dim=1).tolist()
    else:
        members = [majority_member(answers[start : start + size]) for start in starts]
    of_vote = [start + member for start, member in zip(starts, members, strict=True)]
    return rewards_BF[of_vote].repeat_interleave(size, dim=0)


def majority_member(answers: Sequence[Hashable]) -> int:
    """The first that wrote the most frequent answer; of equally frequent ones the one that was written first counts.

    >>> majority_member(["5", "7", "8", "7"]), majority_member(["5", "7", "8"])
    (1, 0)
    """
    return list(answers).index(Counter(answers).most_common(1)[0][0])


class Votes:
    """Mixin for GRPO, RLOO and REINFORCE, whose rollouts are rewarded with the verdict on the vote that they are members of; a ValueError where a group
    does not hold two votes, or where a majority cannot be told by what was written.
    """

    def __init__(self, *args, vote: VoteArguments, verifier: RolloutVerifier, **kwargs):
        super().__init__(*args, **kwargs)
        size, group = vote.vote_size, self.num_generations
        if group % size or group < 2 * size:
            raise ValueError(
                f"--num_generations {group} does not hold two or more votes of --vote_size {size}: pass --num_generations {max(group // size, 2) * size}"
            )
        if vote.vote == "majority" and not verifier.task.has_one_accepted_string:
            raise ValueError("--vote majority compares whole completions, and several of them pass here: use --vote best")
        self.vote = vote
        self.verifier = verifier

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        rewards_BF = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # of all processes
        if not self.model.training:
            return rewards_BF
        problem_ids = [example["problem_id"] for example in inputs]
        judged = self.verifier.judged(problem_ids, [list(map(int, ids)) for ids in completion_ids_list])
        answers = gather_object([(text, ended) for text, ended, _ in judged])
        voted_BF = vote_rewards(rewards_BF, answers, self.vote.vote, self.vote.vote_size)
        if isinstance(self, ReinforceTrainer):  # which has taken the rewards before the vote
            self.take_rewards(voted_BF)
        return voted_BF


@cache
def voting(trainer_class: type) -> type:
    """The trainer whose rollouts vote, `Voting` before its name."""
    return type(f"Voting{trainer_class.__name__}", (Votes, trainer_class), {})
