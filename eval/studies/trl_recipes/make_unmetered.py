"""TRL's trainers that no recipe has, with all their FLOPs and one course over all rounds: `python -m eval.studies.trl_recipes.make_unmetered --config FILE.yaml --output_dir FOLDER`.

DPO and KTO learn from the policy's own rollouts in rounds: each draws rollouts, has them judged and trains on them with a trainer that is made anew, as a user of TRL would do it. Its optimizer begins afresh, and its reference is the
policy as it was when the rollouts were drawn. Online DPO and GMPO draw their rollouts by themselves; GMPO skips batches without an advantage, as the recipes do. Every forward and backward pass counts, the reference's too. A finished
run is a folder with one line in the form of `bitsample_llm/report/prices.py`; the same command goes on where it stopped.
"""

import argparse
import tempfile
from pathlib import Path

import datasets
import numpy as np
import torch
import transformers
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from trl.experimental.gmpo import GMPOConfig, GMPOTrainer
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from bitsample_llm.estimators import first_kept
from bitsample_llm.meter.flop_counter import FlopCounter
from bitsample_llm.meter.verdicts import RolloutVerifier
from bitsample_llm.report.prices import KEEP_FOR, PACKED, PricedRun, pack_prices
from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.scoring.likelihood import exact_pass_rates
from bitsample_llm.scoring.sampling import sampled_completions
from bitsample_llm.tasks import load_task
from bitsample_llm.training.objectives import skipping_dead_updates
from bitsample_llm.training.planned_runs import expanded_arms, expanded_starts, study_config
from bitsample_llm.training.rewards import VerdictReward

TRAINING = {  # what every trainer is told
    **{"lr_scheduler_type": "constant", "logging_strategy": "no", "save_strategy": "no", "report_to": "none"},
    **{"disable_tqdm": True, "use_cpu": True, "bf16": False, "activation_checkpointing": False},
}
DRAWN = {  # trainers that draw by themselves: rollouts per update
    "gmpo": lambda settings: settings["per_device_train_batch_size"] / settings["num_iterations"],
    "online_dpo": lambda settings: 2 * settings["per_device_train_batch_size"],
}


def preference_rows(groups: list[list[tuple]]) -> list[dict]:
    """Pairs of a pass and a fail of one group, each rollout in one pair at least; none of groups of one kind alone."""
    rows = []
    for group in groups:
        passes, fails = ([text for _, text, passed in group if passed == which] for which in (True, False))
        for index in range(max(len(passes), len(fails)) if passes and fails else 0):
            pair = {"chosen": passes[index % len(passes)], "rejected": fails[index % len(fails)]}
            rows.append({"prompt": group[0][0].prompt} | pair)
    return rows


def judged_rows(groups: list[list[tuple]]) -> list[dict]:
    """Every rollout with its verdict; none where all have the same."""
    rows = [{"prompt": problem.prompt, "completion": text, "label": passed} for group in groups for problem, text, passed in group]
    return rows if len({row["label"] for row in rows}) > 1 else []


def round_trainer(settings: dict, groups: list[list[tuple]], seed: int, **how):
    """The trainer of one round of DPO or KTO; None where the rollouts tell nothing."""
    rows = {"dpo": preference_rows, "kto": judged_rows}[settings["trainer"]](groups)
    if not rows:
        return None
    options = TRAINING | {"seed": seed, "learning_rate": settings["learning_rate"], "output_dir": how.pop("output_dir")}
    options |= {"num_train_epochs": 1, "per_device_train_batch_size": min(settings["per_device_train_batch_size"], len(rows))}
    data = datasets.Dataset.from_list(rows)
    if settings["trainer"] == "dpo":
        return trl.DPOTrainer(args=trl.DPOConfig(**options, max_length=None), train_dataset=data, **how)
    num_passed = sum(row["label"] for row in rows)  # TRL asks for weights under which passes and fails count about alike
    options |= {"max_length": None, "desirable_weight": max((len(rows) - num_passed) / num_passed, 1.0)}
    return trl.KTOTrainer(args=trl.KTOConfig(**options), train_dataset=data, **how)


