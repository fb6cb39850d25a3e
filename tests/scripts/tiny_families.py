"""Tiny random models of the families that people post-train, with tokenizers like theirs: python tests/scripts/tiny_families.py FOLDER

Byte-level BPE in which a token may cover several digits. Between them they have a BOS token and none, a pad token and none,
tied and untied embeddings, a chat template and none, several end tokens, and rows of the output layer that no token has.
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

NUMBERS = [str(number) for number in range(200)] * 3
SUMS = [f"What is {a} plus {b}? The answer is {a + b}." for a in range(0, 100, 3) for b in range(0, 100, 7)]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


def byte_level_bpe(special: list[str], bos: str | None, chat: bool, **tokens: str) -> PreTrainedTokenizerFast:
    """A tokenizer trained on sums and numbers, so that `46` is a token as `4` and `6` are."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=460, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(NUMBERS + SUMS, trainer)
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
        tokens["bos_token"] = bos
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)
    if chat:
        fast.chat_template = CHAT_TEMPLATE
    return fast


def qwen2() -> tuple:
    """Chat template, pad token, no BOS, tied, two tokens that end, an output layer larger than the vocabulary."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = byte_level_bpe(special, None, True, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    config = Qwen2Config(
        **SIZES, num_key_value_heads=2, vocab_size=len(tokenizer) + 20, max_position_embeddings=256, tie_word_embeddings=True
    )
    return tokenizer, config, [tokenizer.eos_token_id, tokenizer.pad_token_id]


def llama() -> tuple:
    """BOS before every prompt, no pad token, untied, no chat template."""
    tokenizer = byte_level_bpe(["<s>", "</s>"], "<s>", False, eos_token="</s>")
    config = LlamaConfig(
        **SIZES, num_key_value_heads=4, vocab_size=len(tokenizer), max_position_embeddings=256, tie_word_embeddings=False
    )
    return tokenizer, config, [tokenizer.eos_token_id]


def gpt_neox() -> tuple:
    """One special token for everything, untied, no chat template."""
    tokenizer = byte_level_bpe(["<|endoftext|>"], None, False, eos_token="<|endoftext|>", bos_token="<|endoftext|>")
    config = GPTNeoXConfig(**SIZES, vocab_size=len(tokenizer), max_position_embeddings=256, tie_word_embeddings=False)
    return tokenizer, config, [tokenizer.eos_token_id]


def smollm() -> tuple:
    """A Llama with grouped queries, tied, with a chat template whose start token is the BOS."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = byte_level_bpe(special, None, True, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>")
    config = LlamaConfig(
        **SIZES, num_key_value_heads=2, vocab_size=len(tokenizer), max_position_embeddings=256, tie_word_embeddings=True
    )
    return tokenizer, config, [tokenizer.eos_token_id]


FAMILIES = {"qwen2": qwen2, "llama": llama, "gpt_neox": gpt_neox, "smollm": smollm}


def make(family: str, folder: str | Path, seed: int = 0) -> Path:
    """Save a model of a family and its tokenizer into a folder, as transformers does."""
    tokenizer, config, end_ids = FAMILIES[family]()
    config.eos_token_id, config.bos_token_id, config.pad_token_id = end_ids[0], tokenizer.bos_token_id, tokenizer.pad_token_id
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = end_ids
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


if __name__ == "__main__":
    for name in FAMILIES:
        make(name, Path(sys.argv[1]) / name)
