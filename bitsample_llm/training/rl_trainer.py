"""What class of trainer do the choices make, what does it take besides TRL's arguments, and which choices go together?"""

import itertools

from accelerate import PartialState

from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.tasks import Problem
from bitsample_llm.training.credit import CREDITS
from bitsample_llm.training.learned_reward import LearnedVerifier, learning_reward
from bitsample_llm.training.objectives import VerdictLikelihoodTrainer, skipping_dead_updates
from bitsample_llm.training.observation import learning_from_observation
from bitsample_llm.training.process_grpo import ProcessGRPOTrainer
from bitsample_llm.training.rewards import RandomReward, VerdictReward
from bitsample_llm.training.rl_choices import TRAINERS, GRPOChoices
from bitsample_llm.training.rollout_prompt import drawing_under_other_prompt
from bitsample_llm.training.selection import Selector, SelectsPrompts, selecting
from bitsample_llm.training.self_play import ProblemSetter, ProposalVerifier, self_playing
from bitsample_llm.training.value_function import learning_value
from bitsample_llm.training.votes import voting

# Options that change what a rollout is, or what it is told: the trainers that some of them are for, and those that are about the verdict on a whole rollout.
TRAINERS_OF = {
    "--stop_at_low_value": ("grpo", "rloo"),
    "--value_baseline": ("grpo", "rloo"),
    "--judge_rollouts": ("grpo", "rloo"),
    "--vote": ("grpo", "rloo", "reinforce"),
    "--self_play": ("grpo",),
    "--told": ("grpo",),
}
OF_OUTCOME = ("--stop_at_low_value", "--value_baseline", "--vote", "--self_play", "--selection", "--told")
TOGETHER = (  # pairs that go together; all others do not
    {"--stop_at_low_value", "--value_baseline"},
    *({"--selection", other} for other in ("--stop_at_first_error", "--stop_at_low_value", "--value_baseline")),
)


def check_choices(choices: GRPOChoices, verifier: RolloutVerifier) -> None:
    """Refuse choices that do not go together: a ValueError names them."""
    judges_steps = getattr(verifier.task, "judges_steps", True)
    if (choices.reward not in ("outcome", "random") or choices.stop_at_first_error) and not judges_steps:
        raise ValueError(f"--reward {choices.reward} and --stop_at_first_error need step verdicts: use --verifier exact")
    if (CREDITS[choices.reward].step_advantages is not None or choices.stop_at_first_error) and choices.trainer != "grpo":
        raise ValueError(f"--reward {choices.reward} and --stop_at_first_error need --trainer grpo, got {choices.trainer}")
    if choices.trainer == "verdict_likelihood" and (choices.skip_dead_updates or choices.reward != "outcome"):
        raise ValueError("--trainer verdict_likelihood learns from --reward outcome, and from fails too: no --skip_dead_updates")
    problems = verifier.problem_by_id.values()
    is_chosen = {
        "--stop_at_first_error": choices.stop_at_first_error,
        "--stop_at_low_value": choices.stop_at_low_value,
        "--value_baseline": choices.value_baseline,
        "--judge_rollouts": choices.judge_rollouts > 0,
        "--vote": choices.vote is not None,
        "--rollout_prompt_column": any(problem.rollout_prompt is not None for problem in problems),
        "--self_play": choices.self_play != "none",
        "--selection": choices.selection != "shuffled",
        "--told": choices.told is not None,
    }
    chosen = [name for name in is_chosen if is_chosen[name]]
    for name in chosen:
        if choices.trainer not in (trainers := TRAINERS_OF.get(name, TRAINERS)):
            raise ValueError(f"{name} needs --trainer {' or '.join(trainers)}, got {choices.trainer}")
        if name in OF_OUTCOME and choices.reward != "outcome":
            raise ValueError(f"{name} needs --reward outcome, got {choices.reward}")
    for pair in itertools.combinations(chosen, 2):
        if set(pair) not in TOGETHER:
            raise ValueError(f"{' and '.join(pair)} do not go together: leave one of the two out")
    if choices.stop_as_others and not choices.stop_at_low_value:
        raise ValueError("--stop_as_others is a control for --stop_at_low_value: pass that too")
    if (choices.stop_at_low_value or choices.value_baseline) and not choices.value_run_on > 0:
        raise ValueError(
            f"--value_run_on must be above 0, since the value function learns from rollouts that run on, got {choices.value_run_on}"
        )
    if choices.selection == "probe" and (choices.stop_at_first_error or choices.stop_at_low_value):
        raise ValueError("--selection probe needs rollouts that run on: no --stop_at_first_error and no --stop_at_low_value")
    if is_chosen["--self_play"] and any(not isinstance(problem.prompt, str) for problem in problems):
        raise ValueError("--self_play reads problems from text, and the prompts are conversations: pass --prompt_format text")
    if not choices.judge_rollouts and (choices.judge_share or choices.judge_verdicts != "exact"):
        raise ValueError("--judge_share and --judge_verdicts say how a judge learns: pass --judge_rollouts above 0")
    if choices.judge_rollouts and choices.reward == "random":
        raise ValueError("--judge_rollouts needs a --reward that is made of verdicts, got random")
    if choices.judge_rollouts and not judges_steps:
        raise ValueError("--judge_rollouts needs step verdicts: use --verifier exact")


