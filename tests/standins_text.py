"""Small tokenizers and text encoders of the kinds that flow-matching pipelines have: T5, Gemma, Qwen3, Qwen2.5-VL."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from bench.mini import world

TEXTS = (
    *(world.caption(world.scene(seed)) for seed in range(60)),
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
    "objects and background:\nsystem\nuser\nassistant\n",
    "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for image "
    "generation. Evaluate the level of detail in the user prompt:",
)
"""What the tokenizers learn their words from."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@cache
def t5_tokenizer() -> Any:
    """A T5 tokenizer with a small vocabulary."""
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<pad>", "</s>", "<unk>"]
    trained.train_from_iterator(
        TEXTS,
        trainers.UnigramTrainer(vocab_size=300, special_tokens=specials, unk_token=specials[2], show_progress=False),
    )
    vocabulary = [tuple(entry) for entry in json.loads(trained.to_str())["model"]["vocab"]]
    return transformers.T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)


@cache
def _byte_pairs(*, bytes_alone: bool) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of TEXTS: over bytes, as Qwen's, or over letters with ▁ for a space, as Gemma's."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = (
        pre_tokenizers.ByteLevel(add_prefix_space=False) if bytes_alone else pre_tokenizers.Metaspace()
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet() if bytes_alone else [chr(i) for i in range(33, 127)]
    trained.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    )
    merges = json.loads(trained.to_str())["model"]["merges"]
    return trained.get_vocab(), [(left, right) for left, right in merges]


def qwen_tokenizer() -> Any:
    """A Qwen2 tokenizer with a small vocabulary, and a template for chats."""
    vocabulary, merges = _byte_pairs(bytes_alone=True)
    tokenizer = transformers.Qwen2Tokenizer(
        vocab=dict(sorted(vocabulary.items(), key=lambda entry: entry[1])), merges=merges, model_max_length=131072
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(QWEN_TOKENS[1:]), "eos_token": "<|im_end|>"})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def gemma_tokenizer() -> Any:
    """A Gemma tokenizer with a small vocabulary; it pads on the right."""
    vocabulary, merges = _byte_pairs(bytes_alone=False)
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{i:02X}>" for i in range(256))]
    ordered = sorted(vocabulary, key=vocabulary.__getitem__)
    own = {token: i for i, token in enumerate(dict.fromkeys([*names, *ordered]))}
    return transformers.GemmaTokenizer(vocab=own, merges=merges, model_max_length=2048, padding_side="right")


def t5_encoder(width: int = 32) -> Any:
    """A T5 encoder."""
    tokenizer = t5_tokenizer()
    return transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=8,
            d_ff=2 * width,
            num_layers=1,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dense_act_fn="gelu_new",
            is_gated_act=True,
            tie_word_embeddings=False,
        )
    )


def qwen3(layers: int, kind: str, width: int = 16) -> Any:
    """A Qwen3 model; FLUX.2-klein reads its layers 9, 18 and 27."""
    config = transformers.Qwen3Config(
        vocab_size=len(qwen_tokenizer()),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=2048,
    )
    return getattr(transformers, kind)(config)


def qwen_vl(width: int = 16) -> Any:
    """A Qwen2.5-VL model."""
    text = {
        "vocab_size": len(qwen_tokenizer()), "hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096, "bos_token_id": None,
        "eos_token_id": None,
        "rope_parameters": {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e6},
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": width}
    return transformers.Qwen2_5_VLForConditionalGeneration(
        transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    )


def gemma(width: int = 16) -> Any:
    """A Gemma 2 model."""
    config = transformers.Gemma2Config(
        vocab_size=len(gemma_tokenizer()),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=1,
        head_dim=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
    )
    return transformers.Gemma2Model(config)
