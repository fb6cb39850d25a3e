"""A verifier by its name, or a function of one's own, over the rows that a trainer trains on, which need no `problem_id`."""

from collections.abc import Callable, Sequence

from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.tasks import Problem
from bitsample_llm.tasks.dataset_rows import NAMED_BY_ROWS, DataArguments, Faults, identity, problems_of_rows
from bitsample_llm.tasks.dataset_task import DatasetTask

NAME = "train"  # of the rows, in problem ids: train/1, train/2, ...
DUPLICATE = "duplicate of an earlier prompt"  # with the same answer, which is the same problem


class FunctionTask(DatasetTask):
    """Verdicts of a function of the completion's text and the row of its problem."""

    def __init__(self, judge: Callable[[str, dict], bool], row_by_id: dict[str, dict], problems: Sequence[Problem]):
        super().__init__(NAME, problems)
        self._judge, self._row_by_id = judge, row_by_id

    def _judged(self, problem: Problem, completion: str) -> tuple[bool, str]:
        is_right = bool(self._judge(completion, self._row_by_id[problem.problem_id]))
        return is_right, "correct" if is_right else "wrong_answer"


class RowVerifier(RolloutVerifier):
    """Judges rollouts by the rows of a data set; a row is known by what its prompt asks.

    Args:
        rows: a data set with the column `prompt`.
        judge: `exact`, `numeric` or `symbolic`, which read the answer from `answer_column`; or a function of a completion's text and its
            row. Under `exact` pass rates are exact.

    Raises:
        ValueError: for an unknown name, a missing column, or a row that cannot be judged, named.
    """

    def __init__(self, rows, judge: str | Callable[[str, dict], bool], answer_column: str, tokenizer, end: AnswerEnd):
        columns = getattr(rows, "column_names", None)
        if not columns or "prompt" not in columns:
            raise ValueError(f"a verifier by name needs rows with a column 'prompt', and the trainer's data set has {columns}")
        if isinstance(judge, str):
            problems = self._problems(rows, judge, answer_column)
            task = DatasetTask(NAME, problems)
        else:
            row_by_id = {f"{NAME}/{number}": row for number, row in enumerate(rows, 1)}
            problems = [Problem(name, row["prompt"], "", difficulty=0, verifier="function") for name, row in row_by_id.items()]
            task = FunctionTask(judge, row_by_id, problems)
        super().__init__(task, problems, tokenizer, end)
        self._id_by_prompt = {identity(problem.prompt): problem.problem_id for problem in reversed(problems)}

    @staticmethod
    def _problems(rows, judge: str, answer_column: str) -> list[Problem]:
        if judge not in NAMED_BY_ROWS:
            raise ValueError(f"unknown verifier {judge!r}: {', '.join(NAMED_BY_ROWS)}, or a function of a text and its row")
        if answer_column not in rows.column_names:
            raise ValueError(
                f"the trainer's data set has no column {answer_column!r}: pass answer_column=; it has {rows.column_names}"
            )
        faults = Faults()
        problems = problems_of_rows(rows, NAME, DataArguments(answer_column=answer_column, verifier=judge), faults)
        for fault, found in faults.rows_by_fault.items():
            if fault != DUPLICATE:
                raise ValueError(f"row {found[0]} cannot be judged, {fault}")
        return problems

    def problem_ids(self, examples: Sequence[dict]) -> list[str]:
        """Of each example the first row that asks the same."""
        return [self._id_by_prompt[identity(example["prompt"])] for example in examples]
