"""A remark on each rollout in the context of the policy as its own teacher, with TRL's SDPOTrainer.

    python eval/studies/remarks/make_remarked.py --config eval/studies/remarks/make_remarked.yaml --remark place --model_name_or_path FOLDER --mark G --difficulty 3 --output_dir runs/remarked

The teacher is the start; it reads the prompt, the rollout and the remark, and says anew of each token of the rollout what it would have written. Its forward passes, over the remark's tokens too,
are charged (phase `score_reference`).
"""

from dataclasses import dataclass

from datasets import Dataset
from trl import ModelConfig
from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.options import option
from bitsample_llm.tasks.remarks import KINDS, remark
from bitsample_llm.training.arguments import OneLineParser, RunArguments, one_line_errors
from bitsample_llm.training.manifest import run_manifest
from bitsample_llm.training.rewards import VerdictReward
from bitsample_llm.training.rl_trainer import training_row
from bitsample_llm.training.run import set_up_process, train_and_record
from bitsample_llm.training.started import started


@dataclass
class RemarkArguments:
    """What is said of a rollout."""

    remark: str = option(
        "verdict", "What the remark on each rollout tells; each tells more than the one before.", choices=list(KINDS)
    )


class RemarksInContext(SDPOTrainer):
    """TRL's feedback is a column of the data; here it is made of the rollout, as soon as that is drawn."""

    def __init__(self, *args, kind: str, verifier: RolloutVerifier, **kwargs):
        super().__init__(*args, **kwargs)
        self.kind, self.verifier = kind, verifier

    def sample_rollouts(self, inputs):
        batch = super().sample_rollouts(inputs)
        problem_ids = [example["problem_id"] for example in inputs]
        judged = self.verifier.judged(problem_ids, self._get_completion_ids_list(batch))
        for place, (problem_id, (text, ended, _)) in enumerate(zip(problem_ids, judged, strict=True)):
            right = self.verifier.problem_by_id[problem_id].answer
            inputs[place] = inputs[place] | {"privileged_context": text + remark(self.kind, text, right, ended)}
        return batch


def main() -> None:
    set_up_process()
    with one_line_errors():
        study, choices, args, model_args = OneLineParser(
            (RunArguments, RemarkArguments, SDPOConfig, ModelConfig)
        ).parse_args_and_config()
        args.include_environment_feedback, args.use_successful_as_teacher = True, False
        args.reprompt_template, args.feedback_template = "{prompt}{feedback}", "{feedback_raw}"
        start = started(study, args, model_args)
        trainer = RemarksInContext(
            kind=choices.remark,
            verifier=start.verifier,
            model=start.model,
            reward_funcs=[VerdictReward(start.verifier)],
            args=args,
            train_dataset=Dataset.from_list(list(map(training_row, start.problems.train))),
            processing_class=start.tokenizer,
        )
        manifest = run_manifest(study, args, model_args, start.problems, choices=vars(choices))
    train_and_record(trainer, study, start.problems, manifest, start.checkpoint, start.verifier)


if __name__ == "__main__":
    main()
