"""A named stop ends answers for the sampler, the exact probability, the label and the verdict alike."""

import json
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, forked
from datasets import Dataset
from scipy import stats
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from bitsample_llm import InformationMeter
from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.records import read_run
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import encode_answer, exact_pass_rates
from bitsample_llm.scoring.sampling import sampled_completions
from bitsample_llm.tasks import Problem
from bitsample_llm.tasks.dataset_rows import Faults
from bitsample_llm.tasks.dataset_task import DatasetTask
from bitsample_llm.training.credit import CREDITS, token_advantages
from bitsample_llm.training.early_stop import StopAtFirstError
from bitsample_llm.training.process_grpo import steps_of_completion, token_spans
from bitsample_llm.training.prompt_format import fitted, labelled_rows
from bitsample_llm.training.rejection import passing_problems
from bitsample_llm.training.rewards import VerdictReward

LEVEL = 0.001  # of the chi-square tests, fixed before they were run
ROLLOUTS = 4000
PROMPT = "Q: 40+6=\nA: "
ANSWERS = ["46", "4", "46.", "é", ""]
# with a newline: alone, before it, after it; `6\n` writes the end of an answer and the stop, `<A9>\n` half of an é
MERGES = [("4", "6"), ("6", "Ċ"), ("Ċ", "Ċ"), (".", "Ċ"), ("Ġ", "Ċ"), ("Ċ", "4"), ("46", "Ċ"), ("Ã", "©"), ("©", "Ċ")]


