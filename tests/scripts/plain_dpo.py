"""A DPO script as anyone might have it, with one line added.

accelerate launch tests/scripts/plain_dpo.py --model_name_or_path MODEL --output_dir runs/plain_dpo --max_steps 20
"""

from datasets import Dataset
from trl import DPOConfig, DPOTrainer, ModelConfig, ScriptArguments, TrlParser, get_peft_config

from bitsample_llm import InformationMeter


def said(answer: int) -> list[dict]:
    return [{"role": "assistant", "content": f"The answer is {answer}."}]


if __name__ == "__main__":
    parser = TrlParser((ScriptArguments, DPOConfig, ModelConfig), description="DPO on made-up sums")
    _, training_args, model_args = parser.parse_args_and_config(args=None, fail_with_unknown_args=True)
    pairs = [
        {
            "prompt": [{"role": "user", "content": f"What is {a} plus {b}?"}],
            "chosen": said(a + b),
            "rejected": said(a + b + 10),
        }
        for a in range(10, 18)
        for b in range(10, 18)
    ]
    trainer = DPOTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=Dataset.from_list(pairs),
        peft_config=get_peft_config(model_args),
    )
    trainer.add_callback(InformationMeter(trainer, output_dir=training_args.output_dir))
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
