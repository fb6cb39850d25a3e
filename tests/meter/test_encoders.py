"""The meter on models that see: what their encoders cost against torch's counter, in a pass and in whole trainings."""

import copy

import pytest
import torch
from datasets import Dataset, Image, List
from PIL import Image as Picture
from scripts.tiny_qwen2 import SUMS, byte_level_bpe
from test_flops import torch_counter
from test_meter import SHARED, assert_the_meter_moves_no_weight
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from bitsample_llm import InformationMeter
from bitsample_llm.meter.encoders import encoders
from bitsample_llm.meter.flop_counter import FlopCounter
from bitsample_llm.records import read_run

TEXT = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXT |= {"num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
TURNED = TEXT | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}}
SIGHT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28}
SIGHT |= {"patch_size": 7}
QWEN = {"patch_size": 7, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_heads": 2}
QWEN_LATER = QWEN | {"depth": 2, "hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64}
MARKS = {"image_token_id": 60, "vision_start_token_id": 61, "vision_end_token_id": 62, "video_token_id": 63}
SQUARES = {"pixel_values": torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))}
PATCHES = {"pixel_values": torch.randn(32, 3 * 2 * 49, generator=torch.Generator().manual_seed(0))}
PATCHES |= {"image_grid_thw": torch.tensor([[1, 4, 4]] * 2)}


def gemma3():
    text, seen = Gemma3TextConfig(**TEXT, layer_types=["full_attention"] * 3), SiglipVisionConfig(**SIGHT)
    config = Gemma3Config(text_config=text, vision_config=seen, mm_tokens_per_image=4, image_token_index=60)
    return Gemma3ForConditionalGeneration(config), 4, SQUARES


def llava():
    text, seen = LlamaConfig(**TEXT), CLIPVisionConfig(**SIGHT)
    config = LlavaConfig(text_config=text, vision_config=seen, image_token_index=60, vision_feature_layer=-1)
    return LlavaForConditionalGeneration(config), 16, SQUARES


def smolvlm():
    text, seen = LlamaConfig(**TEXT), SmolVLMVisionConfig(**SIGHT)
    config = SmolVLMConfig(text_config=text, vision_config=seen, image_token_id=60, scale_factor=2)
    return SmolVLMForConditionalGeneration(config), 4, {"pixel_values": SQUARES["pixel_values"][:, None]}


def qwen2_vl():
    seen = QWEN | {"depth": 2, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=TURNED, vision_config=seen, **MARKS)), 4, PATCHES


def qwen2_5_vl():
    seen = QWEN_LATER | {"window_size": 28, "fullatt_block_indexes": [1]}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=TURNED, vision_config=seen, **MARKS)), 4, PATCHES


def qwen3_vl():
    seen = QWEN_LATER | {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=TURNED, vision_config=seen, **MARKS)), 4, PATCHES


@pytest.mark.parametrize("rerun", [False, True], ids=["", "blocks run again"])
@pytest.mark.parametrize("frozen", [False, True], ids=["", "encoders frozen"])
@pytest.mark.parametrize("make", [gemma3, llava, smolvlm, qwen2_vl, qwen2_5_vl, qwen3_vl])
def test_passes_with_images_cost_what_torch_counts(make, frozen, rerun):
    torch.manual_seed(0)
    model, num_image_tokens, images = make()
    model.set_attn_implementation("eager")
    for encoder in encoders(model):
        encoder.requires_grad_(not frozen)
    if rerun:
        model.gradient_checkpointing_enable()
    model.train()
    ids = torch.randint(3, 50, (2, 40))
    ids[:, 4], ids[:, 5 : 5 + num_image_tokens] = 61, 60
    is_image = (ids == 60).int()
    kinds = {"token_type_ids": is_image} if make is gemma3 else {"mm_token_type_ids": is_image} if images is PATCHES else {}
    counter = FlopCounter(model, {1})
    for times in (1, 2):  # the second time its cost is looked up
        with torch_counter() as true:
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), **images, **kinds)
            forward = true.get_total_flops()
            output.logits.logsumexp(-1).sum().backward()
        assert counter.executed_flops["train_forward"] == pytest.approx(times * forward, rel=1e-6)
        assert counter.executed_flops["train_backward"] == pytest.approx(times * (true.get_total_flops() - forward), rel=0.02)
    counter.encoder_flops = 0.0
    with torch_counter() as true, torch.no_grad():
        model(input_ids=ids, attention_mask=torch.ones_like(ids), **images, **kinds)
    seen = sum(flops for name in names_of(model) for flops in true.get_flop_counts()[name].values())
    assert counter.encoder_flops == seen > 0.04 * true.get_total_flops()


