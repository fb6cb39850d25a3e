"""Who sets the problems? The model itself: it proposes some, tries to solve them, and is rewarded for proposals that it solves about every other time.

A batch of B rollouts is G proposals, and then groups of G rollouts of the problems that were proposed. Both are trained on by GRPO, with the same weights. What the
proposals cost is charged like any rollout. They have no verdict: `passed` is null, and they offer no bits.
"""

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from accelerate.utils import gather_object

from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.options import option
from bitsample_llm.records import RecordError
from bitsample_llm.records.added_files import PROPOSALS_FILE
from bitsample_llm.scoring.likelihood import encode_answer
from bitsample_llm.tasks import Problem
from bitsample_llm.tasks.proposals import PROPOSE_MARK, is_evaluated, proposed_problem
from bitsample_llm.training.checkpoint_state import KeepsState, keep_lines
from bitsample_llm.training.drawn_before import TakesDrawn, drawn_rollouts
from bitsample_llm.training.objectives import SkipsDeadRows, SkipsDeadUpdates
from bitsample_llm.training.rewards import passed_rollouts

PROPOSER = "proposer"  # the problem id of a proposal's own row
REMEMBERED = 1024  # problems that were lately proposed: to propose one again earns nothing
STATE_FILE = "self_play.json"  # in a checkpoint
# What becomes of a proposal. Only the last three are problems; one that came too late for a place in the batch earns neither more nor less than the others.
STATUSES = ("invalid", "held_out", "repeated", "no_place", "asked")


@dataclass
class SelfPlayArguments:
    """Whether the model sets its own problems."""

    self_play: str = option(
        "none",
        "The model proposes problems after the propose mark, and solves them. near_half: a proposal earns 1 - 2|p - 1/2|, p being the share of its "
        "rollouts that passed. untrained: proposals earn nothing, as a control. Training problems take the places of proposals that cannot be asked.",
        choices=["none", "near_half", "untrained"],
    )


@dataclass
class Proposal:
    """What was written, what became of it, and the share of rollouts that passed where it was asked."""

    text: str
    status: str
    problem: Problem | None = None
    pass_rate_estimate: float | None = None

    @property
    def reward(self) -> float | None:
        """1 at a pass rate of a half, 0 where all rollouts or none passed, and for what is no new problem; None without a place."""
        if self.status == "no_place":
            return None
        return 1 - 2 * abs(self.pass_rate_estimate - 0.5) if self.status == "asked" else 0.0


class ProposalVerifier(RolloutVerifier):
    """Verdicts on rollouts of problems that are proposed as training goes on; proposals themselves have none."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.problem_by_id[PROPOSER] = Problem(PROPOSER, PROPOSE_MARK, "", difficulty=0)
        self.evaluated_prompts: set = set()  # of data, which is held out by other rules than operand pairs

    def rows(self, problem_ids: Sequence[str], completion_ids: Sequence[list[int]]) -> list[dict]:
        """Rows of the table `rollouts`."""
        rows = super().rows(problem_ids, completion_ids)
        written = ("problem_id", "num_tokens", "text", "ended")
        return [{key: row[key] for key in written} | {"passed": None} if row["problem_id"] == PROPOSER else row for row in rows]

    def exact_pass_rates(self, trainer, problem_ids: Sequence[str], end, prompt_states=None) -> list[dict]:
        """`AnswerScore.pass_rates` of each problem, nothing of proposals."""
        asked = [name for name in problem_ids if name != PROPOSER]
        of_problems = iter(super().exact_pass_rates(trainer, asked, end, prompt_states))
        return [{} if name == PROPOSER else next(of_problems) for name in problem_ids]


class ProblemSetter:
    """Reads proposals, and remembers what was proposed lately; the answer of a problem may take `longest` tokens."""

    def __init__(self, verifier: ProposalVerifier, longest: int):
        self.verifier, self.longest = verifier, longest
        self.recent: deque[str] = deque(maxlen=REMEMBERED)

    def read(self, completion_ids: Sequence[list[int]], num_places: int) -> list[Proposal]:
        """The proposals, of which as many as there are places are to be asked; their problems are known to the verifier from then on."""
        proposals, num_asked = [], 0
        for text, ended in self.verifier.end.texts_and_ends(completion_ids):
            proposal = Proposal(text, "invalid", proposed_problem(text) if ended else None)
            proposals.append(proposal)
            if (problem := proposal.problem) is None or len(self._answer_ids(problem)) > self.longest:
                continue
            if is_evaluated(problem) or problem.prompt in self.verifier.evaluated_prompts:
                proposal.status = "held_out"
            elif text in self.recent:
                proposal.status = "repeated"
            else:
                self.recent.append(text)
                proposal.status = "asked" if num_asked < num_places else "no_place"
                num_asked += 1
                self.verifier.problem_by_id[problem.problem_id] = problem
        return proposals

    def _answer_ids(self, problem: Problem) -> list[int]:
        return encode_answer(self.verifier.tokenizer, problem, self.verifier.end)[1]

    def save(self, folder: Path) -> None:
        """Write what was proposed lately into a checkpoint."""
        (folder / STATE_FILE).write_text(json.dumps({"recent": list(self.recent)}))

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint; a RecordError if it is of a run without self-play."""
        if not (path := folder / STATE_FILE).is_file():
            raise RecordError(f"{folder} has no {STATE_FILE}: it is of a run without --self_play, resume it without")
        self.recent.extend(json.loads(path.read_text())["recent"])


