"""Self-play: what becomes of proposals and what they earn, and recipes with it: places, charges, dead rows, resumes, two processes."""

import json
from types import SimpleNamespace

import pytest
import torch
from conftest import BASE
from safetensors.torch import load_file
from test_processes import launched
from test_real_models import ran
from transformers import AutoTokenizer

from bitsample_llm.records import RecordError, read_run
from bitsample_llm.tasks import load_task
from bitsample_llm.tasks.proposals import is_evaluated, proposed_problem
from bitsample_llm.training.objectives import SkipsDeadRows
from bitsample_llm.training.self_play import PROPOSER, ProblemSetter, Proposal, ProposalVerifier, SelfPlays

# by operands that may be trained on, and one whose operands are held out
GOOD = [text for n in range(11, 40) if not is_evaluated(proposed_problem(text := f"{'ABCDEG'[n % 6]}{n}+{3 * n - 20}<"))][:6]
HELD_OUT = next(text for n in range(11, 99) if is_evaluated(proposed_problem(text := f"C{n}+37<")))
SMALL = {"difficulty": 2, "num_train_problems": 64, "num_heldout_problems": 8, "prompt_format": "text", "disable_tqdm": "true"}
PLAY = {"self_play": "near_half", "num_generations": 4, "per_device_train_batch_size": 16, "max_completion_length": 9}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


def written(tokenizer, text: str) -> list[int]:
    """Token ids of a proposal that ended by itself."""
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


@pytest.fixture
def setter(tokenizer):
    return ProblemSetter(ProposalVerifier(load_task("addition", "reversed"), [], tokenizer), longest=5)


def test_proposals_are_sorted_and_only_new_problems_get_a_place(tokenizer, setter):
    texts = [GOOD[0], "B+31", HELD_OUT, GOOD[0], GOOD[1], GOOD[2], "A12345+54321<"]
    ids = [written(tokenizer, text) for text in texts]
    proposals = setter.read([*ids, ids[3][:-1]], num_places=2)  # the last one did not end
    assert [proposal.status for proposal in proposals] == [
        *("asked", "invalid", "held_out", "repeated", "asked", "no_place", "invalid", "invalid")
    ]
    assert proposals[0].problem.problem_id in setter.verifier.problem_by_id
    assert setter.read(ids[:1], 1)[0].status == "repeated"


def test_a_proposal_earns_most_at_a_half_and_nothing_for_what_is_no_new_problem():
    rewards = [Proposal("", "asked", pass_rate_estimate=p).reward for p in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert rewards == [0.0, 0.5, 1.0, 0.5, 0.0]
    assert [Proposal("", status).reward for status in ("invalid", "held_out", "repeated", "no_place")] == [0.0, 0.0, 0.0, None]


def test_what_was_proposed_lately_is_remembered_over_a_checkpoint(tmp_path, tokenizer, setter):
    setter.read([written(tokenizer, GOOD[0])], 1)
    setter.save(tmp_path)
    other = ProblemSetter(ProposalVerifier(load_task("addition", "reversed"), [], tokenizer), longest=5)
    other.load(tmp_path)
    assert other.read([written(tokenizer, GOOD[0])], 1)[0].status == "repeated"
    with pytest.raises(RecordError, match="of a run without --self_play"):
        other.load(tmp_path / "elsewhere")


def test_rows_without_an_advantage_leave_the_batch_where_the_loss_is_a_sum():
    class Loss:
        model = SimpleNamespace(training=True)
        loss_type, top_entropy_quantile, beta, _entropy_bonus_enabled = "dapo", 1.0, 0.0, False

        def compute_loss(self, model, inputs):
            return inputs["rollout_index"].tolist()

    class Skips(SkipsDeadRows, Loss):
        pass

    def batch(*advantages):
        rows = torch.arange(len(advantages))
        return {"advantages": torch.tensor(advantages), "rollout_index": rows, "num_items_in_batch": torch.tensor(7.0)}

    trainer = Skips()
    assert trainer.compute_loss(None, batch(0.0, 1.0, 0.0, -1.0)) == [1, 3]  # on two processes the same number: others fill up
    assert trainer.compute_loss(None, batch(0.0, 0.0)) == [0]
    trainer.loss_type = "grpo"  # a mean over rows
    assert trainer.compute_loss(None, batch(0.0, 1.0)) == [0, 1]


def replaced(monkeypatch, texts_of_step):
    """Let the model propose what a test says; it still draws, and pays for, proposals of its own, which are all the same length."""
    drawn = SelfPlays._drawn_proposals

    def stated(self):
        own = drawn(self)
        assert len(own) == self.num_generations
        texts = texts_of_step(self.state.global_step)
        return [written(self.processing_class, text) for text in texts] if texts else own

    monkeypatch.setattr(SelfPlays, "_drawn_proposals", stated)


def grpo(monkeypatch, folder, **options):
    return ran(monkeypatch, "grpo", BASE, folder, **SMALL | PLAY | {"max_steps": 2, "learning_rate": 1e-4} | options)


def proposals_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "proposals.jsonl").read_text().splitlines()]


