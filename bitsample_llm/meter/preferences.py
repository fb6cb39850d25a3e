"""What trainers show that learn from preferences, or from verdicts on completions that are there: DPO, CPO, ORPO, TPO, KTO and reward models.

A sample is a pair or a completion with its verdict (KTO). It offers the surprisal of its label under the model's own probability of that label. B pairs or
completions of a batch of this process, T tokens.
"""

from abc import abstractmethod

import torch

from bitsample_llm.meter.hooks import require, wrap
from bitsample_llm.meter.labels import NATS_PER_BIT, SampleObserver, surprisal_bits_of
from bitsample_llm.meter.regimes import has_no_reference


def label_bits(margins_B: torch.Tensor) -> torch.Tensor:
    """Surprisal in bits (B) of labels that the model gives the probability sigmoid(margin).

    >>> label_bits(torch.tensor([1.0, 3.0]).log()).numpy().round(4)  # -log2 of 1/2 and of 3/4
    array([1.   , 0.415])
    """
    return -torch.nn.functional.logsigmoid(margins_B.double()) / NATS_PER_BIT


class PreferenceObserver(SampleObserver):
    """Records what each label offers; `margins_B` of a subclass are the model's log-odds of the label of each sample."""

    rows_per_sample = 2  # of a pair, chosen ones first

    @abstractmethod
    def margins_B(self, inputs: dict) -> torch.Tensor | None:
        """Log-odds in nats (B) that the model gives to the labels, or None where its loss has no such probability."""

    def rows(self, inputs: dict, logps_BT: torch.Tensor | None) -> list[dict]:
        if (margins_B := self.margins_B(inputs)) is None:
            return [{}] * (len(inputs["input_ids"]) // self.rows_per_sample)
        return [{"offered_bits": bits, "offered_bits_estimator": "label"} for bits in label_bits(margins_B).tolist()]

    def num_tokens(self, inputs: dict) -> tuple[int, int | None]:
        completion_mask = inputs.get("completion_mask")
        return int(inputs["attention_mask"].sum()), None if completion_mask is None else int(completion_mask.sum())


class RewardPairObserver(PreferenceObserver):
    """Pairs of a reward model (TRL's RewardTrainer): the label's log-odds are the difference of the rewards, without a margin that the data asks for."""

    def __init__(self, trainer, meter):
        super().__init__(trainer, meter)
        self._rewards_B: torch.Tensor | None = None
        meter.counter.causal_lm.register_forward_hook(self._keep)

    def _keep(self, module, args, output) -> None:
        if torch.is_grad_enabled():
            self._rewards_B = output.logits.detach().squeeze(-1)

    def margins_B(self, inputs: dict) -> torch.Tensor:
        chosen_B, rejected_B = self._rewards_B.chunk(2)
        return chosen_B - rejected_B


class UnreferencedPairObserver(PreferenceObserver):
    """Pairs of TRL's experimental trainers without a reference: CPO (arXiv 2401.08417), whose reward is beta times the log-probability, and ORPO (arXiv 2403.07691),
    whose log-odds are the log of an odds ratio, both of log-probabilities as the trainer averages or sums them.
    """

    def __init__(self, trainer, meter):
        super().__init__(trainer, meter)
        self._margins_B: torch.Tensor | None = None
        wrap(trainer, "odds_ratio_loss" if hasattr(trainer, "odds_ratio_loss") else "cpo_loss", self._around_loss)

    def _around_loss(self, original, chosen_logps_B, rejected_logps_B):
        logps = [logps_B.detach().double() for logps_B in (chosen_logps_B, rejected_logps_B)]
        if hasattr(self.trainer, "odds_ratio_loss"):
            scores = [logps_B - torch.log(-torch.expm1(logps_B)) for logps_B in logps]  # log p/(1 - p)
        else:
            scores = [self.trainer.beta * logps_B for logps_B in logps]
        self._margins_B = scores[0] - scores[1]
        return original(chosen_logps_B, rejected_logps_B)

    def margins_B(self, inputs: dict) -> torch.Tensor | None:
        return self._margins_B

    def num_tokens(self, inputs: dict) -> tuple[int, int]:
        completion = sum(int((inputs[f"{which}_labels"] != -100).sum()) for which in ("chosen", "rejected"))
        return sum(int(inputs[f"{which}_attention_mask"].sum()) for which in ("chosen", "rejected")), completion


class TripleObserver(PreferenceObserver):
    """Triples of TRL's experimental TPOTrainer (arXiv 2405.16681): a pair, whose reward is beta times the log-probability, as the trainer sums or averages it, without
    the margin that it asks for; and an answer to imitate, whose surprisal is offered beside the label's. A weight of 0 leaves the answer out.
    """

    def __init__(self, trainer, meter):
        require(trainer, "tpo_alpha", "beta", "loss_type")
        super().__init__(trainer, meter)
        self.num_parts = 2 if trainer.tpo_alpha == 0 else 3  # of a batch, one after the other: chosen, rejected, answers
        self._logits_BTV: torch.Tensor | None = None
        meter.counter.causal_lm.register_forward_hook(self._keep)

    def _keep(self, module, args, output) -> None:
        if torch.is_grad_enabled():
            self._logits_BTV = output.logits.detach()

    def rows(self, inputs: dict, logps_BT: torch.Tensor | None) -> list[dict]:
        logps_BT = torch.stack(
            [  # a row at a time: logits in full precision are large
                -torch.nn.functional.cross_entropy(logits_TV[:-1].float(), ids_T[1:], reduction="none")
                for logits_TV, ids_T in zip(self._logits_BTV, inputs["input_ids"], strict=True)
            ]
        )
        self._logits_BTV = None
        mask_BT = inputs["completion_mask"][:, 1:]
        logps_B = (logps_BT.double() * mask_BT).sum(dim=1)
        self._scores_B = self.trainer.beta * logps_B
        if self.trainer.loss_type in ("ipo", "tpo-l"):
            self._scores_B = self._scores_B / mask_BT.sum(dim=1).clamp(min=1)
        rows = super().rows(inputs, None)
        if self.num_parts == 3:
            for row, logp in zip(rows, logps_B.chunk(3)[2].tolist(), strict=True):
                row["surprisal_bits"] = surprisal_bits_of(logp)
                row["offered_bits"] += row["surprisal_bits"]
        return rows

    def margins_B(self, inputs: dict) -> torch.Tensor:
        chosen_B, rejected_B = self._scores_B.chunk(self.num_parts)[:2]
        return chosen_B - rejected_B


class ImplicitRewardObserver(PreferenceObserver):
    """Trainers whose reward is beta times the log-ratio of the policy to a reference: what they compute of both is overheard."""

    def __init__(self, trainer, meter):
        require(trainer, "beta", "ref_model", "precompute_ref_logps")
        super().__init__(trainer, meter)
        self._logps_B: torch.Tensor | None = None
        self._reference_logps_B: torch.Tensor | None = None
        for model in (meter.counter.causal_lm, trainer.ref_model):
            if model is not None:  # the reference of adapters is the policy without them
                trainer.accelerator.unwrap_model(model).register_forward_hook(self._keep)

    def _keep(self, module, args, output) -> None:
        if (logps_BT := getattr(output, "log_probs", None)) is not None:
            logps_B = logps_BT.detach().double().sum(dim=1)
            if torch.is_grad_enabled():
                self._logps_B = logps_B
            else:  # the last one before the loss is that of the reference
                self._reference_logps_B = logps_B

    def log_ratios_B(self, inputs: dict, *precomputed: str) -> torch.Tensor:
        """Log-ratios (B) of the whole completions, in nats."""
        if self.trainer.precompute_ref_logps:
            return self._logps_B - torch.cat([inputs[name] for name in precomputed])
        return self._logps_B - self._reference_logps_B


class PairObserver(ImplicitRewardObserver):
    """Pairs of DPO (arXiv 2305.18290, equation 6), whatever the loss makes of them; no number where the divergence from the reference is another one."""

    def margins_B(self, inputs: dict) -> torch.Tensor | None:
        if self.trainer.f_divergence_type != "reverse_kl":
            return None
        chosen_B, rejected_B = self.log_ratios_B(inputs, "ref_chosen_logps", "ref_rejected_logps").chunk(2)
        return self.trainer.beta * (chosen_B - rejected_B)


class UnpairedObserver(ImplicitRewardObserver):
    """Completions of KTO with their verdicts (arXiv 2402.01306, equation 7): a pass has the odds beta (log-ratio - KL), a fail the inverse."""

    rows_per_sample = 1

    def __init__(self, trainer, meter):
        require(trainer, "calculate_KL")
        super().__init__(trainer, meter)
        self._kl_logps: list[torch.Tensor] = []  # of the policy, and of the reference
        wrap(trainer, "_compute_kl_logps", self._around_kl)

    def _around_kl(self, original, model, batch):
        logps_B = original(model, batch)
        if logps_B is not None and self.trainer.model.training:
            self._kl_logps.append(logps_B.detach())
        return logps_B

    def margins_B(self, inputs: dict) -> torch.Tensor:
        ratios_B, shift = self.log_ratios_B(inputs, "ref_logps"), 0.0
        if self.trainer.calculate_KL:
            policy_B, *reference_B = self._kl_logps
            kl = (policy_B - (reference_B[0] if reference_B else inputs["ref_KL_logps"])).mean()
            shift = self.trainer.accelerator.reduce(kl, "mean").clamp(min=0)
        self._kl_logps.clear()
        is_pass_B = torch.as_tensor(inputs["label"], dtype=torch.bool, device=ratios_B.device)
        return self.trainer.beta * (ratios_B - shift) * torch.where(is_pass_B, 1, -1)


def preference_observer(trainer, meter) -> PreferenceObserver:
    """The observer of a trainer that learns from preferences on what is there."""
    if hasattr(trainer, "tpo_alpha"):
        return TripleObserver(trainer, meter)
    if has_no_reference(trainer):
        return UnreferencedPairObserver(trainer, meter)
    if hasattr(trainer, "calculate_KL"):
        return UnpairedObserver(trainer, meter)
    return (PairObserver if hasattr(trainer, "ref_model") else RewardPairObserver)(trainer, meter)
