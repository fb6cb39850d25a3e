"""What is the exact log-probability that a model writes a problem's accepted answer, and with it the exact pass rate?

Shapes: B sequences, T tokens, V vocabulary. A rollout sampled at temperature 1 with no truncation passes with the
probability of the accepted answer string with its end: the sum over all its spellings in tokens (`spellings.py`), and over
all tokens that end it (`answer_end.py`).
"""

import copy
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.tasks import Problem

MAX_LOGITS = 2**27  # of a batch: half a gigabyte in float32
MAX_CACHED = 2**30  # keys and values of a batch: 2 GiB in bfloat16
MIN_SHARED = 16  # first tokens that all prompts have, from which on they are put through the model once


def encode_prompt(tokenizer, prompt: str | list[dict[str, str]]) -> list[int]:
    """Token ids of a prompt as TRL's trainers feed it: a string as it stands, a conversation through the chat template."""
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    rendered = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)
    return list(rendered["input_ids"])


def encode_answer(tokenizer, problem: Problem, end: AnswerEnd | None = None) -> tuple[list[int], list[int]]:
    """Token ids of the prompt, and of the answer (after its worked lines) with the token that ends a label: the stop, or by
    default the tokenizer's end of sequence.

    The answer is encoded apart from the prompt, because a sampler goes on from the prompt's own tokens.
    """
    answer_ids = tokenizer(problem.completion, add_special_tokens=False)["input_ids"]
    end_id = tokenizer.eos_token_id if end is None else end.label_token_id
    return encode_prompt(tokenizer, problem.prompt), answer_ids + [end_id]


def longest_answer(tokenizer, problems: Sequence[Problem], end: AnswerEnd | None = None) -> int:
    """Tokens of the longest of the answers, worked lines and end included."""
    return max(len(encode_answer(tokenizer, problem, end)[1]) for problem in problems)


def padded_batch(sequences: Sequence[list[int]], pad_token_id: int, on_left: bool = False) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of shape (B, T), padded on the right, or on the left."""
    length = max(map(len, sequences))
    ids_BT = torch.full((len(sequences), length), pad_token_id)
    mask_BT = torch.zeros_like(ids_BT)
    for row, ids in enumerate(sequences):
        place = slice(length - len(ids), length) if on_left else slice(len(ids))
        ids_BT[row, place] = torch.tensor(ids)
        mask_BT[row, place] = 1
    return {"input_ids": ids_BT, "attention_mask": mask_BT}


@dataclass(frozen=True)
class Spelling:
    """A token sequence to score: the prompt's tokens, and those of an answer with its end."""

    problem: int  # its number among the problems
    prompt_ids: list[int]
    answer_ids: list[int]
    end_ids: tuple[int, ...]  # the tokens of which any may be the last: their probabilities add up
    is_counted: bool  # whether its probability is part of the pass rate
    is_one_of_all: bool  # whether all other spellings of the answer are scored too


@dataclass(frozen=True)
class AnswerScore:
    """What a model gives an answer.

    `log_pass_rate` is the log of the exact pass rate; of the probability of the worked or reference answer in the tokenizer's own
    spelling, a lower bound, where other answers pass too; None where there are more spellings than are scored, or where the model
    has diverged and gives NaN.
    """

    logps_T: np.ndarray  # log-probabilities in nats of the tokenizer's own spelling, the end last
    log_pass_rate: float | None
    num_spellings: int  # scored

    def pass_rates(self, problem: Problem) -> dict:
        """`pass_rate`, and `step_pass_rates` where tokens are steps: where the answer has one spelling, one token per step. Empty
        where the pass rate is not known.
        """
        if self.log_pass_rate is None:
            return {}
        found = {"pass_rate": min(1.0, float(np.exp(self.log_pass_rate)))}
        if self.num_spellings == 1 and len(self.logps_T) == problem.num_steps:
            found["step_pass_rates"] = np.exp(self.logps_T).tolist()
        return found


def answer_spellings(tokenizer, problems: Sequence[Problem], end: AnswerEnd) -> list[Spelling]:
    """The spellings of all answers to score, the tokenizer's own first for each problem.

    `end` remembers them: an evaluation asks for the same problems again and again, and tokenizing takes a twentieth of a run.
    """
    spelled = []
    for number, problem in enumerate(problems):
        key = repr(problem.prompt), problem.completion, problem.has_one_accepted_string
        if key not in end.remembered:
            end.remembered[key] = _spellings_of(tokenizer, problem, end)
        spelled += [Spelling(number, *others) for others in end.remembered[key]]
    return spelled