def drawing_trainer(settings: dict, verifier: RolloutVerifier, seed: int, **how):
    """Online DPO or GMPO, which draw by themselves."""
    keys = ("learning_rate", "per_device_train_batch_size")
    options = (
        TRAINING | {"seed": seed, "max_steps": 10**6, "output_dir": how.pop("output_dir")} | {key: settings[key] for key in keys}
    )
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    rows = [{"prompt": problem.prompt, "problem_id": name} for name, problem in verifier.problem_by_id.items()]
    how["train_dataset"] = datasets.Dataset.from_list(rows)
    if settings["trainer"] == "gmpo":
        keys = ("num_generations", "num_iterations", "max_completion_length")
        args = GMPOConfig(**options, **sampling, beta=0.0, **{key: settings[key] for key in keys})
        del how["ref_model"]
        return skipping_dead_updates(GMPOTrainer)(args=args, reward_funcs=[VerdictReward(verifier)], **how)

    def reward(completion_ids, problem_id, **kwargs) -> list[float]:
        ends = [next((at for at, token in enumerate(ids, 1) if verifier.end.is_end(token)), len(ids)) for ids in completion_ids]
        cut = [
            ids[:end] for ids, end in zip(completion_ids, ends, strict=True)
        ]  # this trainer hands on what stands after the end too
        return [float(verdict.passed) for _, _, verdict in verifier.judged(problem_id, cut)]

    args = OnlineDPOConfig(**options, **sampling, max_new_tokens=settings["max_completion_length"], missing_eos_penalty=None)
    return OnlineDPOTrainer(args=args, reward_funcs=[reward], **how)


class Course(TrainerCallback):
    """Scores the held-out problems where FLOPs are due, and says when a run is over."""

    def __init__(self, model, tokenizer, heldout, end: AnswerEnd, settings: dict):
        self.model, self.tokenizer, self.heldout, self.end, self.settings = model, tokenizer, heldout, end, settings
        self.counter = FlopCounter(model, set(end.token_ids))
        budget = settings["flop_budget"]
        self.points = np.geomspace(settings["first_evaluation_flops"], budget, settings["num_evaluations"]).tolist()
        self.updates = self.samples = self.samples_per_update = 0
        self.rows: list[dict] = []
        self.evaluate()

    @property
    def flops(self) -> float:
        return float(sum(self.counter.executed_flops.values()))

    def evaluate(self) -> None:
        """Add a row; what the scoring costs is not counted."""
        was_training, self.counter.paused = self.model.training, True
        rates = exact_pass_rates(self.model.eval(), self.tokenizer, self.heldout, self.end)
        self.model.train(was_training)
        self.counter.paused = False
        state = {"log2_p": float(np.log2(rates).mean()), "pass_rate": float(rates.mean()), "rates": rates}
        useful = float(sum(self.counter.useful_flops.values()))
        self.rows.append({"updates": self.updates, "samples": self.samples, "flops": self.flops, "useful_flops": useful} | state)

    def is_over(self) -> bool:
        """Whether the budget is spent, or the target kept."""
        flops, gains = zip(*((row["flops"], row["log2_p"] - self.rows[0]["log2_p"]) for row in self.rows), strict=True)
        level = -self.settings["target_share"] * self.rows[0]["log2_p"]
        return self.flops >= self.settings["flop_budget"] or first_kept(flops, gains, level, KEEP_FOR) is not None

    def on_step_end(self, args, state, control, **kwargs):
        self.updates += 1
        self.samples += self.samples_per_update
        if self.points and self.flops >= self.points[0]:
            self.points = [point for point in self.points if point > self.flops]
            self.evaluate()
            control.should_training_stop |= self.is_over()


