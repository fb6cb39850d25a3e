"""What if rollouts are drawn under a better prompt than the one that is trained? What that prompt shows is distilled into the other.

The completions are the policy's own under the other prompt; loss, ratio and advantage are of the same completions after the problem's own prompt.
"""

from functools import cache


class DrawsUnderOtherPrompt:
    """Mixin for GRPO, RLOO and what is made of them: generation reads the column `rollout_prompt` in place of `prompt`. A ValueError for generation that transformers does not run."""

    draws_under_other_prompt = True  # the meter asks: pass rates under the problem's own prompt are not those of the sampler

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.use_vllm or getattr(self, "use_transformers_continuous_batching", False):
            raise ValueError("--rollout_prompt_column needs generation by transformers: set use_vllm to false")
        self._rollout_prompts: list = []

    def _generate_and_score_completions(self, inputs):
        self._rollout_prompts = [example["rollout_prompt"] for example in inputs]
        return super()._generate_and_score_completions(inputs)

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        rollout_prompt_ids, *_ = self._tokenize_prompts(self._rollout_prompts)
        return super()._generate_single_turn(rollout_prompt_ids, *args, **kwargs)


@cache
def drawing_under_other_prompt(trainer_class: type) -> type:
    """The trainer that draws under another prompt, `Distilling` before its name."""
    return type(f"Distilling{trainer_class.__name__}", (DrawsUnderOtherPrompt, trainer_class), {})
