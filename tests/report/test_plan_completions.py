"""A plan says first how the rollouts end: no verdict on rollouts most of which were cut off, and some completions to read."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from made_runs import MEASUREMENT, make_measurement

from bitsample_llm.records import SCHEMAS, read_run
from bitsample_llm.report.plan.command import plan as plan_command
from bitsample_llm.report.plan.completions import MAX_SHOWN, completions_of, shortened
from bitsample_llm.report.plan.numbers import plan_of

CONFIG = MEASUREMENT["config"] | {"study": {"stop": None}, "training": {"max_completion_length": 16}}


def measured(folder, pass_rates, texts, **study):
    """A measurement whose rollouts as asked are (text, ended, passed, reason), and one rollout of a probe."""
    config = CONFIG | {"study": {"stop": None} | study}
    make_measurement(folder, pass_rates, config=config)
    names = ("text", "ended", "passed", "reason")
    rows = [{"step": 1, "generation_step": 1, "problem_id": "p0", **dict(zip(names, row, strict=True))} for row in texts]
    rows.append(rows[0] | {"probe": "shots", "ended": True, "passed": True})
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS["rollouts"]), folder / "rollouts-000099.parquet")
    return read_run(folder)


RIGHT_THEN_A_LINE = [(f"{n}\nQ: 1+1=", False, False, "too_long") for n in range(7)]
WRONG = [(f"{n}9", True, False, "wrong_answer") for n in range(2)]
PASSED = [("0", True, True, "correct")]


def test_where_most_rollouts_do_not_end_the_plan_says_so_before_any_verdict(tmp_path, capsys):
    run = measured(tmp_path / "run", np.zeros(200), RIGHT_THEN_A_LINE + WRONG + PASSED)
    plan_command([str(run.run_dir)])
    first, because, to_do, _, sentence, *_ = capsys.readouterr().out.splitlines()
    assert first == "UNDECIDED: MOST ROLLOUTS DO NOT END"
    assert because == (
        "  because only 30% of the rollouts ended by themselves, 70% were cut off at 16 tokens: too_long 70%, wrong_answer 20%, correct 10%"
    )
    assert to_do.startswith(r'  to do: name the text that ends an answer (--stop "\n"), or raise --max_completion_length (now 16)')
    assert sentence.startswith("- 30% of 10 rollouts ended by themselves, 70% were cut off at 16 tokens, 10% passed.")
    page = (run.run_dir / "plan" / "plan.html").read_text()
    assert page.index("most rollouts do not end") < page.index("Some rollouts") < page.index("Group sizes")
    assert r"\nQ: 1+1=" in page
    plan = json.loads((run.run_dir / "plan" / "plan.json").read_text())
    assert "RL would be a waste" not in json.dumps(plan["advice"])


def test_where_rollouts_end_the_verdict_is_that_of_the_pass_rates(tmp_path):
    run = measured(tmp_path / "run", np.zeros(200), RIGHT_THEN_A_LINE[:3] + WRONG * 2 + PASSED, stop="\n")
    plan, _, _ = plan_of(run)
    assert plan["advice"]["verdict"].startswith("RL would be a waste: nearly every group")
    assert plan["completions"]["ended"] == 5 / 8 and plan["completions"]["passed"] == 1 / 8 and plan["completions"]["stop"] == "\n"
    without, _, _ = plan_of(make_measurement(tmp_path / "without", np.zeros(200)))
    assert without["completions"] is None and without["advice"] == plan["advice"]


def test_six_completions_are_shown_half_of_them_passing_where_there_are_as_many(tmp_path):
    many = [(f"{n}", True, True, "correct") for n in range(9)] * 2
    for number, (texts, num_passing) in enumerate(((many + WRONG * 9, 3), (many + WRONG[:1], 5), (WRONG * 9 + PASSED, 1))):
        run = measured(tmp_path / str(number), np.full(20, 0.5), texts)
        samples = completions_of(run, np.random.default_rng(0))["samples"]
        assert len(samples) == 6 and sum(sample["passed"] for sample in samples) == num_passing
        passing = [sample["text"] for sample in samples if sample["passed"]]
        assert len(set(passing)) == num_passing  # a text that was there already comes last


def test_a_long_completion_is_shown_without_its_middle():
    assert shortened("4\n") == r"'4\n'"
    shown = shortened("1" * 500 + "end")
    assert len(shown) <= MAX_SHOWN and shown.startswith("'111") and shown.endswith("end'")
