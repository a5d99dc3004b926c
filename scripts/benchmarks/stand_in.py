"""A stand-in for Stable Diffusion 1.5: its architecture with random weights and two LoRAs, and a few cells of it.

    .venv/bin/python scripts/benchmarks/stand_in.py FOLDER [--device cuda] [--dtype float16] [--size 512]

Saves it in FOLDER, unless it is there, and prints the overrides that run it, one per line, for the command line of
whatever takes overrides.
"""

from __future__ import annotations

import argparse
from pathlib import Path

CELLS = [("tcd", 2, 0.3), ("tcd", 4, 0.3), ("tcd", 8, 0.3), ("lcm", 4, None), ("dpmpp_2s", 4, None)]
CELLS += [("dpmpp_2s", 8, None), ("ddim", 8, 0.0)]
"""Method, steps, eta."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--size", type=int, default=512, help="pixels")
    options = parser.parse_args()
    save_stand_in(options.folder.absolute(), options.device, options.dtype)
    print("\n".join(stand_in_overrides(options.folder.absolute(), options.size, options.dtype)))


def save_stand_in(folder: Path, device: str, dtype: str) -> None:
    """A checkpoint of Stable Diffusion 1.5's architecture with two LoRAs, all of random weights, in files.

    What a call before this one has finished is left as it is.
    """
    if (folder / "lcm-lora").is_dir():
        return
    import torch
    from diffusers import StableDiffusionPipeline
    from peft import get_peft_model_state_dict

    from bench.generate.random_weights import add_lora, build_pipeline

    pipeline = build_pipeline("sd15", StableDiffusionPipeline, getattr(torch, dtype), device)
    pipeline.save_pretrained(folder / "teacher")
    for name in ("tcd", "lcm"):
        add_lora(pipeline, name)
        for parameter in (p for key, p in pipeline.unet.named_parameters() if f"lora_B.{name}" in key):
            torch.nn.init.normal_(parameter, std=1e-3)
        layers = get_peft_model_state_dict(pipeline.unet, adapter_name=name)
        pipeline.save_lora_weights(folder / f"{name}-lora", unet_lora_layers=layers)


def stand_in_overrides(weights: Path, size: int, dtype: str) -> list[str]:
    """The overrides that run these weights as Stable Diffusion 1.5, in CELLS, scored by the miniature's evaluator."""
    methods = list(dict.fromkeys(method for method, _, _ in CELLS))
    chosen = [f"method=[{','.join(methods)}]"]
    for method in methods:
        steps = [str(steps) for name, steps, _ in CELLS if name == method]
        chosen.append(f"methods.{method}.steps=[{','.join(steps)}]")
        if etas := {eta for name, _, eta in CELLS if name == method and eta is not None}:
            chosen.append(f"methods.{method}.eta=[{','.join(f'{eta:g}' for eta in sorted(etas))}]")
    for name in ("tcd", "lcm"):
        adapter = f"models.sd15.adapters.{name}"
        chosen += [f"{adapter}.source='{weights}/{name}-lora'", f"{adapter}.revision=null"]
    return [
        "experiment=[]",
        "name=stand_in",
        "model=[sd15]",
        f"models.sd15.source='{weights}/teacher'",
        "models.sd15.variant=null",
        "models.sd15.channels_last=true",
        f"models.sd15.dtype={dtype}",
        f"models.sd15.height={size}",
        f"models.sd15.width={size}",
        "scores=[fid,clip_score]",
        "measure.latency=false",
        "measure.memory=false",
        *chosen,
    ]


if __name__ == "__main__":
    main()
