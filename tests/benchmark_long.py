"""What does the meter cost where completions are long? Peak memory and CPU time of a GRPO update with and without it, FLOPs against own arithmetic, bytes of records.

    python tests/benchmark_long.py --length 32000

A random Llama of 2 layers and width 16, with 8,192 words to choose from, never ends a completion. Each run is a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback
from trl import GRPOConfig, GRPOTrainer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bitsample_llm import InformationMeter
from bitsample_llm.records import read_run

WORDS, WIDTH, LAYERS, HEADS, INNER = 8192, 16, 2, 2, 32
PROMPT, GROUP = "w10 w11 w12 w13", 2
VARIANTS = {"without": None, "with all records": {}, "without texts": {"texts": False}}


def tiny_model(attention: str) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A random model and a tokenizer whose tokens are the words w3, w4, ..."""
    special = {"eos_token": "<end>", "unk_token": "<unknown>", "pad_token": "<pad>"}
    vocabulary = [*special.values(), *(f"w{number}" for number in range(len(special), WORDS))]
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(vocabulary)}, unk_token="<unknown>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **special)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=2**16,
        tie_word_embeddings=False,
        eos_token_id=0,
        bos_token_id=None,
        pad_token_id=2,
        attn_implementation=attention,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config), tokenizer


def update(length: int, folder: Path, options: dict | None, attention: str = "sdpa") -> InformationMeter | None:
    """One update on a group of two completions of this length; `options` are of a meter."""
    model, tokenizer = tiny_model(attention)
    args = GRPOConfig(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=GROUP,
        num_generations=GROUP,
        max_completion_length=length,
        max_steps=1,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        generation_kwargs={"suppress_tokens": [tokenizer.eos_token_id]},
    )
    rows = Dataset.from_list([{"prompt": PROMPT, "answer": "w14"}] * GROUP)

    def first_words(completions: list[str], **columns) -> list[float]:
        return [float(index % 2) for index in range(len(completions))]

    trainer = GRPOTrainer(model, [first_words], args=args, train_dataset=rows, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    meter = None
    if options is not None:
        meter = InformationMeter(trainer, folder / "run", verifier="exact", strict=True, **options)
        trainer.add_callback(meter)
    trainer.train()
    return meter


def own_flops(length: int) -> dict[str, float]:
    """Executed FLOPs of each phase of such an update, from the sizes of the matrices."""
    prompt = len(PROMPT.split())
    block = LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * INNER)
    head, attended = WIDTH * WORDS, 4 * LAYERS * WIDTH
    total = prompt + length
    contexts = sum(range(prompt + 1, total))  # each pass after the prompt's sees one token more
    forward = 2 * block * total + attended * total * total + 2 * head * (total - 1)
    return {
        "prefill": GROUP * (2 * block * prompt + attended * prompt * prompt + 2 * head),
        "decode": GROUP * (2 * (block + head) * (length - 1) + attended * contexts),
        "train_forward": GROUP * forward,
    }


def run_here(variant: str, length: int) -> dict:
    """What an update of a variant took in this process, and what its record says."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        meter = update(length, Path(folder), VARIANTS[variant])
        result = {"cpu_seconds": time.process_time() - began, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
        if meter is not None:
            own = own_flops(length)
            columns = ("num_tokens", "ended", "passed", "surprisal_bits")
            rows = read_run(Path(folder) / "run").table("rollouts").to_pylist()
            result["flops_over_own"] = {phase: meter.cumulative[f"flops/{phase}"] / own[phase] for phase in own}
            result["rollouts"] = [{name: row[name] for name in columns} | {"letters": len(row["text"] or "")} for row in rows]
            result["rollout_bytes"] = sum(path.stat().st_size for path in (Path(folder) / "run").glob("rollouts-*"))
        return result


def measured(variant: str, length: int) -> dict:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--length", str(length), "--variant", variant]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=32000)
    parser.add_argument("--variant", choices=list(VARIANTS), help="run this one, in this process")
    choices = parser.parse_args()
    disable_progress_bars()
    if choices.variant is not None:
        print(json.dumps(run_here(choices.variant, choices.length)))
        return
    for variant in VARIANTS:
        result = measured(variant, choices.length)
        print(f"{variant}: {result.pop('cpu_seconds'):.1f} s of CPU time, {result.pop('peak_mb'):.0f} MB at most", flush=True)
        for name, value in result.items():
            print(f"  {name}: {value}", flush=True)


if __name__ == "__main__":
    main()
