"""The miniature's tokenizer: CLIP's byte-level BPE, trained on the world's captions, with its own vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import CLIPTokenizer

CONTEXT_LENGTH = 24
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(captions: Iterable[str]) -> CLIPTokenizer:
    """Return a `CLIPTokenizer` in which every word of the captions is one token; other text falls back to bytes.

    The end token has the highest id, because OpenCLIP finds the text's last token by `argmax`.
    """
    vocabulary, merges = _learn_merges(captions)
    vocabulary = {token: index for index, token in enumerate(sorted(vocabulary, key=vocabulary.__getitem__))}
    vocabulary[BEGIN] = len(vocabulary)
    vocabulary[END] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT_LENGTH)


def _learn_merges(captions: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    letters = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        initial_alphabet=sorted(letters),
        end_of_word_suffix="</w>",
        special_tokens=[f"{letter}</w>" for letter in sorted(letters)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    return tokenizer.get_vocab(), [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Return token ids, shape (n, context length), int64."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