class ProposalLog:
    """The file of the proposals, a line each; a run that is resumed goes on after the step that it resumes from."""

    def __init__(self, path: Path):
        self.path = path
        self._is_open = False

    def add(self, step: int, proposals: Sequence[Proposal], earned: Sequence[float | None]) -> None:
        """Write the proposals of a step, and what each of them earned."""
        if not self._is_open:
            keep_lines(self.path, lambda kept: kept < step)
            self._is_open = True
        with self.path.open("a") as file:
            for proposal, reward in zip(proposals, earned, strict=True):
                told = {"text": proposal.text, "status": proposal.status, "pass_rate_estimate": proposal.pass_rate_estimate}
                name = proposal.problem and proposal.problem.problem_id
                file.write(json.dumps({"step": step, "problem_id": name, **told, "reward": reward}) + "\n")


class SelfPlays(TakesDrawn, KeepsState):
    """Mixin for GRPO: the first group of a batch is proposals, the others are rollouts of what they propose."""

    def __init__(self, *args, setter: ProblemSetter, trains_proposer: bool = True, **kwargs):
        super().__init__(*args, **kwargs)
        self.setter, self.trains_proposer = setter, trains_proposer
        self.kept.append(setter)
        self.log_of_proposals = ProposalLog(Path(self.args.output_dir).parent / PROPOSALS_FILE)
        if self.use_vllm or self.use_transformers_continuous_batching:
            raise ValueError("--self_play needs generation by transformers: set use_vllm to false")
        own, size = self.args.generation_batch_size // self.accelerator.num_processes, self.num_generations
        if own <= size:
            best = f"best (1 + {size}) x {size}, shared by the processes"
            raise ValueError(
                f"--self_play needs more rollouts per process than --num_generations {size}, which are proposals, got {own}: "
                f"raise per_device_train_batch_size, {best}"
            )
        self.proposals: list[Proposal] = []

    def _generate_and_score_completions(self, inputs):
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        size, first = self.num_generations, self.accelerator.process_index * len(inputs)
        drawn = self._drawn_proposals()
        num_groups = len(inputs) * self.accelerator.num_processes // size
        self.proposals = self.setter.read(drawn, num_groups - 1)
        groups = [(PROPOSE_MARK, PROPOSER)]
        groups += [(each.problem.prompt, each.problem.problem_id) for each in self.proposals if each.status == "asked"]
        for row in range(len(inputs)):  # in place: who watches this method has the list already
            if (group := (first + row) // size) < len(groups):
                inputs[row] = dict(zip(("prompt", "problem_id"), groups[group], strict=True))
        with self.taking(drawn[first : first + len(inputs)]):
            return super()._generate_and_score_completions(inputs)

    def _drawn_proposals(self) -> list[list[int]]:
        """Token ids of the group of proposals, the same on every process, each of which draws as many."""
        num = -(-self.num_generations // self.accelerator.num_processes)
        return gather_object(drawn_rollouts(self, [PROPOSE_MARK] * num))[: self.num_generations]  # TRL counts them with the batch

    def _calculate_rewards(self, *args, **kwargs):
        rewards_BF = super()._calculate_rewards(*args, **kwargs)  # of all processes
        if not self.model.training:
            return rewards_BF
        pass_rates = passed_rollouts(rewards_BF).double().view(-1, self.num_generations).mean(dim=1).tolist()
        asked = (proposal for proposal in self.proposals if proposal.status == "asked")
        for proposal, pass_rate in zip(asked, pass_rates[1:], strict=False):
            proposal.pass_rate_estimate = pass_rate
        earned = [proposal.reward if self.trains_proposer else None for proposal in self.proposals]
        # TRL takes a reward that is no number for none at all: the rollout teaches nothing
        rewards_BF[: len(earned), 0] = torch.tensor([torch.nan if reward is None else reward for reward in earned])
        if self.is_world_process_zero():
            self.log_of_proposals.add(self.state.global_step + 1, self.proposals, earned)
        return rewards_BF


@cache
def self_playing(trainer_class: type) -> type:
    """The trainer whose model sets the problems, `SelfPlaying` before its name."""
    skips = (SkipsDeadRows,) if issubclass(trainer_class, SkipsDeadUpdates) else ()
    return type(f"SelfPlaying{trainer_class.__name__}", (SelfPlays, *skips, trainer_class), {})
