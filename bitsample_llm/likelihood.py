"""What is the exact log-probability that a model writes a problem's accepted answer, and with it the exact pass rate?

Shapes: B problems, T tokens, V vocabulary. A rollout sampled at temperature 1 with no truncation passes with the
probability of the accepted answer string, end-of-sequence token included, where the tokenizer has one spelling for it.
"""

from collections.abc import Sequence

import numpy as np
import torch

from bitsample_llm.tasks import Problem


def encode_answer(tokenizer, problem: Problem) -> tuple[list[int], list[int]]:
    """Token ids of the prompt, and of the answer (after its worked lines) with its end-of-sequence token."""
    prompt_ids = tokenizer(problem.prompt, add_special_tokens=True)["input_ids"]
    answer_ids = tokenizer(problem.completion, add_special_tokens=False)["input_ids"]
    return prompt_ids, answer_ids + [tokenizer.eos_token_id]


def check_completion_length(max_completion_length: int, tokenizer, problems: Sequence[Problem]) -> None:
    """Refuse a limit that cuts right answers off: their pass rate would not be the probability of the answer.

    Raises:
        ValueError: naming the tokens that are needed.
    """
    needed = max(len(encode_answer(tokenizer, problem)[1]) for problem in problems)
    if max_completion_length < needed:
        raise ValueError(
            f"max_completion_length {max_completion_length} cuts answers off, which need {needed} tokens with their end"
        )


def padded_batch(sequences: Sequence[list[int]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of shape (B, T), padded on the right."""
    length = max(map(len, sequences))
    ids_BT = torch.full((len(sequences), length), pad_token_id)
    mask_BT = torch.zeros_like(ids_BT)
    for row, ids in enumerate(sequences):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        mask_BT[row, : len(ids)] = 1
    return {"input_ids": ids_BT, "attention_mask": mask_BT}


@torch.no_grad()
def answer_logprobs(model, tokenizer, problems: Sequence[Problem], batch_size: int = 512) -> list[np.ndarray]:
    """Log-probabilities in nats of each answer's tokens, end-of-sequence last: one float64 array a problem.

    Their sum is the log of the exact pass rate at temperature 1 where one string is accepted; with a scratchpad it is that of
    the worked one, a lower bound. The model is put in evaluation mode and back.

    Raises:
        ValueError: if the tokenizer has no EOS token.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no EOS token; an answer without an end has no pass rate: set tokenizer.eos_token")
    pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    encoded = [encode_answer(tokenizer, problem) for problem in problems]
    by_length = sorted(range(len(encoded)), key=lambda index: sum(map(len, encoded[index])))
    was_training = model.training
    model.eval()
    result: list[np.ndarray] = [np.empty(0)] * len(encoded)
    for start in range(0, len(by_length), batch_size):
        rows = by_length[start : start + batch_size]
        batch = padded_batch([encoded[row][0] + encoded[row][1] for row in rows], pad_token_id)
        batch = {key: value.to(model.device) for key, value in batch.items()}
        logits_BTV = model(**batch, use_cache=False).logits.float()
        logps_BT = torch.log_softmax(logits_BTV[:, :-1], dim=-1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
        logps_BT = logps_BT.double().cpu().numpy()
        for index, row in enumerate(rows):
            prompt_ids, answer_ids = encoded[row]
            result[row] = logps_BT[index, len(prompt_ids) - 1 : len(prompt_ids) - 1 + len(answer_ids)]
    model.train(was_training)
    return result


def exact_pass_rates(model, tokenizer, problems: Sequence[Problem]) -> np.ndarray:
    """Exact pass rates at temperature 1, one a problem."""
    return np.exp([logps.sum() for logps in answer_logprobs(model, tokenizer, problems)])
