"""Supervised fine-tuning of a causal LM on arithmetic, with TRL's SFTTrainer and every sample accounted for.

    accelerate launch recipes/sft.py --config recipes/configs/sft.yaml --output_dir runs/sft --learning_rate 1e-4

Takes TRL's `SFTConfig` and `ModelConfig` and the choices of `RunArguments` and below.
"""

from dataclasses import dataclass, field

from datasets import Dataset
from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config

from bitsample_llm.meter.flop_counter import FlopCounter
from bitsample_llm.meter.heldout import MAX_EVAL_TOKENS
from bitsample_llm.training.arguments import OneLineParser, RunArguments, one_line_errors
from bitsample_llm.training.loading import declared_end, load_model_and_tokenizer
from bitsample_llm.training.manifest import run_manifest
from bitsample_llm.training.objectives import OBJECTIVES, AnswerObjectiveTrainer
from bitsample_llm.training.problems import load_problems, to_memorise
from bitsample_llm.training.processes import report_processes
from bitsample_llm.training.prompt_format import labelled_rows, problems_for_model
from bitsample_llm.training.rejection import passing_problems
from bitsample_llm.training.run import prepare_run_dir, set_up_process, train_and_record, unlimited_steps
from bitsample_llm.training.selection import SelectionArguments, Selector, SelectsLabels, selecting


@dataclass
class SFTChoices(SelectionArguments):
    """Where the labels come from."""

    labels: str = field(
        default="answers",
        metadata={
            "help": "answers: the right ones. passing_rollouts: the policy's own rollouts that pass, one label per pass.",
            "choices": ["answers", "passing_rollouts"],
        },
    )
    objective: str | None = field(
        default=None,
        metadata={
            "help": "Ascend a function of the probability of the whole answer, by its exact gradient, in place of TRL's loss per token: "
            "pass_rate is RL with infinitely many rollouts.",
            "choices": list(OBJECTIVES),
        },
    )
    rollouts_per_prompt: int = field(
        default=8, metadata={"help": "Rollouts drawn per prompt for passing_rollouts; their FLOPs count."}
    )


def main() -> None:
    set_up_process()
    with one_line_errors():
        parser = OneLineParser((RunArguments, SFTChoices, SFTConfig, ModelConfig))
        study, choices, args, model_args = parser.parse_args_and_config()
        report_processes()
        problems = load_problems(study)
        if study.rollout_prompt_column is not None:
            raise ValueError(
                "--rollout_prompt_column is for grpo.py, which draws rollouts in rounds: use it with --trainer rejection"
            )
        checkpoint = prepare_run_dir(args)
        unlimited_steps(args, study.flop_budget)
        model, tokenizer = load_model_and_tokenizer(model_args, args.trust_remote_code, study.trained_parameters)
        end = declared_end(study, model, tokenizer)
        problems = problems_for_model(problems, model, tokenizer, study, max_length=args.max_length, end=end)
        if study.memorise:
            problems = to_memorise(problems, model, tokenizer, args.seed, end)
        arm = choices.objective or ("sft" if choices.labels == "answers" else "sft_passing")
        study.arm = study.arm or arm + f"_{choices.selection}" * (choices.selection != "shuffled")
        manifest = run_manifest(study, args, model_args, problems, choices=vars(choices))
        counter, labelled = None, problems.train
        if choices.labels == "passing_rollouts":
            counter = FlopCounter(model, set(end.token_ids))
            how = choices.rollouts_per_prompt, args.seed, end, study.max_eval_tokens or MAX_EVAL_TOKENS
            labelled = passing_problems(model, tokenizer, problems.task, problems.train, *how)
            manifest["passing_rollouts"] = len(labelled)
        trainer_class, extra = SFTTrainer, {}
        if choices.objective is not None:
            trainer_class, extra = AnswerObjectiveTrainer, {"objective": choices.objective}
        if choices.selection != "shuffled":
            extra["selector"] = Selector(choices, labelled, args.seed, end)
            trainer_class = selecting(trainer_class, SelectsLabels)
        trainer = trainer_class(
            model=model,
            args=args,
            train_dataset=Dataset.from_list(labelled_rows(labelled, tokenizer, end)),
            processing_class=tokenizer,
            peft_config=get_peft_config(model_args),
            **extra,
        )
        if counter is not None:
            counter.read_trainable_shapes()  # adapters have come to the model since
    train_and_record(trainer, study, problems, manifest, checkpoint, counter=counter, stop=end.stop)


if __name__ == "__main__":
    main()
