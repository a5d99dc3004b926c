"""Trainings that change a network by differences of a low rank, and what they leave behind.

As in the distillation, differences are merged into the weights for each step. They are kept as a LoRA, or as changes of
the original's weights (`bench.checkpoints.derived`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import ModelMixin
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from bench.mini.training.distillation import TARGETS, merge_adapter

ADAPTER = "difference"


def begin(network: ModelMixin, rank: int, whole: Sequence[str] = ()) -> None:
    """Give a network's layers differences of a rank; only these have gradients, and what `whole` begins the name of."""
    network.requires_grad_(False)
    network.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS), adapter_name=ADAPTER)
    network.disable_adapters()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("lora_" in name or name.startswith(tuple(whole)))


def merged(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the changed layers' weights by parameter name, for `functional_call`."""
    return merge_adapter(network, ADAPTER)


def lora_of(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the differences as a LoRA, in half precision, under PEFT's names."""
    return {name: value.half() for name, value in get_peft_model_state_dict(network, adapter_name=ADAPTER).items()}


def changes_of(network: nn.Module, original: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the changes from an original that has the weights named `original`, in half precision.

    These are differences, and every other weight that was trained or that the original lacks.
    """
    changes = {}
    for name, layer in network.named_modules():
        if isinstance(layer, LoraLayer):
            up, down = layer.lora_B[ADAPTER].weight, layer.lora_A[ADAPTER].weight
            changes[f"{name}.weight.up"], changes[f"{name}.weight.down"] = up.flatten(1), down.flatten(1)
    for name, value in network.state_dict().items():
        own = name.replace(".base_layer", "")
        if "lora_" not in name and (own not in original or network.get_parameter(name).requires_grad):
            changes[own] = value
    return {name: value.detach().half().contiguous() for name, value in changes.items()}


def save_changes(network: ModelMixin, original: Sequence[str], directory: Path) -> None:
    """Write the configuration of a network and its changes from the original."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(changes_of(network, original), directory / "diffusion_pytorch_model.safetensors.changes.safetensors")
    network.save_config(directory)