def test_proposals_are_asked_in_their_places_and_the_rest_is_training_problems(monkeypatch, tmp_path):
    replaced(monkeypatch, lambda step: [GOOD[step], "B+31", GOOD[step + 2], HELD_OUT])
    run = grpo(monkeypatch, tmp_path / "run")
    groups, rollouts = run.table("prompts").to_pylist(), run.table("rollouts").to_pylist()
    asked = [proposed_problem(text).problem_id for text in (GOOD[0], GOOD[2], GOOD[1], GOOD[3])]
    ids = [row["problem_id"] for row in groups]
    assert ids[0] == ids[4] == PROPOSER and [*ids[1:3], *ids[5:7]] == asked
    assert all("/?/" in ids[place] for place in (3, 7))  # a training problem, since there is no other proposal
    for row in groups:  # proposals have no verdict, and offer nothing
        is_proposer = row["problem_id"] == PROPOSER
        assert (row["group_size"], row["pass_rate"] is None, row["offered_bits"] is None) == (
            4 * (not is_proposer),
            *[is_proposer] * 2,
        )
    by_problem = {row["problem_id"]: row["num_passed"] / 4 for row in groups}
    written_rows = [row for row in rollouts if row["problem_id"] == PROPOSER]
    assert [row["text"] for row in written_rows[:4]] == [GOOD[0], "B+31", GOOD[2], HELD_OUT]
    assert all(row["passed"] is None for row in written_rows)
    assert all(row["passed"] is not None for row in rollouts if row["problem_id"] != PROPOSER)
    told = proposals_of(tmp_path / "run")
    assert [row["status"] for row in told] == ["asked", "invalid", "asked", "held_out"] * 2
    for row, rollout in zip(told, written_rows, strict=True):
        if row["status"] == "asked":
            assert row["pass_rate_estimate"] == by_problem[row["problem_id"]]
        assert (
            row["reward"] == rollout["reward"] == (1 - 2 * abs(row["pass_rate_estimate"] - 0.5) if row["status"] == "asked" else 0)
        )


def test_proposals_are_charged_once_and_count_as_samples(monkeypatch, tmp_path):
    replaced(monkeypatch, lambda step: None)  # the embedded model was not taught to propose: nothing is asked
    run = grpo(monkeypatch, tmp_path / "play", learning_rate=0.0)
    plain = grpo(monkeypatch, tmp_path / "plain", self_play="none", per_device_train_batch_size=12, learning_rate=0.0)
    play, without = run.steps[-1], plain.steps[-1]
    assert play["samples/total"] == 2 * 16 and without["samples/total"] == 2 * 12
    prompt_tokens = {"?": 1 + 2 + 1 + 2 + 1}["?"]  # of two digits, against the one of the propose mark
    grows = play["flops/prefill"] / without["flops/prefill"]
    assert grows == pytest.approx(1 + 4 / (12 * prompt_tokens), rel=0.03)
    assert {row["status"] for row in proposals_of(tmp_path / "play")} == {"invalid"}
    assert json.loads((tmp_path / "play" / "manifest.json").read_text())["arm"] == "grpo_self_play_near_half"


def test_an_untrained_proposer_gets_no_reward_and_is_not_trained(monkeypatch, tmp_path):
    replaced(monkeypatch, lambda step: [GOOD[step], "B+31", GOOD[step + 2], HELD_OUT])
    runs = {
        name: grpo(monkeypatch, tmp_path / name, self_play=name, skip_dead_updates="true") for name in ("near_half", "untrained")
    }
    rows = [row for row in runs["untrained"].table("rollouts").to_pylist() if row["problem_id"] == PROPOSER]
    assert [row["reward"] for row in rows] == [None] * 8
    assert {row["reward"] for row in proposals_of(tmp_path / "untrained")} == {None}
    # dead rows are not trained on, and no surprisal of them is known
    assert all(row["surprisal_bits"] is None for row in rows)
    assert runs["untrained"].steps[-1]["flops/prefill"] == pytest.approx(runs["near_half"].steps[-1]["flops/prefill"])