def training_row(problem: Problem) -> dict:
    """A row of what TRL draws rollouts for."""
    row = {"prompt": problem.prompt, "problem_id": problem.problem_id}
    return row if problem.rollout_prompt is None else row | {"rollout_prompt": problem.rollout_prompt}


def verifier_class(choices: GRPOChoices) -> type[RolloutVerifier]:
    """What judges the rollouts."""
    return RolloutVerifier if choices.self_play == "none" else ProposalVerifier


def rewarding_verifier(choices: GRPOChoices, verifier: RolloutVerifier, model) -> RolloutVerifier:
    """What gives the verdicts that rewards and credit are made of: the verifier, or a judge that learns from it and reads with a copy of the model."""
    return LearnedVerifier(verifier, model, choices) if choices.judge_rollouts else verifier


def reward_function(choices: GRPOChoices, verifier: RolloutVerifier, seed: int):
    """What TRL calls for the scalar reward."""
    name = CREDITS[choices.reward].reward
    return RandomReward(seed, PartialState().process_index) if name == "random" else VerdictReward(verifier, name)


def reward_is_verdict(choices: GRPOChoices) -> bool:
    """Whether a rollout's own verdict, by the verifier, is what is told of it."""
    return choices.reward != "random" and choices.vote is None and choices.told is None and not choices.judge_rollouts


def trainer_of(choices: GRPOChoices, verifier: RolloutVerifier, seed: int, longest: int) -> tuple[type, dict]:
    """The trainer's class, and what it takes besides TRL's arguments. `verifier` gives the verdicts that rewards are made of; an answer may take `longest` tokens."""
    trainer_class, extra = _plain_trainer_of(choices, verifier)
    if choices.judge_rollouts:
        trainer_class, extra = learning_reward(trainer_class), extra | {"learned": verifier}
    if choices.stop_at_low_value or choices.value_baseline:
        trainer_class, extra = learning_value(trainer_class), extra | {"value": choices}
    if choices.vote is not None:
        trainer_class, extra = voting(trainer_class), extra | {"vote": choices, "verifier": verifier}
    if choices.told is not None:
        trainer_class, extra = learning_from_observation(trainer_class), extra | {"told": choices.told, "verifier": verifier}
    if any(problem.rollout_prompt is not None for problem in verifier.problem_by_id.values()):
        trainer_class = drawing_under_other_prompt(trainer_class)
    if choices.self_play != "none":
        setter = ProblemSetter(verifier, longest)
        trainer_class, extra = (
            self_playing(trainer_class),
            extra | {"setter": setter, "trains_proposer": choices.self_play == "near_half"},
        )
    if choices.selection != "shuffled":
        selector = Selector(choices, list(verifier.problem_by_id.values()), seed, verifier.end, verifier)
        trainer_class, extra = selecting(trainer_class, SelectsPrompts), extra | {"selector": selector}
    return trainer_class, extra


def _plain_trainer_of(choices: GRPOChoices, verifier: RolloutVerifier) -> tuple[type, dict]:
    credit = CREDITS[choices.reward]
    if credit.step_advantages is None and not choices.stop_at_first_error:
        if choices.trainer == "verdict_likelihood":
            return VerdictLikelihoodTrainer, {"verifier": verifier}
        trainer_class = TRAINERS[choices.trainer][0]
        return skipping_dead_updates(trainer_class) if choices.skip_dead_updates else trainer_class, {}
    trainer_class = skipping_dead_updates(ProcessGRPOTrainer) if choices.skip_dead_updates else ProcessGRPOTrainer
    return trainer_class, {"credit": credit, "verifier": verifier, "stop_at_first_error": choices.stop_at_first_error}
