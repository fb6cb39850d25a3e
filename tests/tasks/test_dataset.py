"""Problems from data: which rows are problems, which are left out by name, and runs of the recipes on them."""

import json
from decimal import Decimal
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from made_runs import make_measurement
from scripts.tiny_families import make
from test_real_models import ran

from bitsample_llm.report.plan.numbers import kept_lines
from bitsample_llm.tasks import Problem
from bitsample_llm.tasks.dataset_rows import POOL_BOUNDS, DataArguments, answer_text, identity, pool_of_prompt, read_dataset
from bitsample_llm.tasks.dataset_task import DatasetTask
from bitsample_llm.training.arguments import RunArguments
from bitsample_llm.training.problems import load_problems
from bitsample_llm.training.rejection import passing_problems

ROWS = [{"prompt": f"What is {a} plus {b}?", "answer": str(a + b)} for a in range(10) for b in range(10)]
MESSAGES = [{"role": "system", "content": "Add."}, {"role": "user", "content": "What is 3 plus 4?"}]


def jsonl(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(source: str, **options):
    """What a data set gives, and what the terminal was told."""
    told = []
    sizes = {name: options.pop(name, 10**6) for name in ("num_train", "num_heldout")}
    tuning = options.pop("tuning", False)
    return read_dataset(DataArguments(dataset=source, **options), **sizes, seed=0, tuning=tuning, tell=told.append), told


def prompts(problems) -> set[str]:
    return {json.dumps(problem.prompt) for problem in problems}


def test_every_prompt_is_in_one_pool_whatever_the_order_of_the_rows(tmp_path):
    first, told = read(jsonl(tmp_path / "sums.jsonl", ROWS))
    second, _ = read(jsonl(tmp_path / "reversed.jsonl", ROWS[::-1]))
    tuning, _ = read(str(tmp_path / "sums.jsonl"), tuning=True)
    parts = [first.train, first.heldout, tuning.train, tuning.heldout]
    assert sum(map(len, parts)) == len(set.union(*map(prompts, parts))) == 100
    assert prompts(first.train) == prompts(second.train) and prompts(first.heldout) == prompts(second.heldout)
    assert told == [f"{tmp_path}/sums.jsonl: {len(first.train)} problems to train on of {len(first.train)}, "
                    f"{len(first.heldout)} held out of {len(first.heldout)}"]  # fmt: skip
    assert first.facts["held_out_by"] == "hash of the prompt" and sum(first.facts["pools"].values()) == 100
    few, _ = read(str(tmp_path / "sums.jsonl"), num_train=7, num_heldout=3)
    assert len(few.train) == 7 and len(few.heldout) == 3 and prompts(few.train) < prompts(first.train)


def test_pools_have_the_shares_that_their_bounds_say():
    counts = dict.fromkeys(POOL_BOUNDS, 0)
    for number in range(20_000):
        counts[pool_of_prompt(f"problem {number}")] += 1
    below = 0.0
    for pool, bound in POOL_BOUNDS.items():
        assert counts[pool] / 20_000 == pytest.approx(bound - below, abs=0.015)
        below = bound


def test_what_is_held_out_by_a_split_of_its_own_is_not_trained_on(tmp_path):
    train, heldout = jsonl(tmp_path / "train.jsonl", ROWS), jsonl(tmp_path / "test.jsonl", ROWS[:20])
    found, told = read(train, heldout_split=heldout)
    assert len(found.heldout) == 20 and not prompts(found.heldout) & prompts(found.train)
    assert found.facts["held_out_by"] == f"split {heldout}"
    assert len([line for line in told if "20 rows left out, held out in test.jsonl: train.jsonl/1, train.jsonl/2" in line]) == 1


SUM = "What is 3 plus 4?"
SAME = {
    "a conversation": [{"role": "user", "content": SUM}],
    "a conversation with its keys in another order": [{"content": SUM, "role": "user"}],
    "a message of parts": [{"role": "user", "content": [{"type": "text", "text": SUM}]}],
    "a message with an empty column": [{"role": "user", "content": SUM, "name": None}],
    "a system message": MESSAGES,
    "whitespace at the ends": f" {SUM}\r\n",
}
OTHER = {
    "another text": SUM.replace("3", "13"),
    "an assistant's message": [{"role": "assistant", "content": SUM}],
    "two turns": [{"role": "user", "content": SUM}, {"role": "user", "content": SUM}],
    "nothing but a system message": MESSAGES[:1],
}


def test_a_problem_is_the_same_in_whatever_form_it_stands():
    assert {name for name, prompt in SAME.items() if identity(prompt) != SUM} == set()
    assert identity(OTHER["nothing but a system message"]) != identity(MESSAGES[:1] * 2)
    assert len({identity(prompt) for prompt in OTHER.values()} | {SUM}) == 5
    assert identity("Combien co\u00fbte un cafe\u0301 ?") == identity("Combien cou\u0302te un caf\u00e9 ?")


@pytest.mark.parametrize("form", SAME)
def test_what_is_held_out_in_one_form_is_not_trained_on_in_another(tmp_path, form):
    rows = [{"prompt": SAME[form], "answer": "7"}]
    others = [row for row in ROWS if row["prompt"] != SUM]
    found, _ = read(jsonl(tmp_path / "train.jsonl", ROWS), heldout_split=jsonl(tmp_path / "test.jsonl", rows))
    assert len(found.heldout) == 1 and found.facts["left_out"] == {"held out in test.jsonl": ["train.jsonl/35"]}
    pools = {pool_of_prompt(prompt) for prompt in SAME.values()}
    assert pools == {pool_of_prompt(SUM)} and {pool_of_prompt(row["prompt"]) for row in others} == set(POOL_BOUNDS)


FORMS = {
    "texts": (lambda text: text, "text", lambda text: text),
    "texts through a template": (lambda text: text, "chat", lambda text: json.dumps([{"role": "user", "content": text}])),
    "conversations": (lambda text: MESSAGES[:1] + [{"role": "user", "content": text}], "chat", lambda text: None),
    "conversations beside texts": (lambda text: MESSAGES[:1] + [{"role": "user", "content": text}], "text", lambda text: None),
}


@pytest.mark.parametrize("form", FORMS)
def test_kept_prompts_are_trainable_in_the_form_and_columns_that_they_came_in(tmp_path, form):
    as_row, prompt_format, as_recorded = FORMS[form]
    rows = [{"question": as_row(row["prompt"]), "answer": row["answer"]} for row in ROWS]
    source, columns = jsonl(tmp_path / "sums.jsonl", rows), {"prompt_column": "question"}
    trained = read(source, **columns)[0].train
    measured = make_measurement(tmp_path / "run", [0.5] * len(trained))
    recorded = [
        {
            "problem_id": f"p{n}",
            "answer": p.answer,
            "prompt": as_recorded(p.prompt) if isinstance(p.prompt, str) else json.dumps(p.prompt),
        }
        for n, p in enumerate(trained)
    ]
    manifest = measured.manifest | {
        "data": {"prompt_format": prompt_format},
        "config": {"study": columns | {"answer_column": "answer"}},
    }
    tables = {name: measured.table(name) for name in ("prompts", "rollouts")} | {"problems": pa.Table.from_pylist(recorded)}
    kept = kept_lines(SimpleNamespace(manifest=manifest, table=tables.get, run_dir="run"), np.ones(len(trained), bool))
    assert [line["question"] for line in kept] == [problem.prompt for problem in trained]
    assert {pool_of_prompt(line["question"]) for line in kept} == {"train"}
    other = jsonl(tmp_path / "other.jsonl", [{"question": "What is 100 plus 200?", "answer": "300"}])
    again, _ = read(jsonl(tmp_path / "keep.jsonl", kept), heldout_split=other, **columns)
    assert prompts(again.train) == prompts(trained) and not again.facts["left_out"]


def test_a_file_that_is_held_out_whole_leaves_nothing_to_train_on_and_it_is_said(tmp_path):
    train, heldout = jsonl(tmp_path / "train.jsonl", ROWS[:20]), jsonl(tmp_path / "test.jsonl", ROWS)
    message = (
        r"no problem in the pool train, of 100 in all \(20 are held out in test.jsonl.*pass a --heldout_split FILE that has other"
    )
    with pytest.raises(ValueError, match=message):
        read(train, heldout_split=heldout)


WRITTEN = [
    (42, "42"), (42.0, "42"), (-0.0, "0"), (2.5, "2.5"), (1e22, "1" + "0" * 22), ("042", "042"), ("42.0", "42.0"),
    (np.float64(3), "3"), (np.int8(-7), "-7"), (np.float32(0.1), "0.1"), (Decimal("42.00"), "42"), (Decimal("2.50"), "2.5"),
    (Decimal("1E+2"), "100"), (Decimal("1E-3"), "0.001"), (None, None), ("", None), (" ", None), (True, None), (np.True_, None),
    (float("nan"), None), (float("inf"), None), (np.float64("-inf"), None), (Decimal("NaN"), None), (Decimal("Infinity"), None),
    (["42"], None), ({"value": 42}, None),
]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), WRITTEN, ids=repr)
def test_an_answer_of_any_type_is_written_as_it_would_be_by_hand(value, text):
    assert answer_text(value) == text


