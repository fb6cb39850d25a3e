"""Pretrain the embedded model on arithmetic text by authors of known care.

    accelerate launch recipes/pretrain.py --config recipes/configs/pretrain.yaml --output_dir runs/pretrain

Takes transformers' `TrainingArguments` and the choices below. Resumes from its last checkpoint by itself. Ends with a model
folder, `<output_dir>/model`, and its card.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from bitsample_llm.meter.flop_counter import FlopCounter
from bitsample_llm.options import check_output_dir
from bitsample_llm.tasks.corpus import TEXTS
from bitsample_llm.training.arguments import OneLineParser, one_line_errors
from bitsample_llm.training.model_card import pass_rate_rows, write_model_card
from bitsample_llm.training.pretrained import AnswerCollator, CorpusStream, build_tokenizer
from bitsample_llm.training.pretraining import PretrainArguments, Watch, first_phase_facts, starting_model


def main() -> None:
    with one_line_errors():
        choices, args = OneLineParser((PretrainArguments, TrainingArguments)).parse_args_and_config()
        if args.max_steps < 1:
            raise ValueError(f"--max_steps must be at least 1, got {args.max_steps}")
        check_output_dir(args.output_dir)
    args.include_num_input_tokens_seen = "non_padding"  # real tokens; the command line takes it for a yes or no
    model_dir = Path(args.output_dir) / "model"
    if model_dir.exists():
        sys.exit(f"{args.output_dir} holds a finished model: name another --output_dir")
    tokenizer = build_tokenizer()
    with one_line_errors():
        model = starting_model(choices, tokenizer, args.seed)
    counter = FlopCounter(model, {tokenizer.eos_token_id})
    stream = CorpusStream(
        tokenizer,
        num_lines=args.max_steps * args.train_batch_size,
        seed=args.seed,
        text=choices.text,
        wrong_answers=choices.wrong_answers,
        all_careful=choices.all_careful,
    )
    watch = Watch(choices, counter, tokenizer, Path(args.output_dir) / "ladder")
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=stream,
        data_collator=AnswerCollator(tokenizer.pad_token_id),
        processing_class=tokenizer,
        callbacks=[watch],
    )
    watch.trainer = trainer
    args.resume_from_checkpoint = get_last_checkpoint(args.output_dir) if Path(args.output_dir).is_dir() else None
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    counter.detach()

    # stored in half the bytes, used in float32: the card's numbers are of the stored weights
    unfinished = Path(args.output_dir) / "model.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    model.half().save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    config_path = unfinished / "config.json"
    config_path.write_text(json.dumps(json.loads(config_path.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
    stored = AutoModelForCausalLM.from_pretrained(unfinished, dtype=torch.float32, attn_implementation="eager")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    write_model_card(
        unfinished,
        text=TEXTS[choices.text],
        pass_rates=pass_rate_rows(stored, tokenizer, TEXTS[choices.text]),
        facts=first_phase_facts(choices)
        | {
            "wrong answers": choices.wrong_answers,
            "authors": "all always right" if choices.all_careful else "of the care in the table",
            "updates": trainer.state.global_step,
            "lines": trainer.state.global_step * args.train_batch_size,
            "tokens, padding left out": trainer.state.num_input_tokens_seen,
            "training FLOPs, padding included": f"{counter.executed_flops['train_forward'] + counter.executed_flops['train_backward']:.3e}",
            "seed": args.seed,
            "command": " ".join(["accelerate launch", *sys.argv]),
            "commit": commit or "unknown",
        },
    )
    unfinished.rename(model_dir)
    print(f"model and card: {model_dir}")


if __name__ == "__main__":
    main()
