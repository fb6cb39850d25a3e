"""Solved problems before every prompt: the same for all, never the problem itself, never a held-out one."""

import json

import pytest
from scripts.tiny_families import make
from test_real_models import ran
from transformers import AutoModelForCausalLM, AutoTokenizer

from bitsample_llm.records import read_run
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import exact_pass_rates
from bitsample_llm.tasks import Problem, load_task
from bitsample_llm.training.arguments import RunArguments
from bitsample_llm.training.problems import load_problems
from bitsample_llm.training.prompt_format import after_shots, problems_for_model

SHOTS = {"shots": 3, "mark": "none", "num_train_problems": 8, "num_heldout_problems": 4, "difficulty": 1, "answer_format": "plain"}
SHOTS |= {"prompt_format": "text"}


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    folder = make("smollm", tmp_path_factory.mktemp("smollm"))
    return folder, AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def prepared(chat_model, **options):
    """The problems as they are loaded, and as the model takes them."""
    _, model, tokenizer = chat_model
    study = RunArguments(**SHOTS | options)
    loaded = load_problems(study)
    return loaded, problems_for_model(loaded, model, tokenizer, study, end=AnswerEnd.of(model, tokenizer))


def test_prompts_without_an_author_begin_with_the_question():
    task = load_task("addition", difficulty=2, mark="none")
    assert task.problem(47, 85).prompt == "47+85=" and task.problem(47, 85).problem_id == "addition/plain/none/47+85"
    assert "marked" not in load_problems(RunArguments(mark="none")).evaluation_sets


def test_all_prompts_of_a_run_begin_with_the_same_solved_training_problems(chat_model):
    loaded, problems = prepared(chat_model)
    *rest, a, b, c = loaded.train
    shown = f"{a.prompt}{a.answer}\n{b.prompt}{b.answer}\n{c.prompt}{c.answer}\n"
    assert [problem.prompt for problem in problems.train] == [shown + problem.prompt for problem in rest]
    assert problems.evaluation_sets.keys() == loaded.evaluation_sets.keys()
    assert all(problem.prompt.startswith(shown) for part in problems.evaluation_sets.values() for problem in part)
    assert problems.data["shots"] == {"separator": "\n", "problem_ids": [shot.problem_id for shot in (a, b, c)]}
    again, other = prepared(chat_model)[1], prepared(chat_model, problem_seed=1)[1]
    assert again.data == problems.data and other.data["shots"] != problems.data["shots"]
    assert "shots" not in prepared(chat_model, shots=0)[1].data


def test_a_shot_is_no_problem_of_any_set(chat_model):
    _, problems = prepared(chat_model, num_heldout_problems=8, difficulty=2)  # as many as are trained on, which are a set too
    shown = set(problems.data["shots"]["problem_ids"])
    sets = [problems.train, *problems.evaluation_sets.values()]
    assert not shown & {problem.problem_id for part in sets for problem in part}
    assert len(problems.evaluation_sets["train"]) == 5


def test_in_a_conversation_they_are_earlier_turns(chat_model):
    loaded, problems = prepared(chat_model, prompt_format="chat", shots=1)
    shot, first = loaded.train[-1], problems.train[0]
    turns = [("user", shot.prompt), ("assistant", shot.answer), ("user", loaded.train[0].prompt)]
    assert [(message["role"], message["content"]) for message in first.prompt] == turns


def test_a_system_message_is_said_once():
    def asked(text: str) -> Problem:
        return Problem(text, [{"role": "system", "content": "Add."}, {"role": "user", "content": text}], "7", 0)

    roles = [message["role"] for message in after_shots(asked("3+4="), [asked("2+5=")], "").prompt]
    assert roles == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": 8}, "--shots 8 needs more than 8 training problems, got 8"),
        ({"shots": 60, "num_train_problems": 100, "difficulty": 2}, "are longer than 256 tokens.*; ask for fewer --shots"),
    ],
)
def test_shots_that_cannot_be_had_are_refused_in_one_line(chat_model, options, message):
    with pytest.raises(ValueError, match=message) as refused:
        prepared(chat_model, **options)
    assert "\n" not in str(refused.value)


def test_texts_and_conversations_are_no_examples_of_one_another():
    text, conversation = Problem("text", "3+4=", "7", 0), Problem("chat", [{"role": "user", "content": "3+4="}], "7", 0)
    with pytest.raises(ValueError, match="pass --prompt_format chat"):
        after_shots(text, [conversation], "\n")


@pytest.mark.parametrize("recipe", ["sft", "grpo"])
def test_recipes_train_and_evaluate_after_shots(chat_model, tmp_path, monkeypatch, recipe):
    folder, model, tokenizer = chat_model
    options = SHOTS | {"stop": "\\n", "max_steps": 1} | ({"max_completion_length": 4} if recipe == "grpo" else {})
    run = ran(monkeypatch, recipe, folder, tmp_path / "run", **options)
    assert run.manifest["state"] == "finished" and len(run.manifest["data"]["shots"]["problem_ids"]) == 3
    loaded = load_problems(RunArguments(**SHOTS))
    heldout = [after_shots(problem, loaded.train[-3:], "\n") for problem in loaded.evaluation_sets["heldout"]]
    rates = exact_pass_rates(model, tokenizer, heldout, AnswerEnd.of(model, tokenizer, "\n"))
    rows = [row for row in run.table("evals").to_pylist() if (row["step"], row["split"]) == (0, "heldout")]
    assert [2 ** row["log2_pass_rate"] for row in rows] == pytest.approx(rates, rel=1e-3)


def test_a_data_set_is_measured_after_shots(chat_model, tmp_path, recipe):
    rows = [{"prompt": f"{a} plus {b} is", "answer": str(a + b)} for a in range(8) for b in range(8)]
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"model_name_or_path": chat_model[0], "dataset": data, "shots": 2, "shot_separator": ".\\n", "stop": "\\n"}
    options |= {"num_train_problems": 6, "num_heldout_problems": 2, "num_generations": 4, "max_completion_length": 4}
    options |= {"prompt_format": "text", "probe_shots": 0, "probe_mark": "", "probe_updates": 0, "output_dir": tmp_path / "run"}
    done = recipe("measure", *(word for name, value in options.items() for word in (f"--{name}", value)))
    assert done.returncode == 0, done.stderr[-2000:]
    run = read_run(tmp_path / "run")
    prompts = [row["prompt"] for row in run.table("problems").to_pylist()]
    assert len(prompts) == 4 and {prompt.count(".\n") for prompt in prompts} == {2}
    assert not any(
        shot in {row["problem_id"] for row in run.table("prompts").to_pylist()}
        for shot in run.manifest["data"]["shots"]["problem_ids"]
    )
