"""The model to train and its tokenizer; what can be wrong with their files is told in one line that names the model and how to fix it."""

import contextlib
import pickle
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from peft import AutoPeftModelForCausalLM
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import is_gguf_available
from trl import ModelConfig

from bitsample_llm.scoring.answer_end import AnswerEnd
from bitsample_llm.training.arguments import RunArguments

# What transformers, peft and the tokenizers raise for configuration files that are not theirs.
UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError, StrictDataclassError, struct.error)
LONGEST = 300  # characters of a library's message: transformers lists every model class it knows


@contextlib.contextmanager
def loading(what: str, name: str) -> Iterator[None]:
    """Turn what broken files of a model or a tokenizer (`what`), by its folder or Hub name, raise into a ValueError of one line."""
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # its report of missing and odd weights, which is many lines
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # it is refused right after
            yield
    except SafetensorError as error:
        raise ValueError(f"the safetensors file of {name} is broken ({error}): copy or download it again") from error
    except pickle.UnpicklingError as error:
        message = f"the weights of {name} are a pickle of more than tensors, or a broken one: convert them to safetensors"
        raise ValueError(message) from error
    except RuntimeError as error:
        if "mismatch" not in str(error):
            raise
        raise ValueError(f"config.json does not fit the weights of {name}: sizes differ; take both from one model") from error
    except UNREADABLE as error:
        said = shorten(str(error), LONGEST, placeholder=" ...")
        raise ValueError(f"the {what} of {name} cannot be loaded: {said}; see that its files are whole, of one model") from error
    finally:
        transformers.utils.logging.set_verbosity(verbosity)


def gguf_options(folder: str, dtype) -> dict[str, dict]:
    """How transformers is to load the `tokenizer` and the `model` of a folder whose weights are a GGUF file: unpacked, in float32
    where no `dtype` is named. No options for any other model.

    Raises:
        ValueError: for several GGUF files, or without the package that reads them.
    """
    files = sorted(path.name for path in Path(folder).glob("*.gguf"))
    if not files or any(Path(folder).glob("*.safetensors")):
        return {"tokenizer": {}, "model": {}}
    if len(files) > 1:
        raise ValueError(f"{folder} holds {len(files)} GGUF files, {', '.join(files)}: leave one model in it")
    if not is_gguf_available():
        raise ValueError(f"{files[0]} needs the package gguf: pip install 'bitsample_llm[gguf]'")
    unpacked = {"quantization_config": GgufConfig(dequantize=True)}  # left packed, a model neither trains nor is saved
    unpacked["dtype"] = torch.float32 if dtype in (None, "auto") else dtype
    return {"tokenizer": {"gguf_file": files[0]}, "model": {"gguf_file": files[0], **unpacked}}


def load_model_and_tokenizer(model_args: ModelConfig, trust_remote_code: bool = False, trained_parameters: str = "all"):
    """The model to train and its tokenizer. A tokenizer without a pad token pads with its EOS token, as TRL's trainers do; the
    adapters of a folder that holds nothing else are merged into their base model, and the blocks of a GGUF file are unpacked.

    Raises:
        ValueError: if no model is named, its folder does not exist, its files are broken or do not fit one another, or its
            tokenizer lacks an EOS token.
    """
    name = model_args.model_name_or_path
    if not name:
        raise ValueError("no model: pass --model_name_or_path FOLDER or a Hub name")
    if Path(name).is_file():
        raise ValueError(f"{name} is a file: pass the folder of a model, --model_name_or_path FOLDER")
    if not Path(name).is_dir() and (name.startswith((".", "/")) or name.count("/") != 1 or Path(name).parent.is_dir()):
        raise ValueError(f"model folder {name} does not exist: pass --model_name_or_path FOLDER or a Hub name")
    dtype = model_args.dtype if model_args.dtype in (None, "auto") else getattr(torch, model_args.dtype)
    options = {"revision": model_args.model_revision, "trust_remote_code": trust_remote_code}
    of_gguf = gguf_options(name, dtype)
    with loading("tokenizer", name):
        tokenizer = AutoTokenizer.from_pretrained(name, **options, **of_gguf["tokenizer"])
    if tokenizer.eos_token is None:
        raise ValueError(f"the tokenizer of {name} has no eos_token: set it in its tokenizer_config.json")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    options |= {"dtype": dtype, "attn_implementation": model_args.attn_implementation} | of_gguf["model"]
    with loading("model", name):
        if (Path(name) / "adapter_config.json").is_file():
            model, missing = AutoPeftModelForCausalLM.from_pretrained(name, **options).merge_and_unload(), ()
        else:
            model, info = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **options)
            missing = info["missing_keys"]
    if missing:  # transformers has filled in random ones
        raise ValueError(
            f"config.json does not fit the weights of {name}: {len(missing)} tensors are missing, {min(missing)} for one; "
            "take both from one model"
        )
    if trained_parameters == "norms":
        freeze_all_but_norms(model)
    return model, tokenizer


def declared_end(study: RunArguments, model, tokenizer) -> AnswerEnd:
    """Where answers end, by `--stop` and the end of sequence; `generate`, and trainers made from now on, end there too. A
    ValueError for a stop that the tokenizer writes in several tokens, or that is empty.
    """
    if study.stop == "":
        raise ValueError("--stop is empty: name a text, such as \\n, or leave the option out")
    end = AnswerEnd.of(model, tokenizer, study.stop)
    end.declare(model)
    return end


def freeze_all_but_norms(model) -> None:
    """Leave the norm layers' parameters trainable and no others; a ValueError if no parameter is named after a norm."""
    norms = [name for name, _ in model.named_parameters() if "norm" in name or ".ln_" in name]
    if not norms:
        raise ValueError("--trained_parameters norms: the model has no parameter named after a norm")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in norms)
