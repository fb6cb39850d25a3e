"""How many bits does a rollout tell if ever more is told of it: the verdict, where it first went wrong, what is right there, the whole right answer?

What `information.py` says of the verdict and of the place, in one row with what tells more. Bits, log base 2.
"""

import numpy as np

from bitsample_llm.information import binary_entropy_bits, first_error_entropy_bits, surprisal_bits


def first_error_label_bits(step_probabilities, right):
    """Bits of one rollout's position of the first error, and on an error of what is right there: H(T) + sum_k (prod_{j<k} p_j) sum_{v != r} q_k(v) s_k(v).

    q_k is the distribution of step k after the right ones before it, r its right outcome, p_k = q_k(r), and s_k(v) = -log2(q_k(r) / (1 - q_k(v))) the
    surprisal of the right outcome where v is known to be wrong. Like -log2 p, and unlike H(p), it takes the right answer as given: in
    `believed_observation_bits` all are expectations.

    Args:
        step_probabilities: (K, V), each row summing to 1.
        right: (K,) the right outcome of each step.

    Raises:
        ValueError: for shapes that do not fit, probabilities outside [0, 1], or a right outcome of probability 0.

    >>> first_error_label_bits([[0.5, 0.5]], [0]), round(first_error_label_bits([[0.25] * 4], [0]), 4)
    (1.0, 2.0)
    """
    q, p = _steps_and_chosen(step_probabilities, right)
    if not (p > 0).all():
        raise ValueError("a right outcome has probability 0, and its surprisal no value")
    wrong = np.arange(q.shape[1]) != np.asarray(right)[:, None]
    surprisals = np.log2(np.maximum(1 - q, p[:, None])) - np.log2(p)[:, None]  # 1 - q(v) is at least q(r), but for rounding
    reached = np.cumprod(np.concatenate([[1.0], p[:-1]]))
    return first_error_entropy_bits(p) + float((reached * (q * surprisals * wrong).sum(axis=1)).sum())


def believed_observation_bits(step_probabilities, sampled) -> dict[str, float]:
    """Bits that observations of one's own sample are expected to tell, by a learner who draws what is right from its own distribution.

    Of the verdict, of the position of the first error, and of that with the right outcome there: H(a), H(T) and sum_k (prod_{j<k} q_j(a_j)) H(q_k),
    the last because the outcome at the first error is any other than the sampled one, and at the steps before it is known to be the sampled one. Of the
    whole answer, the sample's own surprisal: its mean over samples is the entropy. Each is a function of the next, so that in that mean none tells more
    than the next.

    Args:
        step_probabilities: (K, V), step k's distribution after the sampled steps before it.
        sampled: (K,) what was sampled.

    Raises:
        ValueError: for shapes that do not fit, probabilities outside [0, 1], or a sample of probability 0.

    >>> {name: round(bits, 3) for name, bits in believed_observation_bits([[0.25] * 4] * 2, [0, 1]).items()}
    {'verdict': 0.337, 'first_error': 1.014, 'first_error_label': 2.5, 'answer': 4.0}
    """
    q, p = _steps_and_chosen(step_probabilities, sampled)
    entropies = -(q * np.log2(np.where(q > 0, q, 1.0))).sum(axis=1)
    reached = np.cumprod(np.concatenate([[1.0], p[:-1]]))
    return {
        "verdict": binary_entropy_bits(float(p.prod())),
        "first_error": first_error_entropy_bits(p),
        "first_error_label": float((reached * entropies).sum()),
        "answer": float(surprisal_bits(p).sum()),
    }


def _steps_and_chosen(step_probabilities, chosen) -> tuple[np.ndarray, np.ndarray]:
    """The distributions (K, V), and the probability (K) of the chosen outcome of each."""
    q, index = np.asarray(step_probabilities, dtype=float), np.asarray(chosen)
    if q.ndim != 2 or not len(q) or index.shape != q.shape[:1]:
        raise ValueError(f"step_probabilities must be (K, V) and outcomes (K), got {q.shape} and {index.shape}")
    if not ((q >= 0) & (q <= 1)).all():  # NaN compares false
        raise ValueError("step_probabilities must lie in [0, 1]")
    if not np.allclose(q.sum(axis=1), 1, atol=1e-4):
        raise ValueError("each row of step_probabilities must sum to 1")
    return q, q[np.arange(len(q)), index]