def drawn_groups(model, verifier: RolloutVerifier, problems: list, order: np.random.Generator, settings: dict) -> list[list[tuple]]:
    """A round's rollouts, by problem: problem, completion and whether it passed."""
    size = settings["num_generations"]
    asked = [problems[index] for index in order.integers(len(problems), size=settings["groups_per_round"]) for _ in range(size)]
    completions = sampled_completions(model, verifier.tokenizer, asked, settings["max_completion_length"], end=verifier.end)
    judged = verifier.judged([problem.problem_id for problem in asked], completions)
    rollouts = [(problem, text, verdict.passed) for problem, (text, _, verdict) in zip(asked, judged, strict=True)]
    return [rollouts[first : first + size] for first in range(0, len(rollouts), size)]


def run(start: str, arm: str, seed: int, settings: dict) -> PricedRun:
    """Train until the budget is spent or the target kept."""
    folder = settings["model_name_or_path"]
    task = load_task("addition", "reversed", difficulty=settings["difficulty"], mark=settings["mark"])
    pools = ("tuning", "tuning_heldout") if settings.get("tuning") else ("train", "heldout")
    train, heldout = (
        task.problems(pool, settings[f"num_{kind}_problems"], settings["problem_seed"])
        for pool, kind in zip(pools, ("train", "heldout"), strict=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, reference = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").train() for _ in range(2)
    )
    end = AnswerEnd.of(model, tokenizer)
    verifier, course = RolloutVerifier(task, train, tokenizer, end), Course(model, tokenizer, heldout, end, settings)
    course.counter.count_other(reference, "score_reference")
    transformers.set_seed(seed)
    how = {"model": model, "ref_model": reference, "processing_class": tokenizer, "callbacks": [course]}
    order = np.random.default_rng(seed)
    while not course.is_over():
        with tempfile.TemporaryDirectory() as checkpoints:
            if settings["trainer"] in DRAWN:
                course.samples_per_update = DRAWN[settings["trainer"]](settings)
                trainer = drawing_trainer(settings, verifier, seed, output_dir=checkpoints, **how)
            else:
                groups = drawn_groups(model, verifier, train, order, settings)
                course.samples += sum(map(len, groups))
                reference.load_state_dict(model.state_dict())
                trainer = round_trainer(settings, groups, seed, output_dir=checkpoints, **how)
            if trainer is not None:
                trainer.remove_callback(PrinterCallback)
                trainer.train()
        model.train()
    if course.rows[-1]["flops"] < course.flops:
        course.evaluate()
    names = ("learning_rate", "per_device_train_batch_size", "num_generations", "max_completion_length")
    columns = {
        name: [row[name] for row in course.rows] for name in ("updates", "samples", "flops", "log2_p", "pass_rate", "useful_flops")
    }
    return PricedRun(
        start=start,
        arm=arm,
        seed=seed,
        tags=settings["tags"],
        settings={name: settings[name] for name in names},
        log2_p_before=np.log2(course.rows[0]["rates"]).tolist(),
        flop_budget=settings["flop_budget"],
        kl_bits=[None] * len(course.rows),
        gains_elsewhere={},
        **columns,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="seeds, starts, shared settings and arms, as of a study")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the runs")
    options = parser.parse_args()
    config = study_config(options.config)
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    for seed in config["seeds"]:
        for start, start_settings in expanded_starts(config["starts"]).items():
            for arm, arm_settings in expanded_arms(config["arms"]).items():
                folder = options.output_dir / f"{start}-{arm}-seed{seed}"
                if (folder / PACKED).is_file():
                    continue
                done = run(start, arm, seed, {**config["shared"], **start_settings, **arm_settings})
                pack_prices([done], folder)
                print(folder.name, f"{done.flops[-1]:.3g} FLOPs, log2 p {done.log2_p[0]:.2f} to {done.log2_p[-1]:.2f}", flush=True)


if __name__ == "__main__":
    main()
