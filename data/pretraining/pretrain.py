"""Pretrain a small model on arithmetic text by authors of known care.

    accelerate launch data/pretraining/pretrain.py --config data/pretraining/pretrain.yaml --output_dir runs/pretrain

Takes transformers' `TrainingArguments` and the choices below. Resumes from its last checkpoint by itself. Ends with a model
folder, `<output_dir>/model`, and its card.
"""

import functools
import json
import math
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from corpus import TEXTS, CorpusStream, padded_examples
from model_card import first_phase_facts, pass_rate_rows, write_model_card
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from bitsample_llm.meter.flop_counter import FlopCounter
from bitsample_llm.options import check_output_dir
from bitsample_llm.scoring.likelihood import exact_pass_rates
from bitsample_llm.tasks import load_task
from bitsample_llm.tasks.authors import ALWAYS_RIGHT_MARK, CARE_BY_MARK, WRONG_ANSWER_LAWS
from bitsample_llm.tasks.problem import UNKNOWN_MARK
from bitsample_llm.tasks.proposals import PROPOSE_MARK
from bitsample_llm.training.arguments import OneLineParser, one_line_errors
from bitsample_llm.training.loading import loading
from bitsample_llm.training.manifest import git_state

CHARACTERS = "0123456789+-*=<?ABCDEFGH;:,.() \nIJKL"
COUNTER_FILE = "flop_counter.json"


@dataclass
class PretrainArguments:
    """This study's own choices in pretraining."""

    text: str = field(default="direct", metadata={"help": "Which text to read.", "choices": list(TEXTS)})
    wrong_answers: str = field(
        default="uniform", metadata={"help": "How wrong answers are drawn.", "choices": list(WRONG_ANSWER_LAWS)}
    )
    all_careful: bool = field(
        default=False,
        metadata={"help": "Every author is always right: the marks say nothing and a low pass rate is a lack of skill."},
    )
    share_proposed: float = field(
        default=0.0,
        metadata={"help": "Share of lines that state a problem after the propose mark, for a model that also sets problems."},
    )
    share_remarked: float = field(
        default=0.0,
        metadata={
            "help": "Share of lines that hold an attempt, a remark on it and a second attempt, for a model that reads remarks."
        },
    )
    init_from: str | None = field(default=None, metadata={"help": "Folder of a model that `pretrain.py` made, to train further."})
    late_mark: str | None = field(
        default=None, metadata={"help": "An author whom the model of --init_from is to meet as if for the first time."}
    )
    save_ladder: int = field(
        default=0, metadata={"help": "Number of checkpoints to keep under <output_dir>/ladder, spaced evenly in log tokens."}
    )
    ladder_pass_rates: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Also keep under <output_dir>/ladder the first checkpoint at which the pass rate of --stop_at_pass_rate "
            "reaches each of these."
        },
    )
    stop_at_pass_rate: float | None = field(
        default=None,
        metadata={
            "help": "Stop once the mean exact pass rate of two-digit reversed addition by the always-right author reaches this."
        },
    )
    watch_steps: int = field(default=250, metadata={"help": "Steps from one evaluation of the exact pass rates to the next."})


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, so that every digit is a step and the accepted answer has one spelling."""
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", "<unk>", *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", clean_up_tokenization_spaces=False
    )


def build_model(tokenizer, seed: int) -> LlamaForCausalLM:
    """An untrained Llama of 1.05 M parameters; the weights depend on `seed` alone."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            attn_implementation="eager",
        )
    )


@torch.no_grad()
def forget_mark(model, tokenizer, mark: str) -> None:
    """Let a model take an author for an unknown one, as if it had never read them.

    An author who is right less often than a guess would be, as far as a young model can tell, is taken for one who is never
    right, and the gradient that would say otherwise vanishes with that belief. Met late, the author is first trusted too
    much, which text corrects.
    """
    embedding_VD = model.get_input_embeddings().weight
    embedding_VD[tokenizer.get_vocab()[mark]] = embedding_VD[tokenizer.get_vocab()[UNKNOWN_MARK]]


