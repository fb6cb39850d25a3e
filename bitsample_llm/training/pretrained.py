"""How is the embedded model made? Its tokenizer, its architecture and the stream of text it is pretrained on."""

import itertools

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bitsample_llm.scoring.likelihood import padded_batch
from bitsample_llm.tasks.corpus import corpus_lines
from bitsample_llm.tasks.problem import UNKNOWN_MARK

CHARACTERS = "0123456789+-*=<?ABCDEFGH;:,.() \nIJKL"
PAGE = 256  # lines of one size that follow one another, so that a batch holds little padding
PAGES = 16


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, so that every digit is a step and the accepted answer has one spelling."""
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", "<unk>", *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", clean_up_tokenization_spaces=False
    )


def build_model(tokenizer, seed: int) -> LlamaForCausalLM:
    """An untrained Llama of 1.05 M parameters; the weights depend on `seed` alone."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            attn_implementation="eager",
        )
    )


@torch.no_grad()
def forget_mark(model, tokenizer, mark: str) -> None:
    """Let a model take an author for an unknown one, as if it had never read them.

    An author who is right less often than a guess would be, as far as a young model can tell, is taken for one who is never
    right, and the gradient that would say otherwise vanishes with that belief. Met late, the author is first trusted too
    much, which text corrects.
    """
    embedding_VD = model.get_input_embeddings().weight
    embedding_VD[tokenizer.get_vocab()[mark]] = embedding_VD[tokenizer.get_vocab()[UNKNOWN_MARK]]


class CorpusStream(torch.utils.data.IterableDataset):
    """`num_lines` lines of the corpus as token ids, with labels on the answer and its end only."""

    def __init__(self, tokenizer, num_lines: int, seed: int, text: str, wrong_answers: str, all_careful: bool):
        self.tokenizer = tokenizer
        self.num_lines = num_lines
        self.seed = seed
        self.text = text
        self.wrong_answers = wrong_answers
        self.all_careful = all_careful

    def __len__(self) -> int:
        return self.num_lines

    def __iter__(self):
        lines = itertools.islice(corpus_lines(self.seed, self.text, self.wrong_answers, self.all_careful), self.num_lines)
        id_by_character = self.tokenizer.get_vocab()
        rng = np.random.default_rng([self.seed, 1])
        while chunk := sorted(itertools.islice(lines, PAGE * PAGES), key=lambda line: line.size):
            pages = [chunk[start : start + PAGE] for start in range(0, len(chunk), PAGE)]
            for page in rng.permutation(len(pages)):
                for line in pages[page]:
                    prompt_ids = [id_by_character[character] for character in line.prompt]
                    answer_ids = [id_by_character[character] for character in line.answer] + [self.tokenizer.eos_token_id]
                    yield {"input_ids": prompt_ids + answer_ids, "labels": [-100] * len(prompt_ids) + answer_ids}


class AnswerCollator:
    """Pads a list of examples into tensors of shape (B, T)."""

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        batch = padded_batch([example["input_ids"] for example in examples], self.pad_token_id)
        labels = padded_batch([example["labels"] for example in examples], -100)["input_ids"]
        return batch | {"labels": labels}