COLUMNS = {
    "a column with a gap": pa.array([1.0, None, 2.5]),
    "not a number": pa.array([1.0, float("nan"), 2.5]),
    "an infinity": pa.array([1.0, float("-inf"), 2.5]),
    "four bytes": pa.array([1.0, None, 0.1], pa.float32()),
    "decimals": pa.array([Decimal("1.00"), None, Decimal("2.50")]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_decimals_gives_whole_numbers_and_leaves_gaps_out(tmp_path, name):
    prompts = [next(row["prompt"] for row in ROWS[20 * n :] if pool_of_prompt(row["prompt"]) == "train") for n in range(3)]
    pq.write_table(pa.table({"prompt": prompts, "answer": COLUMNS[name]}), tmp_path / "sums.parquet")
    found, _ = read(str(tmp_path / "sums.parquet"), heldout_split=jsonl(tmp_path / "test.jsonl", [{"prompt": "?", "answer": "1"}]))
    assert sorted(problem.answer for problem in found.train) == (["0.1", "1"] if name == "four bytes" else ["1", "2.5"])
    assert found.facts["left_out"] == {"no answer": ["sums.parquet/2"]}


def test_rows_that_are_no_problems_are_named_and_counted(tmp_path):
    bad = [
        {"prompt": ROWS[0]["prompt"], "answer": "0"},  # 101: a duplicate
        {"prompt": ROWS[1]["prompt"], "answer": "7"},  # 102: with another answer
        {"prompt": "What is it?", "answer": None},  # 103
        {"prompt": "What is that?", "answer": ""},  # 104
        {"prompt": " ", "answer": "1"},  # 105
        {"prompt": "And this?", "answer": "many"},  # 106: no number
    ]
    found, told = read(jsonl(tmp_path / "sums.jsonl", ROWS + bad), verifier="numeric")
    assert found.facts["left_out"] == {
        "duplicate of an earlier prompt": ["sums.jsonl/101"],
        "duplicate of an earlier prompt with another answer": ["sums.jsonl/102"],
        "no answer": ["sums.jsonl/103", "sums.jsonl/104"],
        "the prompt is neither a text nor a list of messages": ["sums.jsonl/105"],
        "the answer is not plainly one number": ["sums.jsonl/106"],
    }
    assert f"{tmp_path}/sums.jsonl: 2 rows left out, no answer: sums.jsonl/103, sums.jsonl/104" in told
    assert sum(found.facts["pools"].values()) == 100


def test_many_faulty_rows_are_named_in_the_manifest_and_counted_on_the_terminal(tmp_path):
    rows = ROWS + [{"prompt": f"Why {number}?", "answer": None} for number in range(30)]
    found, told = read(jsonl(tmp_path / "sums.jsonl", rows))
    assert len(found.facts["left_out"]["no answer"]) == 30
    assert told[0].endswith("sums.jsonl/120 and 10 more") and "30 rows left out" in told[0]


def test_parquet_jsonl_and_a_folder_give_the_same_problems(tmp_path):
    rows = [{"question": row["prompt"], "solution": int(row["answer"]), "id": n} for n, row in enumerate(ROWS)]
    Dataset.from_list(rows).to_parquet(tmp_path / "sums.parquet")
    (tmp_path / "folder").mkdir()
    jsonl(tmp_path / "folder" / "train.jsonl", rows)
    columns = {"prompt_column": "question", "answer_column": "solution"}
    sources = [jsonl(tmp_path / "sums.jsonl", rows), str(tmp_path / "sums.parquet"), str(tmp_path / "folder")]
    found = [read(source, **columns)[0] for source in sources]
    assert prompts(found[0].train) == prompts(found[1].train) == prompts(found[2].train)
    assert {type(problem.answer) for problem in found[1].train} == {str}


def test_rows_may_name_their_verifier_and_have_conversations_for_prompts(tmp_path):
    rows = [{"prompt": MESSAGES[:1] + [{"role": "user", "content": row["prompt"]}], "answer": row["answer"],
             "how": "numeric" if n % 2 else "exact"} for n, row in enumerate(ROWS)]  # fmt: skip
    found, _ = read(jsonl(tmp_path / "chats.jsonl", rows), verifier_column="how")
    assert {problem.verifier for problem in found.train} == {"exact", "numeric"}
    assert found.train[0].prompt[0] == MESSAGES[0] and not found.task.has_one_accepted_string
    rows[3]["how"] = "vibes"
    with pytest.raises(ValueError, match=r"row chats.jsonl/4 asks for the verifier 'vibes'; known: exact, numeric, symbolic"):
        read(jsonl(tmp_path / "chats.jsonl", rows), verifier_column="how")


BAD = {
    "a missing file": ("no/such.jsonl", {}, "data file no/such.jsonl does not exist"),
    "a missing column": (
        "FILE",
        {"answer_column": "reply"},
        "has no column 'reply': pass --answer_column; columns: prompt, answer",
    ),
    "an unknown verifier": ("FILE", {"verifier": "vibes"}, "unknown verifier 'vibes'"),
    "an unknown task": ("reasoning_gym:knitting", {}, "no task 'knitting'|pip install 'bitsample_llm\\[reasoning-gym\\]'"),
}


@pytest.mark.parametrize("name", BAD)
def test_data_that_cannot_be_used_is_said_in_one_line(tmp_path, name):
    source, options, message = BAD[name]
    source = jsonl(tmp_path / "sums.jsonl", ROWS) if source == "FILE" else source
    with pytest.raises(ValueError, match=message):
        read(source, **options)


@pytest.mark.parametrize("line", ['{"prompt": "a", "answer"', "[1, 2]", "\x00\x01"])
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "sums.jsonl"
    jsonl(path, ROWS)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"sums.jsonl cannot be read: line 101 is not a JSON object"):
        read(str(path))


def test_an_empty_file_is_said(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"empty.jsonl has no rows"):
        read(str(tmp_path / "empty.jsonl"))


@pytest.mark.parametrize(("task", "verifier"), [("chain_sum", "reasoning_gym"), ("basic_arithmetic", "exact")])
def test_a_task_of_reasoning_gym_comes_with_its_verifier(task, verifier):
    pytest.importorskip("reasoning_gym")
    found, _ = read(f"reasoning_gym:{task}", num_train=20, num_heldout=5)
    again, _ = read(f"reasoning_gym:{task}", num_train=20, num_heldout=5)
    assert len(found.train) == 20 and len(found.heldout) == 5 and not prompts(found.train) & prompts(found.heldout)
    assert [problem.prompt for problem in found.train] == [problem.prompt for problem in again.train]
    assert found.facts["verifiers"] == [verifier]
    for problem in found.train[:5]:
        assert found.task.verify(problem, problem.answer, True).passed
        assert not found.task.verify(problem, problem.answer + "1", True).passed


def test_a_hub_name_is_asked_for_with_its_configuration_and_splits(monkeypatch):
    asked = []

    def load_dataset(source, config, split):
        asked.append((source, config, split))
        return Dataset.from_list(ROWS[:30] if split == "test" else ROWS[30:])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found, _ = read("owner/sums", dataset_config="main", heldout_split="test", train_split="all")
    assert asked == [("owner/sums", "main", "test"), ("owner/sums", "main", "all")]
    assert len(found.heldout) == 30 and found.heldout[0].problem_id.startswith("test/")


def test_labels_of_a_numeric_task_are_what_passing_rollouts_said(base_model):
    rows = [Problem(f"rows/{n}", f"?{n}+3<", f"+{n + 3}", 0, verifier="numeric") for n in range(5)]
    task = DatasetTask("rows", rows)
    passing = passing_problems(*base_model, task, rows, rollouts_per_prompt=32, seed=0)
    assert {problem.problem_id for problem in passing} == {problem.problem_id for problem in rows}
    assert all(problem.answer == str(int(problem.prompt[1]) + 3) for problem in passing)  # not the reference, which has a sign


def test_rollouts_for_labels_may_be_longer_than_the_answer_where_a_verifier_reads_it_out_of_a_text(base_model, monkeypatch):
    asked = []

    def completions(model, tokenizer, problems, max_new_tokens, end):
        asked.append(max_new_tokens)
        return [[*tokenizer(problem.answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for problem in problems]

    monkeypatch.setattr("bitsample_llm.training.rejection.sampled_completions", completions)
    for verifier in ("numeric", "exact"):
        rows = [Problem("rows/1", "?1+3<", "4", 0, verifier=verifier)]
        passing_problems(*base_model, DatasetTask("rows", rows), rows, rollouts_per_prompt=1, seed=0, max_tokens=40)
    assert asked == [40, 2]


def test_load_problems_gives_a_run_what_a_task_gives_it(tmp_path, capsys):
    source = jsonl(tmp_path / "sums.jsonl", ROWS)
    problems = load_problems(RunArguments(dataset=source, num_train_problems=30, num_heldout_problems=8))
    assert len(problems.train) == 30 and list(problems.evaluation_sets) == ["heldout", "train"]
    assert problems.data["source"] == source and "30 problems to train on" in capsys.readouterr().out


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict:
    """Folders of random models."""
    folder = tmp_path_factory.mktemp("models")
    return {name: make(name, folder / name) for name in ("qwen2", "llama")}


RUNS = {
    "sft, exact, chat": ("sft", "qwen2", {}),
    "grpo, exact, text": ("grpo", "llama", {"max_completion_length": 4}),
    "grpo, numeric, chat, LoRA": ("grpo", "qwen2", {"max_completion_length": 8, "verifier": "numeric", "use_peft": "true"}),
    "sft, numeric, text": ("sft", "qwen2", {"verifier": "numeric", "prompt_format": "text", "max_eval_tokens": 8}),
}


@pytest.mark.parametrize("name", RUNS)
def test_recipes_run_from_a_model_and_a_file(models, tmp_path, monkeypatch, name, capsys):
    recipe, model, options = RUNS[name]
    long = [{"prompt": "What is the sum of these? " + "1 + " * 300 + "1", "answer": "301"}]
    source = jsonl(tmp_path / "sums.jsonl", ROWS + long)
    sizes = {"num_train_problems": 100, "num_heldout_problems": 50, "max_steps": 2, "max_length": 512}
    if recipe == "grpo":
        sizes.pop("max_length")
    run = ran(monkeypatch, recipe, models[model], tmp_path / "run", dataset=source, **sizes | options)
    assert run.manifest["state"] == "finished"
    data = run.manifest["data"]
    assert data["left_out"] == {"prompt and answer are longer than 256 tokens": ["sums.jsonl/101"]}
    assert "1 rows left out, prompt and answer are longer than 256 tokens: sums.jsonl/101" in capsys.readouterr().out
    assert data["prompt_format"] == ("chat" if "chat" in name else "text")
    is_exact = "exact" in name
    assert data["pass_rates"].startswith("exact" if is_exact else "not exact: several answers pass")
    evals = run.table("evals").to_pylist()
    assert {row["split"] for row in evals} == {"heldout", "train"}
    assert {row["num_rollouts"] for row in evals} == {None if is_exact else 8}
    if recipe == "grpo":
        assert {row["offered_bits_estimator"] for row in run.table("prompts").to_pylist()} == {"exact" if is_exact else "jackknife"}
        assert {row["reason"] for row in run.table("rollouts").to_pylist()} <= {
            "wrong_answer", "not_ended", "too_long", "too_short", "empty", "correct",
            *(["no_verdict:no_number", "no_verdict:not_one_number"] * (not is_exact)),
        }  # fmt: skip


def test_answers_with_too_many_spellings_are_counted_and_null(models, tmp_path, monkeypatch, capsys):
    rows = [{"prompt": f"Write {n} in words.", "answer": f"The answer to that is number {n}, as it was asked."} for n in range(60)]
    source = jsonl(tmp_path / "words.jsonl", rows)
    options = {"max_steps": 2, "num_train_problems": 32, "num_eval_rollouts": 2, "max_eval_tokens": 4}
    run = ran(monkeypatch, "sft", models["llama"], tmp_path / "run", dataset=source, **options)
    told = run.manifest["data"]["pass_rates"]
    assert told.startswith("null for 4 of 4 answers, which have more than 64 spellings")
    assert f"held-out pass rates: {told}" in capsys.readouterr().out
    for row in run.table("evals").to_pylist():
        assert row["log2_pass_rate"] is None and sum(row["token_log2_probabilities"]) < 0
        assert row["reference_log2_probability"] == pytest.approx(sum(row["token_log2_probabilities"]))
        assert (row["num_passed"], row["num_rollouts"]) == (0, 2)


def test_answers_that_the_tokenizer_cannot_write_are_left_out(tmp_path, monkeypatch):
    rows = [{"prompt": f"{a}+{b}=", "answer": "neun" if a + b == 9 else str(a + b)} for a in range(10) for b in range(10)]
    source = jsonl(tmp_path / "sums.jsonl", rows)
    sizes = {"num_train_problems": 100, "num_heldout_problems": 100}
    run = ran(monkeypatch, "sft", "data/base", tmp_path / "run", dataset=source, max_steps=1, **sizes)
    words = {
        n for n, row in enumerate(rows, 1) if row["answer"] == "neun" and pool_of_prompt(row["prompt"]) in ("train", "heldout")
    }
    left_out = run.manifest["data"]["left_out"].pop("the tokenizer cannot write the answer")
    assert words and set(left_out) == {f"sums.jsonl/{number}" for number in words} and not run.manifest["data"]["left_out"]
    assert not set(left_out) & {row["problem_id"] for row in run.table("evals").to_pylist()}


def test_step_credit_without_step_verdicts_is_refused(models, tmp_path, monkeypatch, capsys):
    source = jsonl(tmp_path / "sums.jsonl", ROWS)
    with pytest.raises(SystemExit):
        options = {"dataset": source, "verifier": "numeric", "reward": "first_error", "max_completion_length": 8}
        ran(monkeypatch, "grpo", models["llama"], tmp_path / "run", **options)
    assert "need step verdicts: use --verifier exact" in capsys.readouterr().err