def starting_tokenizer(choices: PretrainArguments) -> PreTrainedTokenizerFast:
    """That of the model to train further, which may know fewer authors, or a new one."""
    if choices.init_from is None:
        return build_tokenizer()
    if not (Path(choices.init_from) / "tokenizer.json").is_file():
        raise ValueError(f"--init_from {choices.init_from} holds no model")
    with loading("tokenizer", choices.init_from):
        return PreTrainedTokenizerFast.from_pretrained(choices.init_from)


def starting_model(choices: PretrainArguments, tokenizer, seed: int):
    """An untrained model, or the one to train further.

    Raises:
        ValueError: if there is no such model, or a late author without one.
    """
    if choices.init_from is None:
        if choices.late_mark is not None:
            raise ValueError("--late_mark needs a model that has not met the author: name it with --init_from")
        return build_model(tokenizer, seed)
    if not (Path(choices.init_from) / "config.json").is_file():
        raise ValueError(f"--init_from {choices.init_from} holds no model")
    if choices.late_mark is not None and choices.late_mark not in CARE_BY_MARK:
        raise ValueError(f"unknown author mark {choices.late_mark!r}; known: {', '.join(CARE_BY_MARK)}")
    with loading("model", choices.init_from):
        model = AutoModelForCausalLM.from_pretrained(choices.init_from, dtype=torch.float32, attn_implementation="eager")
    if choices.late_mark is not None:
        forget_mark(model, tokenizer, choices.late_mark)
    return model


class Watch(TrainerCallback):
    """Logs exact pass rates, keeps the ladder, stops at a pass rate, and carries the FLOP count across a resume."""

    def __init__(self, choices: PretrainArguments, counter: FlopCounter, tokenizer, ladder_dir: Path):
        self.choices, self.counter, self.tokenizer, self.ladder_dir = choices, counter, tokenizer, ladder_dir
        self.ladder_steps: set[int] = set()
        self.ladder_pass_rates = sorted(choices.ladder_pass_rates)
        self.problems = {
            f"pass_rate/{difficulty}/{mark}": load_task("addition", "reversed", difficulty=difficulty, mark=mark).problems(
                "heldout", 128, seed=7
            )
            for difficulty in (2, 3)
            for mark in (ALWAYS_RIGHT_MARK, "C", "E")
        }
        self.trainer: Trainer | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        if self.choices.save_ladder:
            exponents = np.linspace(math.log(10), math.log(state.max_steps), self.choices.save_ladder)
            self.ladder_steps = {round(math.exp(exponent)) for exponent in exponents}
        if state.global_step:
            saved = json.loads((Path(args.resume_from_checkpoint) / COUNTER_FILE).read_text())
            for phase, flops in saved.items():
                self.counter.executed_flops[phase] += flops

    def on_save(self, args, state, control, **kwargs):
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (checkpoint / COUNTER_FILE).write_text(json.dumps(dict(self.counter.executed_flops)))

    def on_step_end(self, args, state, control, model, **kwargs):
        if state.global_step in self.ladder_steps:
            self.keep(model, state, f"tokens-{state.num_input_tokens_seen:010d}")
        if state.global_step % self.choices.watch_steps == 0:
            watched = {
                name: float(exact_pass_rates(model, self.tokenizer, problems).mean()) for name, problems in self.problems.items()
            }
            self.trainer.log(watched)
            reached, target = watched[f"pass_rate/2/{ALWAYS_RIGHT_MARK}"], self.choices.stop_at_pass_rate
            passed = [rung for rung in self.ladder_pass_rates if reached >= rung]
            for rung in passed:
                self.keep(model, state, f"pass-rate-{rung:g}")
            self.ladder_pass_rates = self.ladder_pass_rates[len(passed) :]
            if target is not None and reached >= target:
                control.should_training_stop = True

    def keep(self, model, state, name: str) -> None:
        """Save a checkpoint as a model folder of its own, with what it has cost so far."""
        folder = self.ladder_dir / name
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        cost = {"updates": state.global_step, "tokens": state.num_input_tokens_seen, "flops": dict(self.counter.executed_flops)}
        (folder / "pretraining.json").write_text(json.dumps(cost) + "\n")


