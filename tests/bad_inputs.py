"""Bad input, as a table: a command with something wrong in it, and what the one line that refuses it has to say.

`{name}` in a command stands for the file or folder that the function `name` below makes.
"""

import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
import yaml
from conftest import BASE
from made_runs import make_measurement, make_run

SAFETENSORS = (BASE / "model.safetensors").read_bytes()
CONFIG = json.loads((BASE / "config.json").read_text())
ROWS = [{"prompt": f"{a} plus {b} is", "answer": str(a + b)} for a in range(8) for b in range(8)]


def text(content: str | bytes, name: str = "file"):
    """Makes a file of this content."""

    def make(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder / name

    return make


def folder_named(name: str):
    """Makes a folder where a file should be."""

    def make(folder: Path) -> Path:
        (folder / name).mkdir(parents=True)
        return folder / name

    return make


def loop(folder: Path) -> Path:
    """A link to itself: nobody can open it."""
    folder.mkdir(parents=True)
    (folder / "loop.yaml").symlink_to(folder / "loop.yaml")
    return folder / "loop.yaml"


def model(base: Path = BASE, **files: str | bytes | None):
    """Makes a model folder like `base` with other files (`config_json` for config.json); None leaves one out."""
    changed = {"_".join(name.split("_")[:-1]) + "." + name.split("_")[-1]: content for name, content in files.items()}

    def make(folder: Path) -> Path:
        folder.mkdir(parents=True)
        for path in base.iterdir():
            if path.name not in changed:
                (folder / path.name).symlink_to(path)
        for name, content in changed.items():
            if content is not None:
                (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    return make


def config(**changes) -> str:
    """The embedded model's configuration with other values."""
    return json.dumps({key: value for key, value in (CONFIG | changes).items() if value is not ...})


def without_tensors(prefix: str) -> bytes:
    """The embedded model's weights without the tensors of this name."""
    return safetensors.numpy.save({k: v for k, v in safetensors.numpy.load(SAFETENSORS).items() if not k.startswith(prefix)})


class Surprise:
    """What a pickle can carry."""

    def __reduce__(self):
        return (print, ("a pickle ran code",))


def rows(*lines: dict, name: str = "rows.jsonl"):
    """Makes a JSONL file."""
    return text("".join(json.dumps(line) + "\n" for line in lines), name)


def parquet(columns: dict):
    """Makes a parquet file."""

    def make(folder: Path) -> Path:
        folder.mkdir(parents=True)
        pq.write_table(pa.table(columns), folder / "rows.parquet")
        return folder / "rows.parquet"

    return make


STUDY = {
    "seeds": [1],
    "shared": {"max_steps": 1},
    "starts": {"latent": {"model_name_or_path": "data/base"}},
    "arms": {"sft": {"recipe": "sft"}},
}


def study(**changes):
    """Makes a study's configuration; `...` leaves a key out."""
    return text(yaml.safe_dump({key: value for key, value in (STUDY | changes).items() if value is not ...}), "study.yaml")


def begun_study(content: str | None):
    """Makes the folder of a study that has begun, with this for its configuration."""

    def make(folder: Path) -> Path:
        text("{}", "manifest.json")(folder / "latent-sft-seed1")
        if content is not None:
            (folder / "study.json").write_text(content)
        return folder

    return make


def run(*edits, kind: str = "report"):
    """Makes a finished run (`report`) or measurement (`plan`), and then spoils it."""

    def make(folder: Path) -> Path:
        if kind == "report":
            make_run(folder, "latent", "sft", "sft", 1, 1.0)
            folder = folder / "latent-sft-1"
        else:
            make_measurement(folder, [0.1, 0.5, 0.9] * 4)
        for edit in edits:
            edit(folder)
        return folder

    return make


def manifest(**changes):
    """An edit of a manifest; `...` takes a key out."""

    def edit(run_dir: Path) -> None:
        path = run_dir / "manifest.json"
        merged = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in merged.items() if value is not ...}))

    return edit