def newline_tokenizer(is_splitting: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE with tokens that hold a newline; one that splits before a last newline, as GPT-2's does, if asked for."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<eos>", "<pad>", *alphabet, *(a + b for a, b in MERGES)]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=is_splitting)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<eos>", "<pad>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


@pytest.fixture(scope="module")
def newline_model():
    """A small model that was shown every way to write the answers, and its tokenizer."""
    tokenizer = newline_tokenizer()
    config = LlamaConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=len(tokenizer),
        max_position_embeddings=128, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    end = AnswerEnd.of(model, tokenizer, "\n")
    prompt_ids = tokenizer(PROMPT)["input_ids"]
    shown = [[*ids, last] for answer in ANSWERS for ids, ends in end.spellings(answer) for last in ends]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    length = max(map(len, shown))
    rows = torch.tensor([[*prompt_ids, *ids, *[tokenizer.pad_token_id] * (length - len(ids))] for ids in shown])
    labels = rows.clone()
    labels[:, : len(prompt_ids)] = -100
    labels[labels == tokenizer.pad_token_id] = -100
    for _ in range(40):
        model(input_ids=rows, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), tokenizer


def problem_of(answer: str) -> Problem:
    return Problem(f"is {answer}", PROMPT, answer, 1)


def ids_of(tokenizer, *tokens: str) -> list[int]:
    return tokenizer.convert_tokens_to_ids(list(tokens))


def test_every_token_that_holds_the_stop_is_an_end_and_what_it_writes_before_is_part_of_the_answer():
    tokenizer = newline_tokenizer()
    end = AnswerEnd.of(None, tokenizer, "\n")
    vocabulary = tokenizer.get_vocab()
    assert set(end.token_ids) == {vocabulary["<eos>"]} | {index for token, index in vocabulary.items() if "Ċ" in token}
    assert end.token_ids[0] == tokenizer.eos_token_id and end.label_token_id == vocabulary["Ċ"]
    completions = [
        ids_of(tokenizer, *tokens)
        for tokens in (["46", "Ċ"], ["46", "ĊĊ"], ["46", "Ċ4"], ["4", "6Ċ"], ["46Ċ"], ["46", ".Ċ"], ["46", "<eos>"], ["46"])
    ]
    texts = ["46", "46", "46", "46", "46", "46.", "46", "46"]
    assert end.texts_and_ends(completions) == [*zip(texts[:-1], [True] * 7, strict=True), ("46", False)]
    assert end.texts_and_ends([ids_of(tokenizer, "Ã", "©Ċ"), ids_of(tokenizer, "©Ċ")]) == [("é", True), ("\ufffd", True)]
    assert end.texts_and_ends([[], [len(tokenizer) + 3, *ids_of(tokenizer, "46Ċ")]]) == [("", False), ("46\ufffd", True)]


def test_spellings_are_those_that_an_exhaustive_search_finds():
    tokenizer = newline_tokenizer()
    end = AnswerEnd.of(None, tokenizer, "\n")
    others = [index for index in tokenizer.get_vocab().values() if not end.is_end(index)]
    heads = [[], *([index] for index in others), *(ids_of(tokenizer, *pair) for pair in ("46", "4.", "6.", "Ã©"))]
    completions = [[*head, last] for head in heads for last in end.token_ids]
    for answer in ("46", "4", "é", "", "4."):
        by_force = [ids for ids, (text, _) in zip(completions, end.texts_and_ends(completions), strict=True) if text == answer]
        found = [[*ids, last] for ids, ends in end.spellings(answer) for last in ends]
        assert sorted(by_force) == sorted(found)
    assert len(end.spellings("46")) == 4  # 46 and its end, 4 6 and its end, 4 `6\n`, `46\n`


def test_without_a_stop_only_end_of_sequence_ends(newline_model):
    model, tokenizer = newline_model
    end = AnswerEnd.of(model, tokenizer)
    assert end.token_ids == [tokenizer.eos_token_id] and end.stop is None
    (completion,) = end.texts_and_ends([ids_of(tokenizer, "46", "Ċ")])
    assert completion == ("46\n", False)
    before = model.generation_config.eos_token_id
    end.declare(model)
    assert model.generation_config.eos_token_id is before


def walked(model, prompt_ids: list[int], ids: list[int]) -> float:
    """Probability of a token sequence, one step at a time."""
    probability, context = 1.0, list(prompt_ids)
    for token in ids:
        with torch.no_grad():
            probability *= float(model(input_ids=torch.tensor([context])).logits[0, -1].double().softmax(-1)[token])
        context.append(token)
    return probability


def test_pass_rate_is_the_sum_over_spellings_and_last_tokens_walked_step_by_step(newline_model):
    model, tokenizer = newline_model
    end = AnswerEnd.of(model, tokenizer, "\n")
    rates = exact_pass_rates(model, tokenizer, [problem_of(answer) for answer in ANSWERS], end)
    for answer, rate in zip(ANSWERS, rates, strict=True):
        every = [[*ids, last] for ids, ends in end.spellings(answer) for last in ends]
        assert rate == pytest.approx(sum(walked(model, tokenizer(PROMPT)["input_ids"], ids) for ids in every), rel=1e-4)


def test_rollouts_are_each_answer_as_often_as_its_exact_probability_says(newline_model):
    model, tokenizer = newline_model
    end = AnswerEnd.of(model, tokenizer, "\n")
    rates = exact_pass_rates(model, tokenizer, [problem_of(answer) for answer in ANSWERS], end)
    assert (rates > 0.02).all() and 0.5 < rates.sum() < 0.999
    problem = problem_of("46")
    torch.manual_seed(1)
    completions = sampled_completions(model, tokenizer, [problem] * ROLLOUTS, 6, batch_size=2000, end=end)
    counts = Counter(text for text, ended in end.texts_and_ends(completions) if ended)
    drawn = np.array([*(counts[answer] for answer in ANSWERS), 0])
    drawn[-1] = ROLLOUTS - drawn.sum()
    expected = ROLLOUTS * np.array([*rates, 1 - rates.sum()])
    p_value = stats.chisquare(drawn, expected).pvalue
    print(f"{ROLLOUTS} rollouts: drawn {drawn}, expected {expected.round(1)}, p = {p_value:.3f}")
    assert p_value > LEVEL
    verifier = RolloutVerifier(DatasetTask("sums", [problem]), [problem], tokenizer, end)
    judged = verifier.judged([problem.problem_id] * ROLLOUTS, completions)
    assert sum(verdict.passed for _, _, verdict in judged) == counts["46"]
    straddling = sum(end.is_end(ids[-1]) and bool(end.text_before(ids)) for ids in completions)
    assert straddling > ROLLOUTS / 10
    # without tokens that write something before the stop the same test sees the difference
    unstraddled = sum(
        walked(model, tokenizer(PROMPT)["input_ids"], [*ids, last])
        for ids, ends in end.spellings("46") for last in ends if not end.text_before([*ids, last])
    )  # fmt: skip
    assert stats.binomtest(counts["46"], ROLLOUTS, unstraddled).pvalue < LEVEL


@pytest.mark.parametrize(
    ("stop", "hint"),
    [("Answer:", "such as 'A'"), ("\n#", "such as '\\\\n'"), ("\n\n", "such as '\\\\n'")],
)
def test_a_stop_of_several_tokens_is_refused_with_a_part_that_is_one(stop, hint):
    with pytest.raises(ValueError, match=rf"takes several tokens of this tokenizer.*{hint}"):
        AnswerEnd.of(None, newline_tokenizer(is_splitting=True), stop)  # which writes an empty line in two before a character
    if stop == "\n\n":
        end = AnswerEnd.of(None, newline_tokenizer(), stop)
        assert end.label_token_id == newline_tokenizer().convert_tokens_to_ids("ĊĊ")


def test_a_label_ends_with_the_stop_and_an_answer_that_holds_it_is_left_out():
    tokenizer = newline_tokenizer()
    end = AnswerEnd.of(None, tokenizer, "\n")
    assert encode_answer(tokenizer, problem_of("46"), end)[1] == ids_of(tokenizer, "46", "Ċ")
    (row,) = labelled_rows([problem_of("46")], tokenizer, end)
    assert row["labels"][-2:] == ids_of(tokenizer, "46", "Ċ")
    faults = Faults()
    kept = fitted([problem_of("46"), problem_of("4\n6")], end, "text", None, 8, faults)
    assert [problem.answer for problem in kept] == ["46"]
    assert list(faults.rows_by_fault) == ["the answer holds the stop '\\n', at which sampling ends"]


def test_passing_rollouts_end_at_the_stop(newline_model):
    model, tokenizer = newline_model
    end = AnswerEnd.of(model, tokenizer, "\n")
    problem = problem_of("46")
    (rate,) = exact_pass_rates(model, tokenizer, [problem], end)
    task = DatasetTask("sums", [problem])
    passing = passing_problems(model, tokenizer, task, [problem], rollouts_per_prompt=400, seed=2, end=end)
    assert stats.binomtest(len(passing), 400, rate).pvalue > LEVEL


def test_a_token_that_writes_the_last_digit_and_the_stop_gets_the_credit_of_both():
    tokenizer = newline_tokenizer()
    end = AnswerEnd.of(None, tokenizer, "\n")
    problem = problem_of("46")
    verifier = RolloutVerifier(DatasetTask("sums", [problem]), [problem], tokenizer, end)
    for tokens, spans, covered in (
        (["4", "6Ċ"], [(0, 1), (1, 2)], [[0], [1, 2]]),
        (["46Ċ"], [(0, 2)], [[0, 1, 2]]),
        (["46", "Ċ"], [(0, 2), (2, 2)], [[0, 1], [2]]),
    ):
        ids = ids_of(tokenizer, *tokens)
        ((_, _, verdict),) = verifier.judged([problem.problem_id], [ids])
        assert verdict.passed and token_spans(tokenizer, ids, end) == spans
        assert steps_of_completion(end, ids, verdict.steps) == covered
        advantages = token_advantages(CREDITS["first_error"], np.array([1.0, 2.0, 4.0]), 0.0, covered)
        assert sum(a * len(steps) for a, steps in zip(advantages, covered, strict=True)) == 7.0


def test_an_early_stop_takes_the_stop_for_an_end_and_not_for_an_error():
    tokenizer = newline_tokenizer()
    problem = problem_of("46")
    task = DatasetTask("sums", [problem])
    prompt = tokenizer(PROMPT)["input_ids"]
    for stop, tokens, is_done in (("\n", ["4", "6Ċ"], True), ("\n", ["46", "."], True), ("\n", ["4", "6"], False)):
        criterion = StopAtFirstError(task, AnswerEnd.of(None, tokenizer, stop), {tuple(prompt): problem}, len(prompt))
        assert criterion(torch.tensor([prompt + ids_of(tokenizer, *tokens)]), None).tolist() == [is_done]


def test_the_meter_refuses_a_stop_at_which_its_trainer_does_not_end(newline_model, tmp_path):
    model, tokenizer = newline_model
    problem = problem_of("46")
    end = AnswerEnd.of(model, tokenizer, "\n")
    verifier = RolloutVerifier(DatasetTask("sums", [problem]), [problem], tokenizer, end)

    def trainer():
        return GRPOTrainer(
            model=model,
            reward_funcs=[VerdictReward(verifier)],
            args=GRPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none"),
            train_dataset=Dataset.from_list([{"prompt": PROMPT, "problem_id": problem.problem_id}]),
            processing_class=tokenizer,
        )

    with pytest.raises(
        ValueError, match=r"does not end rollouts at the stop '\\n': call AnswerEnd.of\(model, tokenizer, stop\).declare"
    ):
        InformationMeter(trainer(), tmp_path / "run", verifier=verifier)
    ids = model.generation_config.eos_token_id
    end.declare(model)
    meter = InformationMeter(trainer(), tmp_path / "run", verifier=verifier)
    model.generation_config.eos_token_id = ids
    assert meter.end.token_ids == end.token_ids and meter.counter.eos_token_ids.tolist() == sorted(end.token_ids)


def saved(newline_model, folder: Path) -> Path:
    model, tokenizer = newline_model
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"prompt": f"Q: {a}+6=\nA: ", "answer": str(a + 6)} for a in range(30, 60)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run_recipe(folder: Path, name: str, *options: str) -> subprocess.CompletedProcess:
    words = ["--model_name_or_path", folder / "model", "--dataset", folder / "sums.jsonl", "--output_dir", folder / "run"]
    return forked(REPOSITORY / "recipes" / name, [*map(str, words), *options], folder / "said")


