"""Measure a model's pass rates before spending on RL: rollouts of every prompt, their verdicts and their price.

    accelerate launch recipes/measure.py --config recipes/configs/measure.yaml --output_dir runs/measure
    bitsample plan runs/measure

Half of a prompt's rollouts select the prompts worth keeping, the other half says what they offer. Probes ask whether the skill
is latent. A measurement that was stopped goes on with `--resume_from_checkpoint last`. Takes `RunArguments`, TRL's `ModelConfig` and the choices below.
"""

from bitsample_llm.measure.command import main

if __name__ == "__main__":
    main()
