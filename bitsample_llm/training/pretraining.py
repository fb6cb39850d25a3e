"""How does the embedded model come about? What its pretraining takes, starts from, watches and keeps."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback

from bitsample_llm.meter.flop_counter import FlopCounter
from bitsample_llm.scoring.likelihood import exact_pass_rates
from bitsample_llm.tasks import load_task
from bitsample_llm.tasks.authors import ALWAYS_RIGHT_MARK, CARE_BY_MARK, WRONG_ANSWER_LAWS
from bitsample_llm.tasks.corpus import TEXTS
from bitsample_llm.training.loading import loading
from bitsample_llm.training.pretrained import build_model, forget_mark

COUNTER_FILE = "flop_counter.json"


@dataclass
class PretrainArguments:
    """This study's own choices in pretraining."""

    text: str = field(default="direct", metadata={"help": "Which text to read.", "choices": list(TEXTS)})
    wrong_answers: str = field(
        default="uniform", metadata={"help": "Law of the wrong answers.", "choices": list(WRONG_ANSWER_LAWS)}
    )
    all_careful: bool = field(
        default=False,
        metadata={"help": "Every author is always right: the marks say nothing and a low pass rate is a lack of skill."},
    )
    init_from: str | None = field(default=None, metadata={"help": "Folder of a model that `pretrain.py` made, to go on from."})
    late_mark: str | None = field(
        default=None, metadata={"help": "An author whom the model of --init_from is to meet as if for the first time."}
    )
    save_ladder: int = field(
        default=0, metadata={"help": "Number of checkpoints to keep, spaced evenly in log tokens, under <output_dir>/ladder."}
    )
    ladder_pass_rates: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Keep the first checkpoint at which the pass rate of --stop_at_pass_rate reaches each of these, under "
            "<output_dir>/ladder too."
        },
    )
    stop_at_pass_rate: float | None = field(
        default=None,
        metadata={
            "help": "Stop once the mean exact pass rate of two-digit reversed addition by the always-right author reaches this."
        },
    )
    watch_steps: int = field(default=250, metadata={"help": "Steps between looks at the exact pass rates."})


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
        """Save a checkpoint as a model folder of its own, with what it cost so far."""
        folder = self.ladder_dir / name
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        cost = {"updates": state.global_step, "tokens": state.num_input_tokens_seen, "flops": dict(self.counter.executed_flops)}
        (folder / "pretraining.json").write_text(json.dumps(cost) + "\n")


def starting_model(choices: PretrainArguments, tokenizer, seed: int):
    """An untrained model, or the one to go on from.

    Raises:
        ValueError: if there is no such model, or a late author without one.
    """
    if choices.init_from is None:
        if choices.late_mark is not None:
            raise ValueError("--late_mark needs a model that has not met the author: name it with --init_from")
        return build_model(tokenizer, seed)
    if not (Path(choices.init_from) / "config.json").is_file():
        raise ValueError(f"--init_from {choices.init_from} holds no model")
    with loading("model", choices.init_from):
        model = AutoModelForCausalLM.from_pretrained(choices.init_from, dtype=torch.float32, attn_implementation="eager")
    if choices.late_mark is not None:
        if choices.late_mark not in CARE_BY_MARK:
            raise ValueError(f"unknown author mark {choices.late_mark!r}; known: {', '.join(CARE_BY_MARK)}")
        forget_mark(model, tokenizer, choices.late_mark)
    return model


def first_phase_facts(choices: PretrainArguments) -> dict[str, str]:
    """What the card of the model that this one goes on from says of its making."""
    if choices.init_from is None:
        return {}
    facts = ("updates", "tokens", "training FLOPs", "commit", "`model.safetensors`")
    card = Path(choices.init_from) / "README.md"
    lines = card.read_text().splitlines() if card.is_file() else []
    kept = [line.removeprefix("- ") for line in lines if line.removeprefix("- ").startswith(facts)]
    return {"first phase, before what follows": "; ".join(kept), "author met late": str(choices.late_mark)}
