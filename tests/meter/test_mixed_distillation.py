"""The meter on trainers whose teacher judges completions of the data and of the student: GKD, GOLD and IW-OPD."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from scripts.tiny_qwen2 import byte_level_bpe, make
from test_flops import torch_counter
from test_meter import PROBLEMS, SHARED, assert_the_meter_moves_no_weight
from test_meter_everywhere import GenerationServer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl.experimental.gkd import GKDConfig, GKDTrainer
from trl.experimental.gold import GOLDConfig, GOLDTrainer
from trl.experimental.iw_opd import IWOPDConfig, IWOPDTrainer

from bitsample_llm import InformationMeter
from bitsample_llm.meter.distillation import divergence_bits
from bitsample_llm.records import read_run

CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% if message['role'] == 'assistant' %}{% generation %}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
KINDS = {"GKD": (GKDTrainer, GKDConfig), "GOLD": (GOLDTrainer, GOLDConfig), "IW-OPD": (IWOPDTrainer, IWOPDConfig)}


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A tiny random Qwen2 and its tokenizer, byte-level as GOLD wants it, with the folder that they lie in."""
    folder = tmp_path_factory.mktemp("student")
    make(str(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager"), tokenizer, folder


def teacher_of(vocab_size: int, folder):
    torch.manual_seed(0)
    shape = {"hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    teacher = LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, attn_implementation="eager", **shape))
    teacher.config._name_or_path = str(folder)  # whose tokenizer is the teacher's
    return teacher


def mixed_trainer(student, folder, kind, teacher=None, **options):
    model, tokenizer, its_folder = student
    trainer, config = KINDS[kind]
    length = "max_new_tokens" if kind == "GKD" else "max_completion_length"
    how = SHARED | {"per_device_train_batch_size": 8, length: 4, "beta": 0.0, "temperature": 1.0}
    if kind == "IW-OPD":
        how |= {"loss_top_k": 0, "distillation_objective": "jsd"}
    rows = [
        {"messages": [{"role": "user", "content": problem.prompt}, {"role": "assistant", "content": problem.answer}]}
        for problem in PROBLEMS
    ]
    args = config(output_dir=str(folder / "checkpoints"), **how | options)
    data = {"train_dataset": Dataset.from_list(rows), "processing_class": tokenizer}
    teacher = teacher or teacher_of(model.config.vocab_size, its_folder)
    return trainer(model=copy.deepcopy(model), teacher_model=teacher, args=args, **data)


def metered(trainer, folder) -> InformationMeter:
    meter = InformationMeter(trainer, folder / "run")
    trainer.add_callback(meter)
    return meter


WAYS = [
    ("GKD", {"lmbda": 0.0}),
    ("GKD", {"lmbda": 1.0}),
    ("GKD", {"lmbda": 1.0, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}),
    ("GKD", {"lmbda": 1.0, "gradient_checkpointing": True}),
    ("GKD", {"lmbda": 0.0, "seq_kd": True}),
    ("GOLD", {"lmbda": 0.0}),
    ("GOLD", {"lmbda": 1.0, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}),
    ("IW-OPD", {"lmbda": 0.0}),
    ("IW-OPD", {"lmbda": 1.0, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}),
    ("IW-OPD", {"lmbda": 1.0, "distillation_objective": "iw_opd"}),
]


@pytest.mark.parametrize(("kind", "options"), WAYS)
def test_a_teacher_is_paid_for_and_offers_its_divergence(student, tmp_path, kind, options):
    trainer = mixed_trainer(student, tmp_path, kind, **options)
    meter = metered(trainer, tmp_path)
    with torch_counter() as true:
        trainer.train()
    assert meter.cumulative["flops/score_reference"] > 0
    assert (meter.cumulative["flops/decode"] > 0) == (options["lmbda"] == 1 or options.get("seq_kd", False))
    assert meter.total_flops == pytest.approx(true.get_total_flops(), rel=0.02)
    run = read_run(tmp_path / "run")
    assert run.manifest["regime"] == "distillation"
    assert run.table("prompts").num_rows == run.steps[-1]["samples/total"] == 4 * 8
    tokens = np.diff([0] + [line["tokens/completion"] for line in run.steps])
    nats = np.array([line["bits/offered_per_sample"] * np.log(2) * 8 for line in run.steps])
    assert all(nats > 0)
    # at beta 0 the loss is the forward divergence, a mean over the tokens of the data, which trainers count before they draw others
    if options["lmbda"] == 0 and not options.get("seq_kd"):
        assert list(nats / tokens) == pytest.approx([line["train/loss"] for line in run.steps], rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_offered_for_own_completions_is_the_divergence_of_both_models_on_them(student, tmp_path, kind):
    options = {"distillation_objective": "iw_opd"} if kind == "IW-OPD" else {}
    trainer = mixed_trainer(student, tmp_path, kind, lmbda=1.0, max_steps=1, **options)
    metered(trainer, tmp_path)
    original, seen = trainer.compute_loss, []

    def watched(model, inputs, *args, **kwargs):
        seen.append({name: inputs[name].clone() for name in ("input_ids", "attention_mask", "labels")})
        return original(model, inputs, *args, **kwargs)

    trainer.compute_loss = watched
    trainer.train()
    asked = {name: seen[0][name] for name in ("input_ids", "attention_mask")}
    start = copy.deepcopy(student[0]).eval()
    with torch.no_grad():
        teacher_BTV, student_BTV = (model(**asked).logits[:, :-1].double().softmax(-1) for model in (trainer.teacher_model, start))
    bits_BT = (teacher_BTV * (teacher_BTV.log2() - student_BTV.log2())).sum(-1)
    expected = (bits_BT * (seen[0]["labels"][:, 1:] != -100)).sum(1)
    recorded = read_run(tmp_path / "run").table("prompts")["offered_bits"].to_pylist()
    assert recorded == pytest.approx(expected.tolist(), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_with_and_without_the_meter_are_bit_identical(student, tmp_path, kind):
    assert_the_meter_moves_no_weight(
        lambda: mixed_trainer(student, tmp_path, kind, lmbda=1.0, learning_rate=1e-3), lambda trainer: metered(trainer, tmp_path)
    )


class Server(GenerationServer):
    """Without log-probabilities, for which these trainers do not ask."""

    def generate(self, prompts, images, num_generations, profiler=None):
        return *super().generate(prompts, images, num_generations, profiler)[:2], None, None


@pytest.mark.parametrize("kind", ["GOLD", "IW-OPD"])
def test_completions_of_a_server_are_priced_by_their_tokens(student, tmp_path, kind):
    trainer = mixed_trainer(student, tmp_path, kind, lmbda=1.0, max_steps=1)
    trainer.use_vllm, trainer.vllm_sync_frequency, trainer._last_vllm_sync_step = True, 1, -1
    trainer.vllm_generation = Server(*student[:2])
    meter = metered(trainer, tmp_path)
    trainer.train()
    assert 0 < meter.cumulative["flops/decode"] == meter.cumulative["flops_useful/decode"] < meter.cumulative["flops/prefill"]
    assert read_run(tmp_path / "run").steps[0]["tokens/completion"] == 2 * (1 + 2 + 3 + 4)


def test_a_teacher_with_another_tokenizer_is_paid_for_and_its_divergence_is_null(student, tmp_path):
    byte_level_bpe([problem.prompt for problem in PROBLEMS], 300).save_pretrained(tmp_path / "tokenizer")
    options = {"use_uld_loss": True, "teacher": teacher_of(300, tmp_path / "tokenizer"), "lmbda": 1.0}
    trainer = mixed_trainer(student, tmp_path, "GOLD", **options)
    meter = metered(trainer, tmp_path)
    with torch_counter() as true:
        trainer.train()
    assert meter.cumulative["flops/score_reference"] > 0
    assert meter.total_flops == pytest.approx(true.get_total_flops(), rel=0.02)
    run = read_run(tmp_path / "run")
    assert run.table("prompts")["offered_bits"].to_pylist() == [None] * 32 and "bits/offered_total" not in run.steps[-1]


def test_a_teacher_behind_a_server_is_refused_in_one_line(student, tmp_path):
    trainer = mixed_trainer(student, tmp_path, "IW-OPD", lmbda=1.0)
    trainer.teacher_model = None
    with pytest.raises(ValueError, match=r"IWOPDTrainer is behind a server.*give the trainer a teacher_model") as refused:
        metered(trainer, tmp_path)
    assert "\n" not in str(refused.value)


def test_divergence_of_equal_predictions_is_zero():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    assert divergence_bits(logits, logits, torch.ones(2, 3)).tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