def holding(name: str, content: str | bytes | None):
    """An edit that gives a file another content, or takes all files of a pattern away."""

    def edit(run_dir: Path) -> None:
        for path in run_dir.glob(name):
            path.unlink()
        if content is not None:
            (run_dir / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return edit


def with_columns(name: str, **columns):
    """An edit of the columns of a table; None takes one out."""

    def edit(run_dir: Path) -> None:
        (path,) = run_dir.glob(f"{name}-*.parquet")
        table = pq.read_table(path)
        for column, values in columns.items():
            table = table.drop_columns([column])
            if values is not None:
                table = table.append_column(column, pa.array((values * table.num_rows)[: table.num_rows]))
        pq.write_table(table, path)

    return edit


def steps(change) -> object:
    """An edit of the step lines, as a list of dicts."""

    def edit(run_dir: Path) -> None:
        path = run_dir / "steps.jsonl"
        lines = [change(json.loads(line)) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    return edit


def lacking(key: str):
    return lambda line: {name: value for name, value in line.items() if name != key}


# fmt: off
MADE = {
    # files
    "empty": text(""),
    "binary": text(bytes(range(256)) * 8),
    "broken_yaml": text("learning_rate: [1\nmax_steps: 3", "broken.yaml"),
    "tab_yaml": text("learning_rate:\t1e-4\n\tmax_steps: 3", "tab.yaml"),
    "empty_yaml": text("", "empty.yaml"),
    "list_yaml": text("- learning_rate\n- max_steps", "list.yaml"),
    "scalar_yaml": text("fast", "scalar.yaml"),
    "binary_yaml": text(b"\xff\xfe\x00\x81" * 40, "binary.yaml"),
    "unknown_key_yaml": text("learning_speed: 3", "unknown.yaml"),
    "list_value_yaml": text("learning_rate: [1, 2]", "value.yaml"),
    "text_value_yaml": text("max_steps: many", "value.yaml"),
    "half_value_yaml": text("max_steps: 2.5", "value.yaml"),
    "null_value_yaml": text("learning_rate: null", "value.yaml"),
    "nan_yaml": text("learning_rate: .nan", "value.yaml"),
    "inf_yaml": text("flop_budget: .inf", "value.yaml"),
    "choice_yaml": text("trainer: ppo", "value.yaml"),
    "env_yaml": text("env: 3", "value.yaml"),
    "folder_yaml": folder_named("folder.yaml"),
    "loop": loop,
    # models
    "no_config": model(config_json=None),
    "broken_config": model(config_json='{"model_type": "llama",'),
    "list_config": model(config_json="[1, 2]"),
    "empty_config": model(config_json=""),
    "no_type": model(config_json="{}"),
    "unknown_type": model(config_json=config(model_type="abacus")),
    "no_causal_lm": model(config_json=json.dumps({"model_type": "vit", "hidden_size": 16})),
    "wide_config": model(config_json=config(hidden_size=256)),
    "deep_config": model(config_json=config(num_hidden_layers=8)),
    "few_words": model(config_json=config(vocab_size=5)),
    "text_in_config": model(config_json=config(hidden_size="wide")),
    "zero_heads": model(config_json=config(num_attention_heads=0)),
    "odd_heads": model(config_json=config(num_attention_heads=3, head_dim=...)),
    "no_weights": model(model_safetensors=None),
    "empty_weights": model(model_safetensors=b""),
    "short_weights": model(model_safetensors=SAFETENSORS[:5000]),
    "short_header": model(model_safetensors=SAFETENSORS[:20]),
    "garbage_weights": model(model_safetensors=bytes(range(256)) * 64),
    "half_weights": model(model_safetensors=without_tensors("model.layers.0.")),
    "pickle_weights": model(model_safetensors=None, pytorch_model_bin=pickle.dumps({"weight": Surprise()})),
    "garbage_pickle": model(model_safetensors=None, pytorch_model_bin=b"no pickle at all"),
    "two_gguf": model(model_safetensors=None, a_gguf=b"", b_gguf=b""),
    "garbage_gguf": model(model_safetensors=None, model_gguf=bytes(range(256)) * 64),
    "no_tokenizer": model(tokenizer_json=None, tokenizer_config_json=None),
    "broken_tokenizer": model(tokenizer_json='{"version": "1.0",'),
    "empty_tokenizer": model(tokenizer_json=""),
    "list_tokenizer": model(tokenizer_json="[]"),
    "broken_tokenizer_config": model(tokenizer_config_json="{"),
    "no_eos": model(tokenizer_config_json=json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})),
    "adapter_alone": model(config_json=None, model_safetensors=None, adapter_config_json='{"peft_type": "LORA"}'),
    "adapter_broken": model(config_json=None, model_safetensors=None, adapter_config_json="{"),
    "adapter_of_nothing": model(config_json=None, model_safetensors=None, adapter_config_json='{"peft_type": "LORA", "base_model_name_or_path": "./gone", "task_type": "CAUSAL_LM"}'),
    "folder": folder_named("folder"),
    # data
    "rows": rows(*ROWS),
    "broken_rows": text(json.dumps(ROWS[0]) + "\n{broken\n", "rows.jsonl"),
    "list_rows": text("[1, 2]\n[3, 4]\n", "rows.jsonl"),
    "number_rows": text("1\n2\n", "rows.jsonl"),
    "empty_rows": text("", "rows.jsonl"),
    "blank_rows": text("\n\n\n", "rows.jsonl"),
    "binary_rows": text(bytes(range(256)) * 8, "rows.jsonl"),
    "latin_rows": text('{"prompt": "caf\xe9", "answer": "1"}\n'.encode("latin-1"), "rows.jsonl"),
    "mixed_rows": text('{"prompt": "a", "answer": "1"}\n{"prompt": {"a": 1}, "answer": [1]}\n', "rows.jsonl"),
    "folder_jsonl": folder_named("rows.jsonl"),
    "empty_folder": folder_named("rows"),
    "one_row": rows(ROWS[0]),
    "null_answers": rows(*[row | {"answer": None} for row in ROWS]),
    "no_answers": rows(*[{"prompt": row["prompt"]} for row in ROWS]),
    "number_prompts": rows(*[row | {"prompt": number} for number, row in enumerate(ROWS)]),
    "empty_prompts": rows(*[row | {"prompt": ""} for row in ROWS]),
    "list_answers": rows(*[row | {"answer": [row["answer"]]} for row in ROWS]),
    "chat_rows": rows(*[row | {"prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]),
    "half_chats": rows(*[row | {"prompt": [{"role": "user"}]} for row in ROWS]),
    "vibes": rows(*[row | {"how": "vibes"} for row in ROWS]),
    "null_verifier": rows(*[row | {"how": None} for row in ROWS]),
    "garbage_parquet": text(bytes(range(256)) * 8, "rows.parquet"),
    "empty_parquet": text("", "rows.parquet"),
    "short_parquet": text(b"PAR1", "rows.parquet"),
    "no_row_parquet": parquet({"prompt": pa.array([], pa.string()), "answer": pa.array([], pa.string())}),
    "other_parquet": parquet({"question": ["a"], "reply": ["b"]}),
    "map_parquet": parquet({"prompt": [{"a": 1}] * 40, "answer": [{"b": 1}] * 40}),
    "csv": text("prompt,answer\na,1\n", "rows.csv"),
    "scalar_json": text("3", "rows.json"),
    "broken_json": text("{", "rows.json"),
    # studies
    "study": study(),
    "no_seeds": study(seeds=...),
    "no_models": study(learning_rates=[1e-4], first_learning_rates=[1e-4]),
    "empty_seeds": study(seeds=[]),
    "one_seed": study(seeds=1),
    "text_seeds": study(seeds=["one"]),
    "empty_arms": study(arms={}),
    "list_arms": study(arms=["sft"]),
    "null_arm": study(arms={"sft": None}),
    "null_start": study(starts={"latent": None}),
    "no_starts": study(starts=...),
    "empty_starts": study(starts={}),
    "starts_gone": study(starts="gone.yaml"),
    "no_recipe": study(arms={"sft": {"learning_rate": 1}}),
    "unknown_recipe": study(arms={"sft": {"recipe": "dpo"}}),
    "list_recipe": study(arms={"sft": {"recipe": ["sft"]}}),
    "path_recipe": study(arms={"sft": {"recipe": "../recipes/sft"}}),
    "arm_outside": study(arms={"/../../evil": {"recipe": "sft"}}),
    "start_outside": study(starts={"../evil": STUDY["starts"]["latent"]}),
    "arm_of_lines": study(arms={"a\nb": {"recipe": "sft"}}),
    "empty_arm": study(arms={"": {"recipe": "sft"}}),
    "long_arm": study(arms={"a" * 300: {"recipe": "sft"}}),
    "number_arm": study(arms={7: None}),
    "unknown_only": study(arms={"sft": {"recipe": "sft", "only": ["latents"]}}),
    "unknown_by_start": study(arms={"sft": {"recipe": "sft", "by_start": {"latents": {"max_steps": 2}}}}),
    "unknown_tuned_as": study(arms={"sft": {"recipe": "sft", "tuned_as": "grpo"}}, tuned={"latent": {"rloo": {"max_steps": 2}}}),
    "unknown_tuned_start": study(tuned={"nowhere": {"sft": {"max_steps": 2}}}),
    "short_grid": study(arms={"sft": {"recipe": "sft", "grid": {"max_steps seed": [[1, 2], [3]]}}}),
    "number_grid": study(arms={"sft": {"recipe": "sft", "grid": {"max_steps": 3}}}),
    "list_grid": study(arms={"sft": {"recipe": "sft", "grid": [3]}}),
    "broken_study": text("seeds: [1\nstarts", "study.yaml"),
    "begun_unknown": begun_study(None),
    "begun_broken": begun_study("{"),
    # runs
    "run": run(),
    "failed_run": run(manifest(state="failed", reason="Trouble: it broke")),
    "broken_manifest": run(holding("manifest.json", "{")),
    "empty_manifest": run(holding("manifest.json", "")),
    "list_manifest": run(holding("manifest.json", "[]")),
    "no_keys": run(holding("manifest.json", "{}")),
    "no_state": run(manifest(state=...)),
    "odd_state": run(manifest(state=3)),
    "other_schema": run(manifest(schema_version=1)),
    "text_schema": run(manifest(schema_version="two")),
    "binary_manifest": run(holding("manifest.json", b"\xff\xfe\x81")),
    "no_regime": run(manifest(regime=...)),
    "odd_start": run(manifest(start=["a"])),
    "odd_config": run(manifest(config=[1])),
    "odd_seed": run(manifest(seed="one")),
    "no_steps": run(holding("steps.jsonl", None)),
    "list_step": run(holding("steps.jsonl", "[1, 2]\n")),
    "empty_step": run(holding("steps.jsonl", "{}\n")),
    "text_step": run(holding("steps.jsonl", '"fast"\n')),
    "text_step_number": run(steps(lambda line: line | {"step": "one"})),
    "broken_step": run(holding("steps.jsonl", "{\n{}\n")),
    "binary_steps": run(holding("steps.jsonl", b"\xff\xfe\x81\n")),
    "no_flops": run(steps(lacking("flops/total"))),
    "text_flops": run(steps(lambda line: line | {"flops/total": "many"})),
    "null_flops": run(steps(lambda line: line | {"flops/total": None})),
    "no_evals": run(holding("evals-*.parquet", None)),
    "broken_evals": run(holding("evals-00000.parquet", b"PAR1 and no more")),
    "empty_evals": run(holding("evals-00000.parquet", b"")),
    "narrow_evals": run(with_columns("evals", split=None)),
    "text_evals": run(with_columns("evals", log2_pass_rate=["a"])),
    "odd_prompts": run(with_columns("prompts", offered_bits=["a"])),
    "two_of_a_seed": lambda folder: run()(folder / "again") and run()(folder).parent / "again" / ".." / "*",
    # measurements
    "no_prices": run(manifest(flops_per_sample=...), kind="plan"),
    "text_prices": run(manifest(flops_per_sample="dear"), kind="plan"),
    "null_prices": run(manifest(flops_per_sample={"rollout_prefill": None}), kind="plan"),
    "no_model": run(manifest(config=...), kind="plan"),
    "no_prompts": run(holding("prompts-*.parquet", None), kind="plan"),
    "no_problems": run(holding("problems-*.parquet", None), kind="plan"),
    "broken_prompts": run(holding("prompts-00000.parquet", b"PAR1 and no more"), kind="plan"),
    "no_halves": run(with_columns("prompts", generation_step=[7]), kind="plan"),
    "null_passes": run(with_columns("prompts", num_passed=[None]), kind="plan"),
    "too_many_passes": run(with_columns("prompts", num_passed=[999]), kind="plan"),
    "other_problems": run(with_columns("problems", problem_id=["elsewhere"]), kind="plan"),
    "no_measured_steps": run(holding("steps.jsonl", None), kind="plan"),
    "failed_measurement": run(manifest(state="failed", reason="Trouble: it broke"), kind="plan"),
}
# fmt: on

# (command, what its one line must say)
CASES = [
    # training options, of TRL or ours
    ("sft --learning_rate -1", "--learning_rate must be at least 0, got -1.0"),
    ("sft --learning_rate nan", "--learning_rate must be a finite number, got nan"),
    ("sft --learning_rate inf", "--learning_rate must be a finite number, got inf"),
    ("sft --learning_rate fast", "invalid float value: 'fast'"),
    ("sft --learning_rate ''", "invalid float value: ''"),
    ("sft --learning_rate", "expected one argument"),
    ("sft --per_device_train_batch_size 0", "--per_device_train_batch_size must be at least 1, got 0"),
    ("sft --per_device_train_batch_size -8", "--per_device_train_batch_size must be at least 1, got -8"),
    ("sft --per_device_train_batch_size 1.5", "invalid int value: '1.5'"),
    ("sft --gradient_accumulation_steps 0", "--gradient_accumulation_steps must be at least 1, got 0"),
    ("sft --num_train_epochs nan", "--num_train_epochs must be a finite number, got nan"),
    ("sft --weight_decay nan", "--weight_decay must be a finite number, got nan"),
    ("sft --weight_decay -0.1", "--weight_decay must be at least 0, got -0.1"),
    ("sft --adam_beta1 1.5", "--adam_beta1 must be from 0 to below 1, got 1.5"),
    ("sft --adam_beta2 -0.5", "--adam_beta2 must be from 0 to below 1, got -0.5"),
    ("sft --adam_epsilon -1", "--adam_epsilon must be at least 0, got -1.0"),
    ("sft --max_grad_norm nan", "--max_grad_norm must be a finite number, got nan"),
    ("sft --max_grad_norm -1", "--max_grad_norm must be at least 0, got -1.0"),
    ("sft --warmup_steps -1", "warmup_steps"),
    ("sft --lr_scheduler_type zigzag", "--lr_scheduler_type"),
    ("sft --optim sgdd", "--optim"),
    ("sft --save_steps 0", "--save_steps must be above 0, got 0.0"),
    ("sft --save_steps nan", "--save_steps must be a finite number, got nan"),
    ("sft --save_strategy sometimes", "--save_strategy"),
    ("sft --logging_steps 0", "--logging_steps must be above 0, got 0.0"),
    ("sft --seed -1", "--seed must be from 0 to 4294967295, got -1"),
    ("sft --seed 99999999999", "--seed must be from 0 to 4294967295, got 99999999999"),
    ("sft --max_length 0", "--max_length must be at least 1, got 0"),
    ("sft --max_length 2", "no problem is left to train on"),
    ("sft --use_cpu maybe", "--use_cpu"),
    ("sft --learning_speed 1", "--learning_speed"),
    ("sft stray", "stray"),
    ("sft --labels guesses", "--labels"),
    ("sft --objective praise", "--objective"),
    ("sft --labels passing_rollouts --rollouts_per_prompt 0", "--rollouts_per_prompt must be at least 1, got 0"),
    ("sft --report_to nowhere", "nowhere"),
    ("sft --bf16 true --fp16 true", "fp16"),
    ("sft --dataset_num_proc 0", "--dataset_num_proc must be at least 1, got 0"),
    # the study's own choices
    ("sft --flop_budget nan", "--flop_budget must be a finite number, got nan"),
    ("sft --flop_budget inf", "--flop_budget must be a finite number, got inf"),
    ("sft --flop_budget 0", "--flop_budget must be above 0, got 0"),
    ("sft --flop_budget 1e15PFLOP", "invalid float value: '1e15PFLOP'"),
    ("sft --flop_budget 1e9 --first_evaluation_flops 1e12", "--first_evaluation_flops must be at most --flop_budget"),
    ("sft --first_evaluation_flops=-inf", "--first_evaluation_flops must be a finite number, got -inf"),
    ("sft --target_bits nan", "--target_bits must be a finite number, got nan"),
    ("sft --target_bits 0", "--target_bits must be above 0, got 0"),
    ("sft --target_share 1.5", "--target_share must be above 0 and at most 1, got 1.5"),
    ("sft --target_pass_rate 0", "--target_pass_rate must be above 0 and at most 1, got 0"),
    ("sft --keep_target_for 0.5", "--keep_target_for must be at least 1, got 0.5"),
    ("sft --num_kl_problems -1", "--num_kl_problems must be at least 0, got -1"),
    ("sft --num_train_problems 0", "--num_train_problems must be at least 1, got 0"),
    ("sft --num_train_problems 100000", "asked for 100000"),
    ("sft --num_heldout_problems 0", "--num_heldout_problems must be at least 1, got 0"),
    ("sft --num_evaluations 0", "--num_evaluations must be at least 1, got 0"),
    ("sft --problem_seed -1", "--problem_seed must be at least 0, got -1"),
    ("sft --difficulty 0", "difficulty"),
    ("sft --difficulty -3", "difficulty"),
    ("sft --difficulty 100000000", "difficulty"),
    ("sft --mark Z", "unknown author mark 'Z'"),
    ("sft --mark ''", "unknown author mark ''"),
    ("sft --shots -1", "--shots must be at least 0, got -1"),
    ("sft --shots 16", "--shots 16 needs more than 16 training problems, got 16"),
    ("sft --shots 2 --shot_separator '|'", "the tokenizer cannot write the separator '|': name another, --shot_separator TEXT"),
    ("measure --shots 2", "--shots takes neither --probe_shots nor --probe_mark"),
    ("sft --task sorting", "unknown task 'sorting'; known: addition"),
    ("sft --answer_format roman", "unknown answer format 'roman'"),
    ("sft --answer_format restated99", "unknown answer format 'restated99'"),
    ("sft --task subtraction --answer_format scratchpad", "subtraction has no scratchpad"),
    ("sft --prompt_format chat", "needs a tokenizer with a chat template"),
    ("sft --trained_parameters heads", "--trained_parameters"),
    # names and places
    ("sft --arm ../../evil", "--arm '../../evil' names files: leave out the /"),
    ("sft --arm ''", "--arm must not be empty"),
    ("sft --start a/b", "--start 'a/b' names files: leave out the /"),
    ("grpo --arm 'a\nb'", "--arm 'a\\nb' holds a control character"),
    ("measure --arm ..", "--arm must not be '..'"),
    (f"sft --arm {'a' * 300}", "--arm is longer than 100 characters"),
    ("sft --output_dir {empty}", "exists and is no folder"),
    ("sft --output_dir {empty}/run", "exists and is no folder"),
    ("sft --output_dir ''", "no run directory: pass --output_dir FOLDER"),
    ("sft --output_dir {run}", "holds a finished run, which is never overwritten"),
    ("sft --output_dir {broken_manifest}", "is not JSON"),
    ("sft --output_dir {no_state}", "has no 'state'"),
    ("sft --resume_from_checkpoint last", "is not a run directory"),
    ("sft --output_dir {failed_run} --resume_from_checkpoint {folder}", "holds no checkpoint"),
    ("sft --output_dir {failed_run} --resume_from_checkpoint no/such", "no/such does not exist"),
    # configuration files
    ("sft --config no/such.yaml", "no/such.yaml"),
    ("sft --config {folder_yaml}", "folder.yaml"),
    ("sft --config {loop}", "loop.yaml"),
    ("sft --config {broken_yaml}", "broken.yaml is not YAML"),
    ("sft --config {tab_yaml}", "tab.yaml is not YAML"),
    ("sft --config {binary_yaml}", "binary.yaml is not YAML"),
    ("sft --config {empty_yaml}", "empty.yaml must contain a YAML mapping"),
    ("sft --config {list_yaml}", "list.yaml must contain a YAML mapping"),
    ("sft --config {scalar_yaml}", "scalar.yaml must contain a YAML mapping"),
    ("sft --config {unknown_key_yaml}", "learning_speed"),
    ("sft --config {list_value_yaml}", "--learning_rate must be a number, got [1, 2]"),
    ("sft --config {text_value_yaml}", "invalid int value: 'many'"),
    ("sft --config {half_value_yaml}", "--max_steps must be a whole number, got 2.5"),
    ("sft --config {null_value_yaml}", "--learning_rate must be a number, got None"),
    ("sft --config {nan_yaml}", "--learning_rate must be a finite number, got nan"),
    ("sft --config {inf_yaml}", "--flop_budget must be a finite number, got inf"),
    ("grpo --config {choice_yaml}", "--trainer"),
    ("sft --config {env_yaml}", "env"),
    ("sft --config", "--config"),
    # GRPO
    ("grpo --temperature 0", "--temperature must be above 0, got 0.0"),
    ("grpo --temperature -1", "--temperature must be above 0, got -1.0"),
    ("grpo --temperature nan", "--temperature must be a finite number, got nan"),
    ("grpo --num_generations 0", "--num_generations must be at least 2, got 0"),
    ("grpo --num_generations 1", "--num_generations must be at least 2, got 1"),
    ("grpo --num_generations -2", "--num_generations must be at least 2, got -2"),
    ("grpo --num_generations 5", "divisible"),
    ("grpo --per_device_train_batch_size 0", "--per_device_train_batch_size must be at least 1, got 0"),
    ("grpo --per_device_train_batch_size 30", "divisible by num_generations"),
    ("grpo --generation_batch_size 0", "--generation_batch_size must be at least 1, got 0"),
    ("grpo --steps_per_generation 0", "--steps_per_generation must be at least 1, got 0"),
    ("grpo --num_iterations 0", "--num_iterations must be at least 1, got 0"),
    ("grpo --max_completion_length 0", "--max_completion_length must be at least 1, got 0"),
    ("grpo --max_completion_length 3", "max_completion_length 3 cuts answers off"),
    ("grpo --beta nan", "--beta must be a finite number, got nan"),
    ("grpo --beta -1", "--beta must be at least 0, got -1.0"),
    ("grpo --epsilon -1", "--epsilon must be at least 0, got -1.0"),
    ("grpo --top_p 0", "--top_p must be above 0 and at most 1, got 0.0"),
    ("grpo --top_p 2", "--top_p must be above 0 and at most 1, got 2.0"),
    ("grpo --top_k -1", "--top_k must be at least 0, got -1"),
    ("grpo --min_p 2", "--min_p must be from 0 to 1, got 2.0"),
    ("grpo --repetition_penalty 0", "--repetition_penalty must be above 0, got 0.0"),
    ("grpo --reward praise", "--reward"),
    ("grpo --trainer ppo", "--trainer"),
    ("grpo --trainer", "--trainer"),
    ("grpo --loss_type sharp", "loss_type"),
    ("grpo --scale_rewards much", "scale_rewards"),
    ("grpo --reward_weights 1 2", "reward"),
    ("grpo --reward_weights nan", "--reward_weights must be a finite number, got nan"),
    ("grpo --use_vllm true", "vllm"),
    ("grpo --trainer rloo --reward first_error", "need --trainer grpo, got rloo"),
    ("grpo --trainer verdict_likelihood --reward random", "learns from --reward outcome"),
    # models
    ("sft --model_name_or_path no/such/folder", "no/such/folder does not exist"),
    ("sft --model_name_or_path ''", "no model: pass --model_name_or_path FOLDER"),
    ("sft --model_name_or_path {empty}", "is a file: pass the folder of a model"),
    ("sft --model_name_or_path {folder}", "cannot be loaded"),
    ("sft --model_name_or_path {no_config}", "config.json"),
    ("sft --model_name_or_path {broken_config}", "config.json"),
    ("sft --model_name_or_path {list_config}", "cannot be loaded"),
    ("sft --model_name_or_path {empty_config}", "config.json"),
    ("sft --model_name_or_path {no_type}", "model_type"),
    ("sft --model_name_or_path {unknown_type}", "abacus"),
    ("sft --model_name_or_path {no_causal_lm}", "cannot be loaded"),
    ("sft --model_name_or_path {wide_config}", "config.json does not fit the weights"),
    ("sft --model_name_or_path {deep_config}", "config.json does not fit the weights"),
    ("sft --model_name_or_path {few_words}", "config.json does not fit the weights"),
    ("sft --model_name_or_path {text_in_config}", "cannot be loaded"),
    ("sft --model_name_or_path {zero_heads}", "cannot be loaded"),
    ("sft --model_name_or_path {odd_heads}", "cannot be loaded"),
    ("sft --model_name_or_path {no_weights}", "model.safetensors"),
    ("sft --model_name_or_path {empty_weights}", "safetensors"),
    ("sft --model_name_or_path {short_weights}", "safetensors"),
    ("sft --model_name_or_path {short_header}", "safetensors"),
    ("sft --model_name_or_path {garbage_weights}", "safetensors"),
    ("sft --model_name_or_path {half_weights}", "config.json does not fit the weights"),
    ("sft --model_name_or_path {pickle_weights}", "pickle"),
    ("grpo --model_name_or_path {garbage_pickle}", "pickle"),
    ("sft --model_name_or_path {two_gguf}", "holds 2 GGUF files, a.gguf, b.gguf: leave one"),
    ("grpo --model_name_or_path {garbage_gguf}", "cannot be loaded"),
    ("sft --model_name_or_path {no_tokenizer}", "tokenizer"),
    ("sft --model_name_or_path {broken_tokenizer}", "tokenizer"),
    ("sft --model_name_or_path {empty_tokenizer}", "tokenizer"),
    ("sft --model_name_or_path {list_tokenizer}", "tokenizer"),
    ("sft --model_name_or_path {broken_tokenizer_config}", "tokenizer"),
    ("grpo --model_name_or_path {no_eos}", "has no eos_token"),
    ("sft --model_name_or_path {adapter_alone}", "cannot be loaded"),
    ("sft --model_name_or_path {adapter_broken}", "cannot be loaded"),
    ("sft --model_name_or_path {adapter_of_nothing}", "gone"),
    ("measure --model_name_or_path {short_weights}", "safetensors"),
    ("noise --model_name_or_path {empty_weights}", "safetensors"),
    ("pretrain --init_from {short_weights}", "safetensors"),
    ("sft --dtype float99", "--dtype"),
    ("sft --attn_implementation sideways", "sideways"),
    ("sft --use_peft true --lora_r 0", "--lora_r must be at least 1, got 0"),
    ("sft --use_peft true --lora_alpha -1", "--lora_alpha must be at least 1, got -1"),
    ("sft --use_peft true --lora_dropout nan", "--lora_dropout must be a finite number, got nan"),
    ("sft --use_peft true --lora_dropout 2", "--lora_dropout must be from 0 to 1, got 2.0"),
    ("sft --use_peft true --lora_target_modules nothing_like_it", "nothing_like_it"),
    ("sft --load_in_4bit true --load_in_8bit true", "8 bit and 4 bit"),
    # data
    ("sft --dataset no/such.jsonl", "data file no/such.jsonl does not exist"),
    ("sft --dataset ''", "--dataset must not be empty"),
    ("sft --dataset {broken_rows}", "line 2 is not a JSON object"),
    ("sft --dataset {list_rows}", "line 1 is not a JSON object"),
    ("sft --dataset {number_rows}", "line 1 is not a JSON object"),
    ("sft --dataset {empty_rows}", "has no rows"),
    ("sft --dataset {blank_rows}", "cannot be read"),
    ("sft --dataset {binary_rows}", "cannot be read"),
    ("sft --dataset {latin_rows}", "cannot be read"),
    ("sft --dataset {mixed_rows}", "has no problem in the pool"),
    ("sft --dataset {folder_jsonl}", "is a folder"),
    ("sft --dataset {empty_folder}", "cannot be read"),
    ("sft --dataset {one_row}", "has no problem in the pool"),
    ("sft --dataset {null_answers}", "has no problem in the pool"),
    ("sft --dataset {no_answers}", "has no column 'answer': pass --answer_column"),
    ("sft --dataset {rows} --prompt_column question", "has no column 'question': pass --prompt_column"),
    ("sft --dataset {number_prompts}", "has no problem in the pool"),
    ("sft --dataset {empty_prompts}", "has no problem in the pool"),
    ("sft --dataset {list_answers}", "has no problem in the pool"),
    ("sft --dataset {half_chats}", "has no problem in the pool"),
    ("sft --dataset {chat_rows}", "no chat template"),
    ("sft --dataset {vibes} --verifier_column how", "asks for the verifier 'vibes'"),
    ("sft --dataset {null_verifier} --verifier_column how", "asks for the verifier None"),
    ("sft --dataset {rows} --verifier vibes", "unknown verifier 'vibes'"),
    ("sft --dataset {rows} --verifier_column how", "has no column 'how': pass --verifier_column"),
    ("sft --dataset {rows} --heldout_split no/such.jsonl", "data file no/such.jsonl does not exist"),
    ("sft --dataset {rows} --heldout_split {empty_rows}", "has no rows"),
    ("grpo --dataset {rows} --reward first_error --verifier numeric", "need"),
    ("sft --dataset {garbage_parquet}", "cannot be read"),
    ("sft --dataset {empty_parquet}", "has no rows"),
    ("sft --dataset {short_parquet}", "cannot be read"),
    ("sft --dataset {no_row_parquet}", "cannot be read"),
    ("sft --dataset {other_parquet}", "has no column 'prompt'"),
    ("sft --dataset {map_parquet}", "has no problem in the pool"),
    ("sft --dataset {csv}", "is a file of another kind"),
    ("sft --dataset {scalar_json}", "cannot be read"),
    ("sft --dataset {broken_json}", "cannot be read"),
    ("noise --dataset {rows}", "--dataset"),
    ("noise --shots 2", "--shots"),
    # the other recipes
    ("measure --num_generations 7", "--num_generations must be even and at least 4"),
    ("measure --batch_size 0", "--batch_size must be at least 1, got 0"),
    ("measure --seed -1", "--seed must be from 0 to 4294967295, got -1"),
    ("measure --max_completion_length 3", "max_completion_length 3 cuts answers off"),
    ("measure --probe_learning_rate nan", "--probe_learning_rate must be a finite number, got nan"),
    ("measure --probe_learning_rate -1", "--probe_learning_rate must be at least 0, got -1.0"),
    ("measure --probe_mark Z", "unknown author mark 'Z'"),
    ("measure --probe_shots 100000", "--probe_shots 100000 needs more than"),
    ("measure --probe_shots -1", "--probe_shots must be at least 0"),
    ("measure --probe_rollouts_per_update 12", "must be a multiple of 8, got 12"),
    ("measure --use_peft true", "--use_peft"),
    ("measure --output_dir {empty}", "exists and is no folder"),
    ("measure --resume_from_checkpoint last", "is not a run directory"),
    ("pretrain --max_steps 0", "--max_steps must be at least 1, got 0"),
    ("pretrain --learning_rate nan", "--learning_rate must be a finite number, got nan"),
    ("pretrain --per_device_train_batch_size 0", "--per_device_train_batch_size must be at least 1, got 0"),
    ("pretrain --watch_steps 0", "--watch_steps must be at least 1, got 0"),
    ("pretrain --save_ladder -1", "--save_ladder must be at least 0, got -1"),
    ("pretrain --stop_at_pass_rate 2", "--stop_at_pass_rate must be from 0 to 1, got 2.0"),
    ("pretrain --ladder_pass_rates 0.5 nan", "--ladder_pass_rates must be a finite number, got nan"),
    ("pretrain --text novels", "--text"),
    ("pretrain --init_from no/such", "--init_from no/such holds no model"),
    ("pretrain --late_mark A", "--late_mark needs a model"),
    ("pretrain --init_from data/base --late_mark Z", "unknown author mark 'Z'"),
    ("pretrain --output_dir {empty}", "exists and is no folder"),
    ("noise --groups_per_prompt 1", "--groups_per_prompt must be at least 2, got 1"),
    ("noise --num_generations 1", "--num_generations must be at least 2, got 1"),
    ("noise --seed -1", "--seed must be"),
    ("noise --answer_format scratchpad --task multiplication", "with a scratchpad several completions pass"),
    ("noise --output_dir {empty}", "exists and is no folder"),
    # studies
    ("study --config no/such.yaml", "no/such.yaml"),
    ("search --output_file x.yaml --config no/such.yaml", "no/such.yaml"),
    ("search --output_file x.yaml --config {list_yaml}", "is not the configuration of a search"),
    ("search --output_file x.yaml --config eval/studies/quick/study.yaml", "has no 'learning_rates'"),
    ("search --output_file x.yaml --config {no_models}", "start latent has no models"),
    ("study --config {broken_study}", "is not the configuration of a study"),
    ("study --config {empty_yaml}", "is not the configuration of a study"),
    ("study --config {list_yaml}", "is not the configuration of a study"),
    ("study --config {binary_yaml}", "is not the configuration of a study"),
    ("study --config {no_seeds}", "has no 'seeds'"),
    ("study --config {empty_seeds}", "plans no run"),
    ("study --config {one_seed}", "is not the configuration of a study"),
    ("study --config {text_seeds}", "seed 'one' is no whole number"),
    ("study --config {empty_arms}", "plans no run"),
    ("study --config {list_arms}", "is not the configuration of a study"),
    ("study --config {null_arm}", "is not the configuration of a study"),
    ("study --config {null_start}", "is not the configuration of a study"),
    ("study --config {no_starts}", "has no 'starts'"),
    ("study --config {empty_starts}", "plans no run"),
    ("study --config {starts_gone}", "gone.yaml"),
    ("study --config {no_recipe}", "has no 'recipe'"),
    ("study --config {unknown_recipe}", "asks for the recipe 'dpo'; known: "),
    ("study --config {list_recipe}", "is not the configuration of a study"),
    ("study --config {path_recipe}", "asks for the recipe '../recipes/sft'"),
    ("study --config {arm_outside}", "names files: leave out the /"),
    ("study --config {start_outside}", "names files: leave out the /"),
    ("study --config {arm_of_lines}", "holds a control character"),
    ("study --config {empty_arm}", "arm must not be empty"),
    ("study --config {long_arm}", "longer than 100 characters"),
    ("study --config {number_arm}", "is not the configuration of a study"),
    ("study --config {unknown_only}", "unknown start 'latents'"),
    ("study --config {unknown_by_start}", "unknown start 'latents'"),
    ("study --config {unknown_tuned_as}", "unknown arm 'grpo'"),
    ("study --config {short_grid}", "is not the configuration of a study"),
    ("study --config {number_grid}", "is not the configuration of a study"),
    ("study --config {list_grid}", "is not the configuration of a study"),
    ("study --config {study} --jobs 0", "--jobs must be at least 1, got 0"),
    ("study --config {study} --output_dir {empty}", "exists and is no folder"),
    ("study --config {study} --output_dir {begun_unknown}", "study.json"),
    ("study --config {study} --output_dir {begun_broken}", "study.json"),
    # reports, plans and summaries of spoiled records
    *[(f"{command} no/such", "no/such") for command in ("report", "plan", "summary")],
    *[(f"{command} {{empty}}", "is no") for command in ("report", "plan", "summary")],
    *[(f"{command} {{broken_manifest}}", "manifest.json is not JSON") for command in ("report", "plan", "summary")],
    *[(f"{command} {{no_keys}}", "record schema None") for command in ("report", "plan", "summary")],
    *[(f"{command} {{no_state}}", "has no 'state'") for command in ("report", "plan", "summary")],
    *[(f"{command} {{list_step}}", "does not say its step") for command in ("report", "plan", "summary")],
    *[(f"{command} {{empty_step}}", "does not say its step") for command in ("report", "plan", "summary")],
    ("report {empty_manifest}", "manifest.json is not JSON"),
    ("report {list_manifest}", "manifest.json is not a manifest"),
    ("report {binary_manifest}", "manifest.json is not JSON"),
    ("report {odd_state}", "has no 'state' that is a text"),
    ("report {other_schema}", "record schema 1"),
    ("report {text_schema}", "record schema two"),
    ("report {folder}", "is no run directory and holds none"),
    ("report {failed_run}", "Trouble: it broke"),
    ("report {no_regime}", "has no 'regime'"),
    ("report {odd_start}", "has no 'start' that is a text"),
    ("report {odd_config}", "has no 'config' that is an object"),
    ("report {odd_seed}", "has no 'seed' that is a whole number"),
    ("report {no_steps}", "no steps"),
    ("report {text_step}", "does not say its step"),
    ("report {text_step_number}", "does not say its step"),
    ("report {broken_step}", "not JSON"),
    ("report {binary_steps}", "steps.jsonl is not text"),
    ("report {no_flops}", "flops/total"),
    ("report {text_flops}", "flops/total"),
    ("report {null_flops}", "flops/total"),
    ("report {broken_evals}", "table evals"),
    ("report {empty_evals}", "table evals"),
    ("report {text_evals}", "table evals"),
    ("report {odd_prompts}", "table prompts"),
    ("report {run} --output_dir {empty}", "exists and is no folder"),
    ("summary {no_flops}", "flops/total"),
    ("summary {text_flops}", "flops/total"),
    ("summary {odd_seed}", "has no 'seed' that is a whole number"),
    ("plan {run}", "a plan needs one of recipes/measure.py"),
    ("plan {no_prices}", "has no 'flops_per_sample'"),
    ("plan {text_prices}", "'flops_per_sample'"),
    ("plan {null_prices}", "'flops_per_sample'"),
    ("plan {no_model}", "has no 'config.model.model_name_or_path' that is a text"),
    ("plan {no_prompts}", "table prompts"),
    ("plan {no_problems}", "table problems"),
    ("plan {broken_prompts}", "table prompts"),
    ("plan {no_halves}", "table prompts"),
    ("plan {null_passes}", "table prompts"),
    ("plan {too_many_passes}", "table prompts"),
    ("plan {other_problems}", "table problems"),
    ("plan {no_measured_steps}", "no steps"),
    ("plan {failed_measurement}", "Trouble: it broke"),
    ("plan {run} --group_size 1", "--group_size must be at least 2, got 1"),
    ("plan {run} --group_size many", "invalid int value: 'many'"),
    ("plan {no_prices} --output_dir {empty}", "exists and is no folder"),
]
