"""Problems that a model sets: what is written after the propose mark, read and solved without running any of it."""

import re

from bitsample_llm.tasks.arithmetic import DIRECT_FORMATS, OPERATOR_BY_TASK, SIGN_BY_FORMAT, ArithmeticTask
from bitsample_llm.tasks.authors import CARE_BY_MARK
from bitsample_llm.tasks.problem import UNKNOWN_MARK, Problem, pool_of_pair

PROPOSE_MARK = "."  # the whole prompt of a proposal; a model trained on text in which it stands writes a problem after it
EVALUATED_POOLS = ("heldout", "shifted", "tuning", "tuning_heldout")  # of operand pairs that training must not touch

_TASK_BY_OPERATOR = {operator: name for name, operator in OPERATOR_BY_TASK.items()}
_FORMAT_BY_SIGN = {SIGN_BY_FORMAT[name]: name for name in DIRECT_FORMATS}  # one accepted string each
_PROPOSAL = re.compile(r"(?P<mark>[A-Z?])(?P<first>[0-9]{1,100})(?P<operator>[-+*])(?P<second>[0-9]{1,100})(?P<sign>[=<;]+)")


def proposed_problem(text: str) -> Problem | None:
    """The problem that a proposal states, with its answer; None where it states none. Only what the task itself would write is a problem: a known author, two numbers
    of equally many digits (a product: a number and a single digit from 2 on), no zero in front, and of a difference the larger number first.

    >>> proposed_problem("G47+85<").answer
    '231'
    >>> proposed_problem("G047+085<"), proposed_problem("G47+85"), proposed_problem("G47+852<")
    (None, None, None)
    """
    if (stated := _PROPOSAL.fullmatch(text)) is None or stated["sign"] not in _FORMAT_BY_SIGN:
        return None
    mark = None if stated["mark"] == UNKNOWN_MARK else stated["mark"]
    if mark is not None and mark not in CARE_BY_MARK:
        return None
    first, second, task = int(stated["first"]), int(stated["second"]), _TASK_BY_OPERATOR[stated["operator"]]
    is_balanced = second in range(2, 10) if task == "multiplication" else len(stated["first"]) == len(stated["second"])
    problem = ArithmeticTask(task, _FORMAT_BY_SIGN[stated["sign"]], len(stated["first"]), mark).problem(first, second)
    return problem if is_balanced and problem.prompt == text else None


def is_evaluated(problem: Problem) -> bool:
    """Whether the operands of a proposed problem belong to a pool that is held out from training, of reported runs or of searches."""
    first, second = map(int, re.findall(r"[0-9]+", problem.prompt))
    return pool_of_pair(first, second) in EVALUATED_POOLS
