"""FLOPs counted from shapes against torch's own counter, set up to see everything that runs."""

import itertools

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from trl.trainer.utils import add_fused_lm_head

from bitsample_llm.flops import FEED_FORWARD_MATRICES, MIXTURES, forward_flops
from bitsample_llm.meter.flop_counter import FlopCounter
from bitsample_llm.meter.forward_passes import MOST_KEPT

TOLERANCE = 0.02
EOS = 1


def product_flops(a_shape, b_shape, c_shape, *args, out_shape=None, **kwargs) -> int:
    """FLOPs of addmm_: the stock counter does not know the in-place form, which TRL's fused head uses."""
    return 2 * b_shape[0] * b_shape[1] * c_shape[1]


def torch_counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: product_flops})


def llama(**options):
    defaults = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(**defaults | options, eos_token_id=EOS, pad_token_id=0, attn_implementation="eager"))


def qwen3(**options):
    defaults = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4}
    defaults |= {"num_key_value_heads": 2, "head_dim": 32}
    return Qwen3ForCausalLM(Qwen3Config(**defaults | options, eos_token_id=EOS, pad_token_id=0, attn_implementation="eager"))


def qwen2(**options):
    defaults = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4}
    return Qwen2ForCausalLM(
        Qwen2Config(**defaults | options, num_key_value_heads=2, eos_token_id=EOS, pad_token_id=0, attn_implementation="eager")
    )


def gpt2(**options):
    sizes = {"vocab_size": 64, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 512}
    return GPT2LMHeadModel(GPT2Config(**sizes | options, eos_token_id=EOS, pad_token_id=0, attn_implementation="eager"))


def gpt_neox():
    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    return GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, eos_token_id=EOS, pad_token_id=0, attn_implementation="eager"))


MODELS = {
    "qwen2 grouped-query": qwen2,
    "gpt2": gpt2,
    "gpt-neox": gpt_neox,
    "llama tied": lambda: llama(tie_word_embeddings=True),
    "llama untied, vocabulary of 8192": lambda: llama(tie_word_embeddings=False, vocab_size=8192),
    "qwen3 grouped-query tied": lambda: qwen3(tie_word_embeddings=True),
    "qwen3 grouped-query untied": lambda: qwen3(tie_word_embeddings=False),
}


SIZES = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZES |= {
    "num_key_value_heads": 2,
    "head_dim": 16,
    "moe_intermediate_size": 48,
    "num_experts": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
SIZES |= {"max_position_embeddings": 512, "sliding_window": 16}
TESTED_ABOVE = {"llama", "qwen2", "qwen3", "gpt2", "gpt_neox"}
OTHER_TYPES = sorted(set(FEED_FORWARD_MATRICES) - TESTED_ABOVE)


def any_type(model_type: str):
    """A small random model of a type, with as many of the sizes as its config has."""
    config = AutoConfig.for_model(model_type)
    for name, value in SIZES.items():
        if hasattr(config, name) and not isinstance(getattr(type(config), name, None), property):
            setattr(config, name, value)
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, None, EOS
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).train()
    if hasattr(model.config, "_experts_implementation"):
        model.set_experts_implementation("eager")  # which torch's counter sees
    return model


