"""The essay's opening example: an untrained model, and an answer of one token out of a vocabulary, by labels and by rollouts.

    python -m eval.studies.price.make_vocabulary --output_dir runs/ladder/prices/vocabulary

Sixteen prompts of one token (fourteen where V = 16), each with an answer drawn from V tokens; a Llama of two layers without training gives every token about 1/V. SFT and
a policy gradient without a baseline, through TRL's trainers; what is scored are the prompts themselves, since there is nothing to generalise. The learning rate is that whose worse
of two tuning seeds has the lower mean log price. A seed is a model's initialisation too. The runs of a cell (vocabulary
and arm) go to a folder of their own; what is there is not run again.
"""

import argparse
import itertools
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
import trl
from tokenizers import Tokenizer, models, pre_tokenizers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback

from bitsample_llm.meter.flop_counter import FlopCounter
from bitsample_llm.records.glossary import TRAINING_PHASES
from bitsample_llm.report.prices import KEEP_FOR, PACKED, TARGETS, PricedRun, mean_log_price, pack_prices
from bitsample_llm.training.objectives import ReinforceTrainer, skipping_dead_updates

VOCABULARIES = (16, 64, 256, 1024)
NUM_PROMPTS = 16
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
TUNING_SEEDS, SEEDS = (101, 102), (1, 2, 3, 4, 5)
BATCH_SIZE = {"sft": 16, "reinforce": 128}
MOST_UPDATES = {"sft": 300, "reinforce": 6000}
SPACING = 1.15  # between evaluations, in updates


def made_model(size: int, seed: int) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """An untrained model of a vocabulary, with its tokenizer."""
    words = {word: index for index, word in enumerate(["<pad>", "<eos>", *(f"w{number}" for number in range(size - 2))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config), PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


class Scores(TrainerCallback):
    """State of the prompts after ever more updates; ends the training once every target was kept."""

    def __init__(self, model, pairs: list[tuple[int, int]], counter: FlopCounter, samples_per_update: int):
        self.model, self.counter, self.samples_per_update = model, counter, samples_per_update
        self.prompts_P1, self.answers_P = (torch.tensor([pair[which] for pair in pairs]) for which in (0, 1))
        self.rows, self.next_update = [], 1
        self.add(0)

    @torch.no_grad()
    def add(self, updates: int) -> None:
        was_training = self.model.training
        self.model.eval()
        logits_PV = self.model(input_ids=self.prompts_P1[:, None]).logits[:, -1].double()
        self.model.train(was_training)
        log2_p = logits_PV.log_softmax(-1).gather(1, self.answers_P[:, None])[:, 0].numpy() / math.log(2)
        flops = sum(self.counter.executed_flops[phase] for phase in TRAINING_PHASES)
        self.rows.append((updates, updates * self.samples_per_update, flops, log2_p))

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= self.next_update:
            self.add(state.global_step)
            self.next_update = max(state.global_step + 1, math.ceil(state.global_step * SPACING))
            control.should_training_stop |= is_done(priced(self.rows, "", "", 0, {}))


def priced(rows, arm: str, rung: str, seed: int, settings: dict) -> PricedRun:
    """The run that the rows tell."""
    updates, samples, flops, log2_p = zip(*rows, strict=True)
    return PricedRun(
        start=f"{rung} init{seed}",
        arm=arm,
        seed=seed,
        tags={"reason": "unacquired", "part": "vocabulary", "rung": rung, "model": f"init{seed}"},
        settings=settings,
        log2_p_before=log2_p[0].tolist(),
        flop_budget=None,
        updates=list(map(float, updates)),
        samples=list(map(float, samples)),
        flops=list(map(float, flops)),
        log2_p=[float(values.mean()) for values in log2_p],
        pass_rate=[float(np.exp2(values).mean()) for values in log2_p],
        kl_bits=[None] * len(rows),
        gains_elsewhere={},
    )


def is_done(run: PricedRun) -> bool:
    """Whether every target was reached and kept."""
    return run.flops[-1] > 0 and all(run.kept_at(target) is not None for target in TARGETS)


def trained(size: int, arm: str, rate: float, seed: int) -> PricedRun:
    """One run."""
    model, tokenizer = made_model(size, seed)
    rng = np.random.default_rng(seed)
    num = min(NUM_PROMPTS, size - 2)
    pairs = list(
        zip(range(2, 2 + num), rng.integers(2, size, num).tolist(), strict=True)
    )  # a prompt is a token, and so is its answer
    answers = {tokenizer.convert_ids_to_tokens(prompt): answer for prompt, answer in pairs}
    # an update of SFT reads all labels, of which a small vocabulary has fewer
    scores = Scores(model, pairs, FlopCounter(model, {1}), min(BATCH_SIZE[arm], num) if arm == "sft" else BATCH_SIZE[arm])
    settings = {"learning_rate": rate, "per_device_train_batch_size": BATCH_SIZE[arm]}
    with tempfile.TemporaryDirectory() as folder:
        shared = {
            "output_dir": folder,
            "max_steps": MOST_UPDATES[arm],
            "learning_rate": rate,
            "lr_scheduler_type": "constant",
            "seed": seed,
            "per_device_train_batch_size": BATCH_SIZE[arm],
            **dict.fromkeys(("logging_strategy", "save_strategy"), "no"),
            **{"report_to": "none", "disable_tqdm": True, "use_cpu": True, "bf16": False, "activation_checkpointing": False},
        }
        how = {"model": model, "processing_class": tokenizer, "callbacks": [scores]}
        if arm == "sft":
            rows = [{"input_ids": [prompt, answer], "labels": [-100, answer]} for prompt, answer in pairs]
            trainer = trl.SFTTrainer(
                args=trl.SFTConfig(**shared, max_length=8), train_dataset=datasets.Dataset.from_list(rows), **how
            )
        else:

            def passes(prompts, completion_ids, **kwargs):
                return [float(ids[:1] == [answers[prompt]]) for prompt, ids in zip(prompts, completion_ids, strict=True)]

            settings["num_generations"] = 2
            args = trl.GRPOConfig(
                **shared, num_generations=2, max_completion_length=1, beta=0.0, temperature=1.0, top_p=1.0, top_k=0
            )
            prompts = datasets.Dataset.from_list(
                [{"prompt": prompt} for prompt in answers] * BATCH_SIZE[arm]
            )  # a batch must be filled
            trainer = skipping_dead_updates(ReinforceTrainer)(args=args, reward_funcs=[passes], train_dataset=prompts, **how)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return priced(scores.rows, arm, f"vocabulary {size}", seed, settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=VOCABULARIES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    folders = {
        (size, arm): options.output_dir / f"{size}-{arm}" for size, arm in itertools.product(options.vocabularies, BATCH_SIZE)
    }
    left = {cell: folder for cell, folder in folders.items() if not (folder / PACKED).is_file()}
    with tqdm(total=len(left) * (len(RATES) * len(TUNING_SEEDS) + len(SEEDS)), unit="run") as bar:

        def counted(*cell_rate_seed) -> PricedRun:
            run = trained(*cell_rate_seed)
            bar.update()
            return run

        for (size, arm), folder in left.items():
            scores = {rate: max(mean_log_price(counted(size, arm, rate, seed)) for seed in TUNING_SEEDS) for rate in RATES}
            rate = min(scores, key=scores.get)
            runs = [counted(size, arm, rate, seed) for seed in SEEDS]
            pack_prices([replace(run, flop_budget=KEEP_FOR * run.flops[-1]) for run in runs], folder)


if __name__ == "__main__":
    main()