def test_attention_of_encoders_is_priced_by_its_shapes_whatever_computes_it():
    model, num_image_tokens, images = llava()
    ids = torch.full((2, 20), 3)
    ids[:, :num_image_tokens] = 60
    flops = []
    for kind in ("eager", "sdpa"):
        model.set_attn_implementation(kind)
        counter = FlopCounter(model, {1})
        with torch.no_grad():
            model(input_ids=ids, attention_mask=torch.ones_like(ids), **images)
        flops.append(dict(counter.executed_flops))
        counter.detach()
    assert flops[0] == flops[1]


def names_of(model) -> list[str]:
    """Names of a model's encoders in torch's counter."""
    inside = encoders(model)
    names = [name for name, module in model.named_modules() if any(module is encoder for encoder in inside)]
    return [f"{type(model).__name__}.{name}" for name in names]


CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    """A tiny random LLaVA, in a folder too from which a trainer loads its reference, and its processor."""
    tokenizer = byte_level_bpe(SUMS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.chat_template = CHAT_TEMPLATE
    sizes = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    processor = LlavaProcessor(
        CLIPImageProcessorPil(**sizes),
        tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    text = TEXT | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlavaConfig(
        text_config=LlamaConfig(**text),
        vision_config=CLIPVisionConfig(**SIGHT),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    folder = tmp_path_factory.mktemp("seeing")
    model.save_pretrained(folder)
    return LlavaForConditionalGeneration.from_pretrained(folder, attn_implementation="eager"), processor


def rows_with_images(with_answers: bool) -> Dataset:
    pictures = [Picture.new("RGB", (28, 28), (20 * number, 0, 0)) for number in range(8)]
    rows = [
        {"prompt": [{"role": "user", "content": "What is this?"}], "images": [picture]}
        | ({"completion": [{"role": "assistant", "content": f"{number}."}]} if with_answers else {})
        for number, picture in enumerate(pictures)
    ]
    return Dataset.from_list(rows).cast_column("images", List(Image()))


def sft_trainer(seeing, folder, **options):
    model, processor = seeing
    how = SHARED | {"per_device_train_batch_size": 4, "max_length": None, "max_steps": 2} | options
    args = SFTConfig(output_dir=str(folder / "checkpoints"), **how)
    return SFTTrainer(copy.deepcopy(model), args=args, train_dataset=rows_with_images(True), processing_class=processor)


def many_letters(completions, **columns) -> list[float]:
    return [float(len(completion[0]["content"]) > 5) for completion in completions]


def rl_trainer(seeing, folder, **options):
    model, processor = seeing
    how = SHARED | {
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 4,
        "max_steps": 2,
        "beta": 0.04,
    }
    args = GRPOConfig(output_dir=str(folder / "checkpoints"), **how | options)
    data = {"train_dataset": rows_with_images(False), "processing_class": processor}
    trainer = GRPOTrainer(copy.deepcopy(model), many_letters, args=args, **data)
    trainer.ref_model.set_attn_implementation("eager")  # which torch's counter sees
    return trainer


WAYS = [
    pytest.param(sft_trainer, {}, id="SFT"),
    pytest.param(
        sft_trainer, {"gradient_accumulation_steps": 2, "gradient_checkpointing": True}, id="SFT, two parts, blocks run again"
    ),
    pytest.param(rl_trainer, {}, id="GRPO"),
]


@pytest.mark.parametrize(("make", "options"), WAYS)
def test_trainings_with_images_cost_what_torch_counts(seeing, tmp_path, make, options):
    trainer = make(seeing, tmp_path, **options)
    meter = InformationMeter(trainer, tmp_path / "run")
    trainer.add_callback(meter)
    with torch_counter() as true:
        trainer.train()
    assert meter.total_flops == pytest.approx(true.get_total_flops(), rel=0.02)
    run = read_run(tmp_path / "run")
    # of each pass of an encoder that trains there are two backward; generation and scores of both models have none
    assert 0.04 * meter.total_flops < run.steps[-1]["flops/encoders"] < 0.4 * meter.total_flops
    table = run.table("prompts" if make is sft_trainer else "rollouts")
    assert table.num_rows == run.steps[-1]["samples/total"] > 0
    if make is sft_trainer:
        assert all(bits > 0 for bits in table["offered_bits"].to_pylist())


@pytest.mark.parametrize("make", [sft_trainer, rl_trainer])
def test_weights_with_and_without_the_meter_are_bit_identical(seeing, tmp_path, make):
    assert_the_meter_moves_no_weight(
        lambda: make(seeing, tmp_path, learning_rate=1e-3),
        lambda trainer: trainer.add_callback(InformationMeter(trainer, tmp_path / "run")),
    )


def test_a_model_that_only_reads_has_no_encoders(base_model):
    assert FlopCounter(base_model[0], {1}).encoder_flops is None