def _spellings_of(tokenizer, problem: Problem, end: AnswerEnd) -> list[tuple]:
    """What follows the problem's number in the `Spelling`s of one problem."""
    prompt_ids, own_ids = encode_answer(tokenizer, problem, end)
    own = own_ids[:-1], end.ends_after(own_ids[:-1])
    if not problem.has_one_accepted_string:
        return [(prompt_ids, own_ids, own[1], True, True)]
    every = end.spellings(problem.completion)
    first = prompt_ids, own_ids, own[1], every is not None and own in every, every is not None
    others = [(ids, ends) for ids, ends in every or () if (ids, ends) != own]
    return [first, *((prompt_ids, [*ids, ends[0]], ends, True, True) for ids, ends in others)]


def check_completion_length(max_completion_length: int, tokenizer, problems: Sequence[Problem], end: AnswerEnd) -> None:
    """Refuse a limit that cuts right answers off (a ValueError names the tokens that are needed): their pass rate would not be the
    probability of the answer. Answers that another verifier than `exact` judges are left out: a shorter form of them may pass too.
    """
    must_fit = [problem for problem in problems if problem.verifier == "exact"]
    needed = max((len(spelling.answer_ids) for spelling in answer_spellings(tokenizer, must_fit, end)), default=0)
    if max_completion_length < needed:
        raise ValueError(
            f"max_completion_length {max_completion_length} cuts answers off, which need {needed} tokens with their end"
        )