def test_a_recipe_takes_a_stop_as_the_shell_writes_it(newline_model, tmp_path):
    folder = saved(newline_model, tmp_path)
    done = run_recipe(
        folder, "grpo.py", "--stop", "\\n", "--max_steps", "1", "--per_device_train_batch_size", "64", "--num_generations", "8",
        "--reward", "first_error", "--stop_at_first_error", "true", "--max_completion_length", "8", "--bf16", "false",
        "--use_cpu", "true", "--report_to", "none", "--temperature", "1.0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    run = read_run(folder / "run")
    rollouts = run.table("rollouts").to_pylist()
    assert any(rollout["ended"] for rollout in rollouts) and not any("\n" in rollout["text"] for rollout in rollouts)
    assert run.manifest["config"]["study"]["stop"] == "\n"
    declared = json.loads((folder / "run" / "model" / "generation_config.json").read_text())["eos_token_id"]
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    assert set(declared) == set(AnswerEnd.of(None, tokenizer, "\n").token_ids)


def test_a_recipe_refuses_a_stop_of_several_tokens_in_one_line(newline_model, tmp_path):
    done = run_recipe(saved(newline_model, tmp_path), "sft.py", "--stop", "Answer:", "--use_cpu", "true", "--bf16", "false")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: the stop 'Answer:' takes several tokens")
