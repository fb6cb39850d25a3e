"""An SFT script as anyone might have it, with one line added.

accelerate launch tests/scripts/plain_sft.py --model_name_or_path MODEL --output_dir runs/plain_sft --max_steps 20
"""

from datasets import Dataset
from trl import ModelConfig, ScriptArguments, SFTConfig, SFTTrainer, TrlParser, get_peft_config

from bitsample_llm import InformationMeter

if __name__ == "__main__":
    parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig), description="SFT on made-up sums")
    _, training_args, model_args = parser.parse_args_and_config(args=None, fail_with_unknown_args=True)
    sums = [(a, b) for a in range(10, 18) for b in range(10, 18)]
    conversations = [
        [
            {"role": "user", "content": f"What is {a} plus {b}?"},
            {"role": "assistant", "content": f"The answer is {a + b}."},
        ]
        for a, b in sums
    ]
    trainer = SFTTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=Dataset.from_list([{"messages": messages} for messages in conversations]),
        peft_config=get_peft_config(model_args),
    )
    trainer.add_callback(InformationMeter(trainer, output_dir=training_args.output_dir))
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