def scoring_plan(model, spelled: Sequence[Spelling], most: int = 512) -> tuple[int, int]:
    """Rows of a batch whose logits fit into memory, and how many first tokens the prompts share, 0 where they are few; by all
    spellings, so that processes that share them run equally many passes.
    """
    prompts = [s.prompt_ids[:-1] for s in spelled]  # the last token predicts the answer
    ends = zip(min(prompts), max(prompts), strict=False)  # what the first and the last in order share, those between share too
    num_shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))
    kept = max(len(s.prompt_ids) + len(s.answer_ids) for s in spelled) - min(len(s.prompt_ids) for s in spelled) + 1
    batch_size = max(1, min(most, MAX_LOGITS // (kept * model.config.get_text_config().vocab_size)))
    return batch_size, num_shared if num_shared >= MIN_SHARED else 0


def logits_in_parts(model, batch: dict, kept: int) -> Iterator[torch.Tensor]:
    """Float32 logits of the last `kept` positions of a batch (B, t, V), in one part where they are at most `MAX_LOGITS`, else in parts, of
    positions that the model takes one after the other with its cache.

    `batch` is what the model is called with; its attention mask covers what is in the cache it brings.
    """
    ids_BT, mask_BT = batch["input_ids"], batch["attention_mask"]
    rows, length = ids_BT.shape
    size = max(1, MAX_LOGITS // (rows * model.config.get_text_config().vocab_size))
    if kept <= size:
        yield model(**batch, logits_to_keep=kept).logits.float()
        return
    cache, before = batch.get("past_key_values"), mask_BT.shape[1] - length
    # the last part has two positions or more: one alone is taken for a step of a generation
    starts = {0, *range(length - kept, max(length - 1, 1), size)}
    for start, end in itertools.pairwise([*sorted(starts), length]):
        part = {"input_ids": ids_BT[:, start:end], "attention_mask": mask_BT[:, : before + end], "past_key_values": cache}
        is_kept = start >= length - kept
        output = model(**part, use_cache=True, logits_to_keep=0 if is_kept else 1)
        cache = output.past_key_values
        if is_kept:
            yield output.logits.float()


@torch.no_grad()
def spelling_logprobs(model, tokenizer, spelled: Sequence[Spelling], plan: tuple[int, int]) -> list[np.ndarray]:
    """Log-probabilities in nats of each spelling's tokens: one float64 array each, whose last value is that of any end.

    The model is put in evaluation mode and back. `plan` is `scoring_plan`'s: tokens that all prompts share are put through once.
    """
    batch_size, num_shared = plan
    pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    by_length = sorted(range(len(spelled)), key=lambda index: len(spelled[index].prompt_ids) + len(spelled[index].answer_ids))
    was_training = model.training
    model.eval()
    result: list[np.ndarray] = [np.empty(0)] * len(spelled)
    if num_shared:
        shared_BT = torch.tensor([spelled[0].prompt_ids[:num_shared]], device=model.device)
        shared = model(input_ids=shared_BT, use_cache=True, logits_to_keep=1).past_key_values
        num_cached = sum(layer.keys.numel() + layer.values.numel() for layer in shared.layers)  # of a row
        batch_size = max(1, min(batch_size, MAX_CACHED // num_cached))
    for start in range(0, len(by_length), batch_size):
        rows = by_length[start : start + batch_size]
        # the last token is scored, and nothing is asked after it
        batch = padded_batch([spelled[row].prompt_ids + spelled[row].answer_ids[:-1] for row in rows], pad_token_id)
        batch = {key: value.to(model.device) for key, value in batch.items()}
        skipped = min(len(spelled[row].prompt_ids) for row in rows) - 1  # positions whose logits nobody asks for
        kept = batch["input_ids"].shape[1] - skipped
        batch |= {"input_ids": batch["input_ids"][:, num_shared:], "use_cache": bool(num_shared)}
        if num_shared:
            batch["past_key_values"] = copy.deepcopy(shared)  # a pass adds to it
            batch["past_key_values"].batch_repeat_interleave(len(rows))
        firsts = [len(spelled[row].prompt_ids) - 1 - skipped for row in rows]
        parts = logits_in_parts(model, batch, kept)
        for row, logps_T in zip(rows, logprobs_of_answers(parts, [spelled[row] for row in rows], firsts), strict=True):
            result[row] = logps_T
    model.train(was_training)
    return result


def logprobs_of_answers(parts: Iterable[torch.Tensor], spelled: Sequence[Spelling], firsts: Sequence[int]) -> list[np.ndarray]:
    """Log-probabilities in nats of each spelling's tokens, the last value that of any end.

    Args:
        parts: logits (B, t, V) of consecutive positions.
        firsts: the position of each row whose logits predict its first token.
    """
    lasts = [first + len(spelling.answer_ids) - 1 for first, spelling in zip(firsts, spelled, strict=True)]
    asked_BT = torch.zeros((len(spelled), max(lasts) + 1), dtype=torch.long)
    for row, (first, spelling) in enumerate(zip(firsts, spelled, strict=True)):
        asked_BT[row, first : lasts[row] + 1] = torch.tensor(spelling.answer_ids)
    found, done, of_ends = [], 0, {}
    for logits_BTV in parts:
        all_logps_BTV, end = torch.log_softmax(logits_BTV.float(), dim=-1), done + logits_BTV.shape[1]
        asked_BtI = asked_BT[:, done:end, None].to(logits_BTV.device)
        found.append(all_logps_BTV[:, : asked_BtI.shape[1]].gather(-1, asked_BtI)[..., 0].double().cpu().numpy())
        for row, spelling in enumerate(spelled):
            if len(spelling.end_ids) > 1 and done <= lasts[row] < end:
                logps_V = all_logps_BTV[row, lasts[row] - done]
                of_ends[row] = float(logps_V[list(spelling.end_ids)].logsumexp(dim=-1))
        done = end
    logps_BT = np.concatenate(found, axis=1)
    result = [logps_BT[row, first : last + 1].copy() for row, (first, last) in enumerate(zip(firsts, lasts, strict=True))]
    for row, logp in of_ends.items():
        result[row][-1] = logp
    return result


def answer_scores(spelled: Sequence[Spelling], logps: Sequence[np.ndarray]) -> list[AnswerScore]:
    """One score per problem, in order, from the log-probabilities of all spellings."""
    by_problem: dict[int, list[tuple[Spelling, np.ndarray]]] = {}
    for spelling, logps_T in zip(spelled, logps, strict=True):
        by_problem.setdefault(spelling.problem, []).append((spelling, logps_T))
    scores = []
    for number in sorted(by_problem):
        (own, own_logps_T), *_ = by_problem[number]
        counted = [float(logps_T.sum()) for spelling, logps_T in by_problem[number] if spelling.is_counted]
        is_known = own.is_one_of_all and counted and not np.isnan(counted).any()
        log_pass_rate = float(np.logaddexp.reduce(counted)) if is_known else None
        scores.append(AnswerScore(own_logps_T, log_pass_rate, len(counted)))
    return scores


def answer_logprobs(
    model, tokenizer, problems: Sequence[Problem], batch_size: int = 512, end: AnswerEnd | None = None
) -> list[np.ndarray]:
    """Log-probabilities in nats of each answer's tokens in the tokenizer's own spelling, the end last: one float64 array per
    problem.

    Args:
        end: where answers end; by default at the end of sequence, as the model and the tokenizer have it.

    Raises:
        ValueError: if the tokenizer has no EOS token.
    """
    spelled = answer_spellings(tokenizer, problems, end or AnswerEnd.of(model, tokenizer))
    if not spelled:
        return []
    own = list({spelling.problem: spelling for spelling in reversed(spelled)}.values())[::-1]
    return spelling_logprobs(model, tokenizer, own, scoring_plan(model, own, batch_size))


def scored_answers(
    model, tokenizer, problems: Sequence[Problem], batch_size: int = 512, end: AnswerEnd | None = None
) -> list[AnswerScore]:
    """One score per problem, in order."""
    spelled = answer_spellings(tokenizer, problems, end or AnswerEnd.of(model, tokenizer))
    if not spelled:
        return []
    return answer_scores(spelled, spelling_logprobs(model, tokenizer, spelled, scoring_plan(model, spelled, batch_size)))


def exact_pass_rates(model, tokenizer, problems: Sequence[Problem], end: AnswerEnd | None = None) -> np.ndarray:
    """Exact pass rates at temperature 1, one per problem; NaN where they are not known."""
    log_pass_rates = [score.log_pass_rate for score in scored_answers(model, tokenizer, problems, end=end)]
    return np.array([np.nan if value is None else np.exp(value) for value in log_pass_rates])