def in_native_precision(args: TrainingArguments) -> TrainingArguments:
    """The same arguments, with float32 in place of bfloat16 on a CPU that has no instructions for it: there it takes twenty times as long."""
    if not (args.bf16 and args.use_cpu) or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return args
    print("this processor has no instructions for bfloat16: training in float32")
    return replace(args, bf16=False)


def main() -> None:
    with one_line_errors():
        choices, args = OneLineParser((PretrainArguments, TrainingArguments)).parse_args_and_config()
        args = in_native_precision(args)
        if args.max_steps < 1:
            raise ValueError(f"--max_steps must be at least 1, got {args.max_steps}")
        check_output_dir(args.output_dir)
    args.include_num_input_tokens_seen = "non_padding"  # real tokens; the command line takes it for a yes or no
    output_dir = Path(args.output_dir)
    if (output_dir / "model").exists():
        sys.exit(f"{args.output_dir} holds a finished model: name another --output_dir")
    with one_line_errors():
        tokenizer = starting_tokenizer(choices)
        marks = {
            *TEXTS[choices.text].share_by_mark,
            *(CARE_BY_MARK.keys() & {choices.late_mark}),
            *PROPOSE_MARK * (choices.share_proposed > 0),
        }
        if unknown := sorted(marks - set(tokenizer.get_vocab())):
            raise ValueError(f"the model of --init_from has no token for {', '.join(unknown)}: name another --text or model")
        model = starting_model(choices, tokenizer, args.seed)
    counter = FlopCounter(model, {tokenizer.eos_token_id})
    read = {"text": choices.text, "wrong_answers": choices.wrong_answers, "all_careful": choices.all_careful}
    read |= {"share_proposed": choices.share_proposed, "share_remarked": choices.share_remarked}
    watch = Watch(choices, counter, tokenizer, output_dir / "ladder")
    watch.trainer = trainer = Trainer(
        model=model,
        args=args,
        train_dataset=CorpusStream(tokenizer, args.max_steps * args.train_batch_size, args.seed, **read),
        data_collator=functools.partial(padded_examples, tokenizer.pad_token_id),
        processing_class=tokenizer,
        callbacks=[watch],
    )
    args.resume_from_checkpoint = get_last_checkpoint(args.output_dir) if output_dir.is_dir() else None
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    counter.detach()

    # stored in half the bytes, used in float32: the card's numbers are of the stored weights
    unfinished = output_dir / "model.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    model.half().save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    config_path = unfinished / "config.json"
    config_path.write_text(json.dumps(json.loads(config_path.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
    stored = AutoModelForCausalLM.from_pretrained(unfinished, dtype=torch.float32, attn_implementation="eager")
    training_flops = counter.executed_flops["train_forward"] + counter.executed_flops["train_backward"]
    facts = first_phase_facts(choices.init_from, choices.late_mark) | {
        "wrong answers": choices.wrong_answers,
        "authors": "all always right" if choices.all_careful else "of the care in the table",
        "lines that state a problem after the propose mark": f"{choices.share_proposed:.0%}",
        "lines that hold a remark and a second attempt": f"{choices.share_remarked:.0%}",
        "updates": trainer.state.global_step,
        "lines": trainer.state.global_step * args.train_batch_size,
        "tokens, padding left out": trainer.state.num_input_tokens_seen,
        "training FLOPs, padding included": f"{training_flops:.3e}",
        "seed": args.seed,
        "numbers multiplied": "bfloat16" if args.bf16 else "float32",
        "command": " ".join(["accelerate launch", *sys.argv]),
        "commit": git_state()["git_commit"] or "unknown",
    }
    text = TEXTS[choices.text]
    write_model_card(unfinished, text, pass_rate_rows(stored, tokenizer, text), facts)
    unfinished.rename(output_dir / "model")
    print(f"model and card: {output_dir / 'model'}")


if __name__ == "__main__":
    main()
