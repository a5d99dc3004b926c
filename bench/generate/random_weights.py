"""Pipelines at full size with random weights, since latency and memory do not depend on the weights.

`architecture://sdxl` names one as a model's source, `architecture://lora` a LoRA in the shape of the published TCD and
LCM LoRAs. Sizes are those of the published checkpoints (their config.json files; the tests count the parameters).
"""

from __future__ import annotations

import json
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from peft import LoraConfig

from bench.checkpoints.sources import read_architecture

LORA_RANK = 64
"""The rank used by the TCD paper, section 5.1."""
LORA_TARGETS = [
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2"),
    *("conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
]


def build_pipeline(
    name: str, pipeline_class: Any, noise_schedule: dict[str, Any], dtype: torch.dtype, device: str
) -> Any:
    """Return a pipeline created on the device, its weights drawn at random from a fixed seed."""
    models = json.loads(read_architecture(name))
    torch.manual_seed(0)
    with torch.device(device):
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(**models["unet"]).to(dtype),
            "vae": AutoencoderKL(**models["vae"]).to(dtype),
        }
        for role in ("text_encoder", "text_encoder_2"):
            if role in models:
                config = dict(models[role])
                kind = getattr(transformers, config.pop("kind"))
                parts[role] = kind(transformers.CLIPTextConfig(**config)).to(dtype)
                parts[role.replace("text_encoder", "tokenizer")] = _clip_tokenizer()
    if issubclass(pipeline_class, diffusers.StableDiffusionPipeline):
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    scheduler = DDIMScheduler.from_config(noise_schedule | {"steps_offset": 1, "clip_sample": False})
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipeline_class(**parts, scheduler=scheduler)


def add_lora(pipeline: Any, name: str) -> None:
    """Add a random LoRA to the denoiser, with the rank and targets of the published LoRAs."""
    config = LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=LORA_TARGETS)  # B is zero: no overflow
    pipeline.unet.add_adapter(config, adapter_name=name)


def _clip_tokenizer() -> transformers.CLIPTokenizer:
    """Return CLIP's tokenizer, from the vocabulary that OpenCLIP includes."""
    from open_clip.tokenizer import SimpleTokenizer

    own = SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): index for token, index in own.encoder.items()}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=list(own.bpe_ranks), model_max_length=77)