def batch(rows: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 64, (rows, length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def assert_close(counted: float, true: float) -> None:
    assert true > 0
    assert abs(counted / true - 1) < TOLERANCE, f"{counted:.4e} counted, {true:.4e} by torch"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("rows", "length"), [(8, 12), (2, 512)])
def test_training_through_the_fused_head_costs_what_torch_counts(name, rows, length):
    model = MODELS[name]().train()
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    counter = FlopCounter(model, {EOS})
    inputs = batch(rows, length)
    with torch_counter() as true_forward:
        output = model(**inputs, labels=inputs["input_ids"], fused_lm_head=True)
    with torch_counter() as true_backward:
        output.log_probs.sum().backward()
    assert_close(counter.executed_flops["train_forward"], true_forward.get_total_flops())
    assert_close(counter.executed_flops["train_backward"], true_backward.get_total_flops())


@pytest.mark.parametrize("name", MODELS)
def test_training_through_the_plain_head_costs_what_torch_counts(name):
    model = MODELS[name]().train()
    counter = FlopCounter(model, {EOS})
    inputs = batch(4, 32)
    with torch_counter() as true:
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert_close(counter.executed_flops["train_forward"] + counter.executed_flops["train_backward"], true.get_total_flops())


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_lora_has_no_weight_gradient_of_frozen_weights(gradient_checkpointing):
    model = get_peft_model(qwen3(), LoraConfig(r=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"))
    model.train()
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    counter = FlopCounter(model, {EOS})
    inputs = batch(8, 24)
    with torch_counter() as true_forward:
        loss = model(**inputs, labels=inputs["input_ids"]).loss
    with torch_counter() as true_backward:
        loss.backward()
    assert_close(counter.executed_flops["train_forward"], true_forward.get_total_flops())
    assert_close(counter.executed_flops["train_backward"], true_backward.get_total_flops())
    assert true_backward.get_total_flops() < (2.6 if gradient_checkpointing else 1.6) * true_forward.get_total_flops()


CHECKPOINTED = {  # model, LoRA targets before the last product of a block, that last product
    "llama": (llama, ["q_proj", "v_proj"], "down_proj"),
    "qwen2": (qwen2, ["q_proj", "v_proj"], "down_proj"),
    "qwen3": (qwen3, ["q_proj", "v_proj"], "down_proj"),
    "gpt2": (gpt2, ["c_attn"], "mlp.c_proj"),
    "gpt2 without dropout": (lambda: gpt2(resid_pdrop=0.0), ["c_attn"], "mlp.c_proj"),
    "gpt-neox": (gpt_neox, ["query_key_value"], "dense_4h_to_h"),
}


@pytest.mark.parametrize("trained", ["everything", "LoRA", "LoRA on the last product too"])
@pytest.mark.parametrize(
    "options",
    [
        {"use_reentrant": False},
        {"use_reentrant": True},
        {"use_reentrant": False, "early_stop": False},
        {"preserve_rng_state": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", CHECKPOINTED)
def test_gradient_checkpointing_costs_what_torch_counts(name, options, trained):
    make, targets, last_product = CHECKPOINTED[name]
    model = make()
    if trained != "everything":
        targets = targets + [last_product] * (trained != "LoRA")
        model = get_peft_model(model, LoraConfig(r=8, target_modules=targets, task_type="CAUSAL_LM"))
    model.train().activation_checkpointing_enable(options)
    counter = FlopCounter(model, {EOS})
    inputs = batch(8, 24)
    loss = model(**inputs, labels=inputs["input_ids"]).loss
    with torch_counter() as true_backward:
        loss.backward()
    assert counter.executed_flops["train_backward"] == pytest.approx(true_backward.get_total_flops(), rel=1e-3)


def test_only_the_blocks_that_are_checkpointed_run_again():
    model = llama().train()
    model.activation_checkpointing_enable(every_n_layers=2)
    counter = FlopCounter(model, {EOS})
    inputs = batch(8, 24)
    loss = model(**inputs, labels=inputs["input_ids"]).loss
    with torch_counter() as true_backward:
        loss.backward()
    assert counter.executed_flops["train_backward"] == pytest.approx(true_backward.get_total_flops(), rel=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_generation_costs_what_torch_counts(name):
    model = MODELS[name]().train()
    counter = FlopCounter(model, {EOS})
    inputs = batch(8, 16)
    with torch.no_grad(), torch_counter() as true:
        model.generate(**inputs, do_sample=True, max_new_tokens=10, eos_token_id=None)
    assert_close(counter.executed_flops["prefill"] + counter.executed_flops["decode"], true.get_total_flops())
    assert set(counter.executed_flops) == {"prefill", "decode"}


def test_scores_without_gradient_and_evaluation_are_phases_of_their_own():
    model = llama().train()
    counter = FlopCounter(model, {EOS})
    with torch.no_grad():
        model(**batch(2, 8))
        model.eval()
        model(**batch(2, 8))
    assert counter.executed_flops["score_old"] == counter.executed_flops["evaluation"] == forward_flops(model.config, 16, 8)


def test_rows_that_decode_on_after_their_end_are_executed_but_not_useful():
    model = llama().train()
    counter = FlopCounter(model, {EOS})
    prompts = torch.tensor([[5, 6, 7], [5, 6, 7], [8, 9, 10]])
    cache = model(input_ids=prompts, attention_mask=torch.ones(3, 3), past_key_values=None, use_cache=True).past_key_values
    counter.executed_flops.clear(), counter.useful_flops.clear()
    model(input_ids=prompts, attention_mask=torch.ones(3, 3), past_key_values=type(cache)(), logits_to_keep=1)
    config = model.config
    assert counter.executed_flops["prefill"] == forward_flops(config, 9, 3, 3)
    # two distinct prompts of three tokens, each token attending to itself and what is before it: 2 on average
    assert counter.useful_flops["prefill"] == forward_flops(config, 6, 2, 2)
    with torch.no_grad():
        for step, tokens in enumerate([[4, EOS, 4], [4, 0, 4]]):
            mask = torch.ones(3, 4 + step)
            model(input_ids=torch.tensor(tokens)[:, None], attention_mask=mask, past_key_values=cache, logits_to_keep=1)
    assert counter.executed_flops["decode"] == forward_flops(config, 3, 4) + forward_flops(config, 3, 5)
    assert counter.useful_flops["decode"] == forward_flops(config, 2, 4) + forward_flops(config, 2, 5)


def test_a_generation_longer_than_what_is_kept_of_it_is_counted_pass_by_pass():
    model, num_passes, length = llama().train(), MOST_KEPT + 7, 3
    counter = FlopCounter(model, {EOS})
    masks = torch.tensor([[1, 1, 1], [0, 1, 1]])
    cache = model(input_ids=torch.tensor([[5, 6, 7], [0, 6, 7]]), attention_mask=masks, use_cache=True).past_key_values
    counter.executed_flops.clear(), counter.useful_flops.clear()
    ids, ends_at = torch.full((2, 1), 4), MOST_KEPT - 2
    executed = useful = 0.0
    with torch.no_grad():
        for step in range(num_passes):
            ids = torch.cat([ids, torch.tensor([[4], [EOS if step == ends_at else 4]])], dim=1)
            masks = torch.cat([masks, torch.ones(2, 1, dtype=torch.long)], dim=1)
            model(input_ids=ids[:, -1:], attention_mask=masks, past_key_values=cache, logits_to_keep=1)
            ids[:, -1] = 4  # what is kept of a pass is a copy
            own = length + step + 1
            executed += forward_flops(model.config, 2, own)
            useful += forward_flops(model.config, 1, own)
            useful += forward_flops(model.config, 1, own - 1) if step < ends_at else 0.0
            assert len(counter._generation._kept) < MOST_KEPT
    assert counter.executed_flops["decode"] == pytest.approx(executed, rel=1e-12)
    assert counter.useful_flops["decode"] == pytest.approx(useful, rel=1e-12)


def test_real_tokens_are_counted_anew_where_a_mask_is_not_the_last_one_and_a_column():
    model = llama().train()
    counter = FlopCounter(model, {EOS})
    cache = model(input_ids=torch.tensor([[5, 6, 7]]), attention_mask=torch.ones(1, 3), use_cache=True).past_key_values
    counter.executed_flops.clear(), counter.useful_flops.clear()
    with torch.no_grad():  # two tokens at once, after a prompt whose first two tokens are hidden from now on
        mask = torch.tensor([[0, 0, 1, 1, 1]])
        model(input_ids=torch.tensor([[4, 4]]), attention_mask=mask, past_key_values=cache, logits_to_keep=1)
    assert counter.useful_flops["decode"] == forward_flops(model.config, 1, 3)  # one more than the prompt would be 4


def test_padding_is_executed_but_not_useful():
    model = llama().train()
    counter = FlopCounter(model, {EOS})
    inputs = batch(2, 6)
    inputs["attention_mask"][1, 4:] = 0
    with torch.no_grad():
        model(**inputs)
    assert counter.executed_flops["score_old"] == forward_flops(model.config, 12, 6)
    # 6 tokens attend to 3.5 positions on average, 4 tokens to 2.5: 31 in all over 10 tokens
    assert counter.useful_flops["score_old"] == pytest.approx(forward_flops(model.config, 10, 3.1))


@pytest.mark.parametrize("model_type", OTHER_TYPES)
def test_other_types_cost_what_torch_counts(model_type):
    model = any_type(model_type)
    counter, inputs = FlopCounter(model, {EOS}), batch(4, 32)
    with torch_counter() as true_training:
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
    with torch_counter() as true_generation:
        model.generate(inputs["input_ids"][:, :8], max_new_tokens=8, do_sample=True, eos_token_id=None, pad_token_id=0)
    counted = counter.executed_flops
    assert_close(counted["train_forward"] + counted["train_backward"], true_training.get_total_flops())
    assert_close(counted["prefill"] + counted["decode"], true_generation.get_total_flops())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "with_lora"),
    [*itertools.product([*OTHER_TYPES, "mpt", "vaultgemma"], [True, False]), ("opt", True), ("seed_oss", True)],
)
def test_other_types_with_lora_and_with_checkpoints_cost_what_torch_counts(model_type, with_lora):
    model = any_type(model_type)
    if with_lora:
        targets = ["q_proj", "v_proj", "o_proj"] if model_type in MIXTURES else "all-linear"
        model = get_peft_model(model, LoraConfig(r=8, target_modules=targets, task_type="CAUSAL_LM")).train()
    else:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    counter, inputs = FlopCounter(model, {EOS}), batch(4, 32)
    with torch_counter() as true:
        model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
    assert_close(counter.executed_flops["train_forward"] + counter.executed_flops["train_backward"], true.get_total_flops())


@pytest.mark.filterwarnings("ignore:The following .* keys did not match")  # PEFT's, of its own choice of layers
def test_what_of_a_mixture_has_no_formula_is_refused():
    config = any_type("qwen3_moe").config
    config.mlp_only_layers = [0]
    with pytest.raises(ValueError, match="qwen3_moe with blocks that have no experts"):
        forward_flops(config, 1, 1)
    with_lora = get_peft_model(any_type("mixtral"), LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match="LoRA on experts"):
        FlopCounter(with_lora, {EOS})


# Without a formula: dense ones, attention with two maps, convolutions and mixtures, from the first GPT to those of last year.
# (Of depthwise convolutions torch's counter takes the backward pass for a dense one: types in which they weigh are not held against it.)
COUNTED_TYPES = [
    "bitnet",
    "biogpt",
    "ctrl",
    "diffllama",
    "doge",
    "ernie4_5_moe",
    "falcon",
    "glm4_moe",
    "gpt_bigcode",
    "hunyuan_v1_moe",
    "jetmoe",
    "lfm2",
    "mpt",
    "openai-gpt",
    "opt",
    "qwen2_moe",
    "seed_oss",
    "vaultgemma",
    "xglm",
]


@pytest.mark.parametrize("model_type", COUNTED_TYPES)
def test_a_type_without_a_formula_is_counted_once(model_type):
    assert model_type not in FEED_FORWARD_MATRICES
    model = any_type(model_type)
    before = [model.training, model.config._attn_implementation, torch.get_rng_state()]
    counter = FlopCounter(model, {EOS})
    assert (model.training, model.config._attn_implementation) == tuple(before[:2]) and torch.equal(
        torch.get_rng_state(), before[2]
    )
    inputs = batch(4, 33)
    with torch_counter() as true_forward:
        output = model(**inputs, use_cache=False)
    with torch_counter() as true_backward:
        output.logits.sum().backward()
    assert_close(counter.executed_flops["train_forward"], true_forward.get_total_flops())
    assert_close(counter.executed_flops["train_backward"], true_backward.get_total_flops())


@pytest.mark.parametrize("model_type", ["qwen3_next", "nemotron_h", "minimax"])
def test_what_is_no_sum_over_tokens_and_positions_is_refused(model_type):
    """Attention that is linear in chunks of 64, 128 or 256 tokens costs a whole chunk for one token more, and positions of its own chunk only."""
    with pytest.raises(ValueError, match=f"'{model_type}', and its FLOPs are no sum over tokens and positions"):
        FlopCounter(any_type(model_type), {EOS})


@pytest.mark.parametrize("model_type", ["opt", "falcon", "lfm2"])
def test_what_was_counted_on_short_passes_holds_for_long_ones(model_type):
    model = any_type(model_type)
    counter = FlopCounter(model, {EOS})
    with torch_counter() as true, torch.no_grad():
        model(**batch(1, 500), use_cache=False)
    assert_close(counter.executed_flops["score_old"], true.get_total_flops())


def test_an_unknown_architecture_is_refused_by_name():
    config = LlamaConfig()
    config.model_type = "perceptron"
    with pytest.raises(ValueError, match="perceptron"):
        forward_flops(config, 1, 1)


def test_a_kaplan_sized_model_costs_the_published_number():
    """GPT-2 small as Kaplan et al. count it: 85 M block parameters, two FLOPs each."""
    config = GPT2Config()
    assert forward_flops(config, 1, 0, 0) == 2 * 12 * 12 * 768 * 768


def test_parameters_that_deepspeed_left_empty_are_counted_whole():
    whole, sharded = llama(), llama()
    for parameter in sharded.parameters():  # as ZeRO-3 leaves them: an empty tensor that knows how many there are
        parameter.ds_numel, parameter.data = parameter.numel(), torch.empty(0)
    first, second = FlopCounter(whole, {EOS}), FlopCounter(sharded, {EOS})
    assert second.layers == first.layers
    assert first.layers.trainable_parameters > 0 and first.layers.first_parameters > 0
