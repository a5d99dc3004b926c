"""VQAScore (Lin et al. 2024, arXiv 2404.01291): how likely a network says "yes", asked whether an image shows a text.

The network is InstructBLIP with Flan-T5, one of those that the authors publish numbers of: the only kind of theirs that
transformers runs without code of a repository and whose weights are public as safetensors. Question, answer and the cut
of long questions are those of the authors' package for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from bench.features.preferences import Pixels, PreferenceModel, clip_preparation, to_numbers
from bench.features.pretrained import load_pretrained
from bench.records.errors import BenchError

QUESTION, ANSWER = 'Question: Does this figure show "{}"? Please answer yes or no.', "yes"
TOKENS = 128
"""Of a question; a longer one loses its beginning."""


def load_vqa_score(directory: Path, device: str) -> PreferenceModel:
    """Return the score, 0 to 1: the geometric mean of the probabilities of the answer's tokens, of "yes" and its end.

    The directory holds config.json, safetensors, the tokenizer of T5 and that of the Q-Former in `qformer_tokenizer`.
    Raises BenchError where it lacks some of them.
    """
    from transformers import InstructBlipForConditionalGeneration, PreTrainedTokenizerFast

    setting = f"preference_models.vqa_score={directory}"
    model = load_pretrained(InstructBlipForConditionalGeneration, directory, setting, device)
    if model.config.image_token_id is None or model.config.use_decoder_only_language_model:
        raise BenchError(f"{setting} has no image token, or is not one of T5; give Salesforce/instructblip-flan-t5-xl")
    try:
        tokenizer, reader = (
            PreTrainedTokenizerFast.from_pretrained(folder, truncation_side="left", local_files_only=True)
            for folder in (directory, directory / "qformer_tokenizer")
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise BenchError(f"{setting}: a tokenizer cannot be loaded ({reason}); fetch it again") from error
    marker = tokenizer.convert_ids_to_tokens(model.config.image_token_id)  # a caption must not stand for an image
    prepare = clip_preparation(model.config.vision_config.image_size)
    answer = tokenizer(ANSWER, return_tensors="pt").input_ids.to(device)

    @torch.inference_mode()
    def score(images: Pixels, captions: Sequence[str]) -> NDArray[np.float64]:
        questions = [QUESTION.format(caption.replace(marker, " ") if marker else caption) for caption in captions]
        asked, read = (
            kind(questions, padding="longest", truncation=True, max_length=TOKENS, return_tensors="pt").to(device)
            for kind in (tokenizer, reader)
        )
        ids = asked.input_ids
        queries = torch.full((len(questions), model.config.num_query_tokens), model.config.image_token_id).to(ids)
        labels = answer.repeat(len(questions), 1)
        logits = model(
            pixel_values=prepare(images).to(device),
            qformer_input_ids=read.input_ids,
            qformer_attention_mask=read.attention_mask,
            input_ids=torch.cat([queries, ids], dim=1),
            attention_mask=torch.cat([torch.ones_like(queries), asked.attention_mask], dim=1),
            labels=labels,
        ).logits
        losses = cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(dim=1)
        return to_numbers((-losses).exp())

    return score
