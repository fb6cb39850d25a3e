"""How probable do a trainer's processes, working together, find the accepted answers of problems?"""

from collections.abc import Sequence

from accelerate.utils import gather_object

from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import AnswerScore, answer_scores, answer_spellings, scoring_batch_size, spelling_logprobs
from bitsample_llm.tasks import Problem


def shared_answer_scores(trainer, problems: Sequence[Problem], end: AnswerEnd) -> list[AnswerScore]:
    """Scores of the answers by the trainer's model, in order, on every process.

    Each process scores a share of the spellings with as many forward passes as the others, which sharded models need.
    """
    accelerator = trainer.accelerator
    model = accelerator.unwrap_model(trainer.model)
    spelled = answer_spellings(trainer.processing_class, list(problems), end)
    num_shares = accelerator.num_processes
    filled = spelled + spelled[-1:] * (-len(spelled) % num_shares)
    batch_size = scoring_batch_size(model, spelled)
    share = spelling_logprobs(model, trainer.processing_class, filled[accelerator.process_index :: num_shares], batch_size)
    by_process = gather_object(share)
    per_share = len(filled) // num_shares
    logps = [by_process[index % num_shares * per_share + index // num_shares] for index in range(len(spelled))]
    return answer_scores(spelled, logps)
