"""What can be wrong with the files of a model, each told in one line that names the model and how to fix it."""

import contextlib
import pickle
import warnings
from collections.abc import Iterator, Sequence
from textwrap import shorten

import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

# What transformers, peft and the tokenizers raise for configuration files that are not theirs.
UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError, StrictDataclassError)
LONGEST = 300  # characters of a library's message: transformers lists every model class it knows


@contextlib.contextmanager
def loading(what: str, name: str) -> Iterator[None]:
    """Turn what broken files raise into a ValueError of one line.

    Args:
        what: model or tokenizer.
        name: its folder or Hub name.
    """
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


def check_all_loaded(missing: Sequence[str], name: str) -> None:
    """Refuse a model whose weights are not all in its files: transformers would fill in random ones.

    Raises:
        ValueError: naming the first of them.
    """
    if missing:
        first = sorted(missing)[0]
        raise ValueError(
            f"config.json does not fit the weights of {name}: {len(missing)} tensors are missing, {first} for one; "
            "take both from one model"
        )
