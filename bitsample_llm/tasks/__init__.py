"""Problems from a seed, verifiers with reasons, and verdicts on single steps. Plain Python, no model is needed."""

from typing import TYPE_CHECKING

from bitsample_llm.tasks.problem import Problem, Step, Verdict

if TYPE_CHECKING:
    from bitsample_llm.tasks.arithmetic import ArithmeticTask

__all__ = ["Problem", "Step", "Verdict", "load_task"]


def load_task(name: str, answer_format: str = "plain", **options) -> "ArithmeticTask":
    """The task called `name`, with `difficulty` (digits) and `mark` (author) as options.

    >>> task = load_task("addition", "reversed", difficulty=2, mark="A")
    >>> problem = task.problem(47, 85)
    >>> problem.prompt, problem.answer, task.verify(problem, "231").passed
    ('A47+85<', '231', True)

    Raises:
        ValueError: naming the unknown task, format or option and what is known.
    """
    from bitsample_llm.tasks.arithmetic import ArithmeticTask  # noqa: PLC0415 - the meter needs problems, and no arithmetic

    known = {"difficulty", "mark"}
    for option in options:
        if option not in known:
            raise ValueError(f"unknown option {option!r} of task {name!r}; known: {', '.join(sorted(known))}")
    return ArithmeticTask(name, answer_format, **options)
