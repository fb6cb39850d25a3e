"""On-policy distillation: a teacher says of each token of the policy's own rollouts what it would have written, with TRL's trainers unmodified.

    python eval/studies/observation/make_distilled.py --config eval/studies/observation/make_distilled.yaml --mark G --difficulty 3 --output_dir runs/distilled

The teacher is the start itself, under the right author's prompt (TRL's SDFTTrainer), or with `--teacher FOLDER` another checkpoint under the same prompt
(TRL's DistillationTrainer). Its forward passes are charged (phase `score_reference`).
"""

import dataclasses
import sys
from dataclasses import dataclass

from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import DistillationConfig, DistillationTrainer, ModelConfig
from trl.experimental.sdft import SDFTConfig, SDFTTrainer

from bitsample_llm.options import option
from bitsample_llm.tasks.authors import ALWAYS_RIGHT_MARK
from bitsample_llm.training.arguments import OneLineParser, RunArguments, one_line_errors
from bitsample_llm.training.manifest import run_manifest
from bitsample_llm.training.problems import load_problems
from bitsample_llm.training.run import set_up_process, train_and_record
from bitsample_llm.training.started import started


@dataclass
class TeacherArguments:
    """Who teaches."""

    teacher: str | None = option(
        None, "Folder of a model that teaches under the same prompt; by default the start teaches, under the right author's."
    )


def main() -> None:
    set_up_process()
    with one_line_errors():
        has_other_teacher = "--teacher" in sys.argv
        config_class = DistillationConfig if has_other_teacher else SDFTConfig
        study, choices, args, model_args = OneLineParser(
            (RunArguments, TeacherArguments, config_class, ModelConfig)
        ).parse_args_and_config()
        if has_other_teacher:
            args.beta = 0.0  # as below: the divergence from the teacher
        else:
            args.distillation_mode, args.distillation_alpha, args.distillation_is_clip = "full_logits", 0.0, None
            args.teacher_prompt_template = "{privileged_context}"
        marked = load_problems(dataclasses.replace(study, mark=ALWAYS_RIGHT_MARK)).train
        start = started(study, args, model_args)
        rows = [
            {"prompt": own.prompt, "problem_id": own.problem_id, "privileged_context": other.prompt}
            for own, other in zip(start.problems.train, marked, strict=True)
        ]
        made_of = {
            "model": start.model,
            "args": args,
            "train_dataset": Dataset.from_list(rows),
            "processing_class": start.tokenizer,
        }
        if has_other_teacher:
            teacher = AutoModelForCausalLM.from_pretrained(choices.teacher, dtype=start.model.dtype, attn_implementation="eager")
            trainer = DistillationTrainer(teacher_model=teacher, **made_of)
        else:
            trainer = SDFTTrainer(**made_of)
        manifest = run_manifest(study, args, model_args, start.problems, choices=vars(choices))
    train_and_record(trainer, study, start.problems, manifest, start.checkpoint, start.verifier)


if __name__ == "__main__":
    main()
