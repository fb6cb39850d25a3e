"""`bitsample_llm.scoring.likelihood` by the name that others import."""

from bitsample_llm.scoring.likelihood import answer_logprobs, exact_pass_rates

__all__ = ["answer_logprobs", "exact_pass_rates"]
