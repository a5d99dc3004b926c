"""Pipelines at full size with random weights, since latency and memory do not depend on the weights.

`architecture://sdxl` names one as a model's source, `architecture://lora` a LoRA in the shape of the published TCD and
LCM LoRAs. Sizes are those of the published checkpoints (their config.json files; the tests count the parameters).
"""

from __future__ import annotations

import json
from typing import Any, cast

import diffusers
import tokenizers
import torch
import transformers
from accelerate import init_empty_weights
from peft import LoraConfig

from bench.checkpoints.sources import read_architecture
from bench.generate.denoisers import denoisers

LORA_RANK = 64
"""The rank used by the TCD paper, section 5.1."""
LORA_TARGETS = [
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2"),
    *("conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
]


def build_pipeline(name: str, pipeline_class: Any, dtype: torch.dtype, device: str) -> Any:
    """Return a pipeline whose weights are drawn at random from a fixed seed, on the device and in their final type.

    No more memory is needed than the pipeline takes. Its scheduler is the published one.
    """
    models = json.loads(read_architecture(name))
    schedule = models.pop("scheduler")
    parts: dict[str, Any] = {}
    torch.manual_seed(0)
    for role, config in models.items():
        if role == "pipeline":
            continue
        parts[role] = _build(role, config, dtype, device)
        if role.startswith("text_encoder"):
            clip = isinstance(parts[role], transformers.CLIPPreTrainedModel)
            parts[role.replace("text_encoder", "tokenizer")] = _clip_tokenizer() if clip else _word_tokenizer()
    if issubclass(pipeline_class, diffusers.StableDiffusionPipeline):
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    scheduler = getattr(diffusers, schedule["_class_name"])
    expected = _EXPECTED if "unet" in parts else {}
    return pipeline_class(**parts, scheduler=scheduler.from_config({**schedule, **expected}))


_KINDS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
"""Classes of models whose configuration names none."""
_EXPECTED = {"steps_offset": 1, "clip_sample": False}
"""What Stable Diffusion's pipelines expect of their checkpoint's scheduler."""


def _build(role: str, config: dict[str, Any], dtype: torch.dtype, device: str) -> torch.nn.Module:
    config = dict(config)
    kind = config.pop("kind", _KINDS.get(role))
    with init_empty_weights(include_buffers=False):
        if hasattr(diffusers, kind):
            model = getattr(diffusers, kind)(**config)
        else:
            model = getattr(transformers, kind)
            model = model(model.config_class(**config))
    if hasattr(model, "tie_weights"):
        model.tie_weights()  # without weights, each module has its own
    _fill(model, dtype, device)
    model.eval().requires_grad_(False)
    return cast("torch.nn.Module", model)


def _fill(model: torch.nn.Module, dtype: torch.dtype, device: str) -> None:
    """Give a model without weights random ones: matrices of standard deviation 0.02, scales of 1, biases of 0."""
    filled: dict[torch.nn.Parameter, torch.nn.Parameter] = {}  # a matrix may belong to two modules
    for module in model.modules():
        for name, empty in module.named_parameters(recurse=False):
            if empty not in filled:
                weights = torch.empty(empty.shape, dtype=dtype, device=device)
                if weights.ndim > 1:
                    weights.normal_(std=0.02)
                else:
                    weights.fill_(1.0 if "weight" in name else 0.0)
                filled[empty] = torch.nn.Parameter(weights, requires_grad=False)
            setattr(module, name, filled[empty])
        for name, buffer in module.named_buffers(recurse=False):
            stored = name not in module._non_persistent_buffers_set and buffer.is_floating_point()
            setattr(module, name, buffer.to(device, dtype if stored else None))


def add_lora(pipeline: Any, name: str) -> None:
    """Add a random LoRA to the denoiser, with the rank and targets of the published LoRAs."""
    config = LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=LORA_TARGETS)  # B is zero: no overflow
    for denoiser in list[Any](denoisers(pipeline).values()):
        denoiser.add_adapter(config, adapter_name=name)


def _clip_tokenizer() -> transformers.CLIPTokenizer:
    """Return CLIP's tokenizer, from the vocabulary that OpenCLIP includes."""
    from open_clip.tokenizer import SimpleTokenizer

    own = SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): index for token, index in own.encoder.items()}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=list(own.bpe_ranks), model_max_length=77)


def _word_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer of one token per word, all the same, for text encoders that read a fixed number of tokens."""
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    vocabulary = {token: number for number, token in enumerate(special.values())}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=special["unk_token"]))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=512, **special)
