"""What TRL's trainers with a teacher show: the completions, what the teacher told of them, and what the teacher cost. B rows, T tokens."""

import time
from functools import partial

import torch
from accelerate.utils import gather_object

from bitsample_llm.meter.flop_counter import priced_model
from bitsample_llm.meter.hooks import require, wrap
from bitsample_llm.meter.labels import NATS_PER_BIT, SampleObserver
from bitsample_llm.meter.regimes import distils_itself, mixes_completions
from bitsample_llm.meter.rollouts import GenerationObserver

MOST_LOGITS = 2**24  # whose divergence is computed at once: 128 MB in float64, three times


class DistillationObserver(GenerationObserver):
    """Records completions and what the teacher offers: its divergence from the student, the loss, summed over the tokens."""

    def __init__(self, trainer, meter, verifier):
        require_teacher(trainer)
        self._teacher_products = priced_model(trainer.accelerator.unwrap_model(trainer.teacher_model))[2]
        super().__init__(trainer, meter, verifier, num_generations=1)

    def _record_loss(self, loss: float, inputs: dict, logps_BT: torch.Tensor | None) -> None:
        super()._record_loss(loss, inputs, logps_BT)
        self._count_projections(inputs)
        # the loss is over the tokens of all processes, scaled up for their mean
        num_nats = loss * float(inputs["num_items_in_batch"]) / self.trainer.accelerator.num_processes
        parts = gather_object([(num_nats / NATS_PER_BIT, len(inputs["rollout_index"]))])
        bits, num = sum(part for part, _ in parts), sum(part for _, part in parts)
        self.totals.count("bits/offered_total", bits)
        self.totals.observe("bits/offered_per_sample", [bits / num] * num)

    def _count_projections(self, inputs: dict) -> None:
        """The trainer projects both models' hidden states itself, and once more backward, where the student has gradients."""
        useful = int(inputs["completion_mask"].sum())
        ran = useful if inputs["completion_ids"].device.type == "cuda" else inputs["completion_ids"].numel()
        num_forward = 2 if 0 < self.trainer.beta < 1 else 1  # a mixture needs both log-partitions first
        count = self.counter.count_projections
        own = self.counter.products
        count("train_forward", num_forward, ran, useful, own)
        count("train_backward", 2 + self.counter.layers.output_trainable, ran, useful, own)
        count("score_reference", num_forward + 1, ran, useful, self._teacher_products)


class SelfDistillationObserver(GenerationObserver):
    """Records completions and what a teacher that sees more than the student offers (TRL's SDFTTrainer): the divergence of the teacher's
    prediction from the student's, KL(teacher || student) over the whole vocabulary, summed over the tokens, whatever the trainer's loss makes of it.
    """

    makes_batch = "sample_rollouts"

    def __init__(self, trainer, meter, verifier):
        require_teacher(trainer)
        super().__init__(trainer, meter, verifier, num_generations=trainer.num_generations)
        wrap(trainer, "_compute_self_distillation_loss", self._around_divergence)

    def _around_divergence(self, original, model, inputs, predictions):
        if self.trainer.model.training:
            bits_B = divergence_bits(predictions.teacher_logits, predictions.student_logits.detach(), predictions.loss_mask)
            parts = gather_object([bits_B.tolist()])
            bits = [value for part in parts for value in part]
            self.totals.count("bits/offered_total", sum(bits))
            self.totals.observe("bits/offered_per_sample", bits)
        return original(model, inputs, predictions)


class MixedDistillationObserver(SampleObserver):
    """Records what the teacher offers of each completion, the data's, the student's own or the teacher's (TRL's experimental GKDTrainer, arXiv 2306.13649, GOLDTrainer and IWOPDTrainer,
    arXiv 2606.22600): KL(teacher || student) as above. Null for a teacher with a vocabulary of its own, whose divergence is not defined.
    """

    def __init__(self, trainer, meter):
        require_teacher(trainer)
        super().__init__(trainer, meter)
        self._logits: dict[str, torch.Tensor] = {}
        teacher = trainer.accelerator.unwrap_model(trainer.teacher_model)
        for name, model in (("teacher", teacher), ("student", meter.counter.causal_lm)):
            model.register_forward_hook(partial(self._keep, name))
        draws = "generate_on_policy_outputs" if hasattr(trainer, "generate_on_policy_outputs") else "_generate_with_model"
        wrap(trainer, draws, self._around_generation)
        if getattr(trainer, "use_vllm", False):
            wrap(trainer.vllm_generation, "generate", self._around_server)

    def _around_generation(self, original, *args, **kwargs):
        counter = self.meter.counter
        counter.generating = counter.trains = True  # a trainer may put the model into training mode later
        result = original(*args, **kwargs)
        counter.generating = counter.trains = False
        return result

    def _around_server(self, original, *args, **kwargs):
        started = time.perf_counter()
        result = original(*args, **kwargs)
        self.meter.counter.count_generation(kwargs["prompts"], [len(ids) for ids in result[1]], time.perf_counter() - started)
        return result

    def _keep(self, name: str, module, args, output) -> None:
        if self.trainer.model.training and not self.meter.counter.generating:
            self._logits[name] = output.logits.detach()

    def rows(self, inputs: dict, logps_BT: torch.Tensor | None) -> list[dict]:
        teacher_BTV, student_BTV = self._logits.pop("teacher"), self._logits.pop("student")
        if getattr(self.trainer, "use_uld_loss", False):
            return [{}] * len(student_BTV)
        bits_B = divergence_bits(teacher_BTV[:, :-1], student_BTV[:, :-1], inputs["labels"][:, 1:] != -100)
        return [{"offered_bits": bits, "offered_bits_estimator": "divergence"} for bits in bits_B.tolist()]

    def num_tokens(self, inputs: dict) -> tuple[int, int]:
        return int(inputs["attention_mask"].sum()), int((inputs["labels"] != -100).sum())


def divergence_bits(teacher_BTV: torch.Tensor, student_BTV: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) in bits (B), summed over the tokens of the mask, from logits; a part of the tokens at a time."""
    rows, _, vocabulary = teacher_BTV.shape
    size = max(1, MOST_LOGITS // (rows * vocabulary))
    nats_B = torch.zeros(rows, dtype=torch.double, device=teacher_BTV.device)
    for *both_BTV, part_BT in zip(*(tensor.split(size, dim=1) for tensor in (teacher_BTV, student_BTV, mask_BT)), strict=True):
        of_teacher, of_student = (torch.log_softmax(logits.double(), dim=-1) for logits in both_BTV)
        nats_B += ((of_teacher.exp() * (of_teacher - of_student)).sum(dim=-1) * part_BT).sum(dim=1)
    return nats_B / NATS_PER_BIT


def require_teacher(trainer) -> None:
    """Check that a trainer has a teacher in this process; a ValueError if it is behind a server."""
    require(trainer, "teacher_model")
    if trainer.teacher_model is None or getattr(trainer, "use_teacher_server", False):
        name = type(trainer).__name__
        raise ValueError(
            f"the teacher of this {name} is behind a server, which shows neither its predictions nor its FLOPs: give the trainer a teacher_model"
        )


def distillation_observer(trainer, meter, verifier) -> SampleObserver | GenerationObserver:
    """The observer of a trainer with a teacher."""
    if mixes_completions(trainer):
        return MixedDistillationObserver(trainer, meter)
    return (SelfDistillationObserver if distils_itself(trainer) else DistillationObserver)(trainer, meter, verifier)