def test_rows_without_an_advantage_cost_nothing_and_change_nothing(monkeypatch, tmp_path):
    replaced(monkeypatch, lambda step: [GOOD[0], "B+31", GOOD[3], HELD_OUT])
    options = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1, "optim": "sgd", "learning_rate": 0.1}
    runs = {name: grpo(monkeypatch, tmp_path / name, skip_dead_updates=name, **options) for name in ("true", "false")}
    start, *ends = (
        torch.cat([tensor.float().flatten() for _, tensor in sorted(load_file(file).items())])
        for file in (f"{BASE}/model.safetensors", *(tmp_path / name / "model" / "model.safetensors" for name in runs))
    )
    assert (ends[0] - ends[1]).abs().max() < 1e-4 * (ends[0] - start).abs().max() > 0
    trained = {name: run.steps[-1]["flops/train_forward"] for name, run in runs.items()}
    assert 0 < trained["true"] < trained["false"]


def test_a_resumed_run_goes_on_proposing(monkeypatch, tmp_path):
    replaced(monkeypatch, lambda step: [GOOD[step % 3], "B+31", GOOD[3 + step % 3], HELD_OUT])
    options = {"save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-5}
    grpo(monkeypatch, tmp_path / "whole", max_steps=4, **options)
    grpo(monkeypatch, tmp_path / "cut", max_steps=3, **options)
    manifest = json.loads((tmp_path / "cut" / "manifest.json").read_text())
    (tmp_path / "cut" / "manifest.json").write_text(json.dumps(manifest | {"state": "running"}))
    with (tmp_path / "cut" / "proposals.jsonl").open("a") as file:
        file.write('{"step": 4, "te')  # cut by a kill
    (tmp_path / "cut" / "checkpoints" / "checkpoint-3" / "trainer_state.json").unlink(missing_ok=True)
    grpo(monkeypatch, tmp_path / "cut", max_steps=4, resume_from_checkpoint="last", **options)
    whole, cut = (proposals_of(tmp_path / name) for name in ("whole", "cut"))
    assert [row["step"] for row in cut] == [step for step in (1, 2, 3, 4) for _ in range(4)]
    assert [row["status"] for row in whole] == [row["status"] for row in cut]
    assert [row["status"] for row in cut[-4:]] == ["repeated", "invalid", "repeated", "held_out"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"trainer": "rloo"}, "--self_play needs --trainer grpo"),
        ({"selection": "thompson"}, "--self_play and --selection do not go together"),
        ({"reward": "random"}, "--self_play needs --reward outcome, got random"),
        ({"stop_at_low_value": "true"}, "--stop_at_low_value and --self_play do not go together"),
        ({"per_device_train_batch_size": 4}, "raise per_device_train_batch_size, best (1 + 4) x 4"),
        ({"shots": 2}, "no --shots and no --memorise"),
        ({"self_play": "often"}, "invalid choice: 'often'"),
    ],
)
def test_what_cannot_propose_is_told_in_one_line(recipe, tmp_path, options, told):
    words = [word for name, value in (SMALL | PLAY | options).items() for word in (f"--{name}", value)]
    done = recipe("grpo", *words, "--output_dir", tmp_path / "run")
    assert done.returncode in (1, 2)
    assert told in done.stderr and done.stderr.count("\n") == 1, done.stderr[-500:]


@pytest.mark.slow
def test_two_processes_share_the_proposals(tmp_path):
    run, _ = launched("grpo", "two_cpus", tmp_path / "two", **SMALL | PLAY | {"max_steps": 2, "skip_dead_updates": "true"})
    groups = run.table("prompts").to_pylist()
    assert [row["problem_id"] == PROPOSER for row in groups] == ([True] + [False] * (len(groups) // 2 - 1)) * 2
    told = proposals_of(tmp_path / "two")
    rows = [row for row in run.table("rollouts").to_pylist() if row["problem_id"] == PROPOSER]
    assert [row["text"] for row in told] == [row["text"] for row in rows] and len(rows) == 8
    assert len({row["text"] for row in rows}) > 4  # the processes draw different ones
    assert read_run(tmp_path / "two").manifest["state"] == "finished"
