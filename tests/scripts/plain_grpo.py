"""A GRPO script as anyone might have it, knowing nothing of arithmetic tasks or verifiers, with one line added.

accelerate launch tests/scripts/plain_grpo.py --model_name_or_path MODEL --output_dir runs/plain_grpo --max_steps 20
"""

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, ModelConfig, ScriptArguments, TrlParser, get_peft_config

from bitsample_llm import InformationMeter


def begins_with_a_digit(completions, **kwargs) -> list[float]:
    """1 for an answer whose first character is a digit."""
    return [float(completion[0]["content"][:1].isdigit()) for completion in completions]


if __name__ == "__main__":
    parser = TrlParser((ScriptArguments, GRPOConfig, ModelConfig), description="GRPO on made-up sums")
    _, training_args, model_args = parser.parse_args_and_config(args=None, fail_with_unknown_args=True)
    questions = [f"What is {a} plus {b}?" for a in range(10, 18) for b in range(10, 18)]
    trainer = GRPOTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        reward_funcs=[begins_with_a_digit],
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": question}]} for question in questions]),
        peft_config=get_peft_config(model_args),
    )
    trainer.add_callback(InformationMeter(trainer, output_dir=training_args.output_dir))
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
