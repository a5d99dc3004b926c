"""The default experiment as a user would write it, with diffusers, open_clip and torchmetrics: what tcd-bench is timed
against.

    python scripts/benchmarks/plain_script.py OUT [--images 512] [--device cpu] [--weights DIR --size 512 …] [--cells …]

For every cell: load the pipeline, call it batch by batch, save each image as a PNG, update torchmetrics' Fréchet
distance and a CLIP score. Written fairly: batches of 64, the fastest memory format, real images embedded once. Latents
and noise are those of tcd-bench, so that images can be compared. Ends with a table, scores.csv.
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    LCMScheduler,
    StableDiffusionPipeline,
    TCDScheduler,
)
from PIL.Image import Image
from torchmetrics import MeanMetric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchvision.transforms.functional import normalize, pil_to_tensor, to_pil_image

from bench.generate.sampling import image_generator
from bench.mini import world

WEIGHTS = Path(__file__).parents[2] / "bench" / "mini" / "weights"
NOISE = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SOLVER = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
SECOND_ORDER = {"lower_order_final": False, "final_sigmas_type": "sigma_min"}
DIFFUSERS = {"lower_order_final": True, "final_sigmas_type": "zero"}
GRID = [
    *(
        ("tcd", TCDScheduler, {"original_inference_steps": 50}, "tcd-lora", steps, eta, 0.0)
        for steps in (2, 4, 8, 16)
        for eta in (0.0, 0.3, 1.0)
    ),
    *(("lcm", LCMScheduler, {"clip_sample": False}, "lcm-lora", steps, None, 0.0) for steps in (2, 4, 8, 16)),
    *(
        (name, scheduler, settings, None, steps, eta, 3.0)
        for name, scheduler, settings, eta in (
            ("dpmpp_2s", DPMSolverSinglestepScheduler, {**SOLVER, **SECOND_ORDER}, None),
            ("dpmpp_2s_diffusers", DPMSolverSinglestepScheduler, {**SOLVER, **DIFFUSERS}, None),
            ("dpmpp_2m", DPMSolverMultistepScheduler, {**SOLVER, **DIFFUSERS, "timestep_spacing": "linspace"}, None),
            ("ddim", DDIMScheduler, {"timestep_spacing": "trailing", "clip_sample": False}, 0.0),
        )
        for steps in (2, 4, 8, 16)
    ),
    ("teacher", DPMSolverSinglestepScheduler, {**SOLVER, **SECOND_ORDER}, None, 50, None, 3.0),
]


class ImageTower(torch.nn.Module):
    """What torchmetrics asks for features: uint8 images in, embeddings out."""

    def __init__(self, model: torch.nn.Module, resize: Callable[[Image], torch.Tensor]) -> None:
        super().__init__()
        self.model, self.resize, self.num_features = model, resize, model.text_projection.shape[1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-1] != self.model.visual.image_size:
            images = torch.stack([self.resize(to_pil_image(image)) for image in images.cpu()]).to(images.device)
        else:
            images = normalize(images.float() / 255, self.model.visual.image_mean, self.model.visual.image_std)
        return self.model.encode_image(images)


def cell_name(method: str, steps: int, eta: float | None) -> str:
    """What a cell's folder is called."""
    return f"{method}-{steps}{'' if eta is None else f'-{eta:g}'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="has the folders teacher, tcd-lora and lcm-lora")
    parser.add_argument("--prediction", default="v_prediction")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--cells", nargs="*", help="names such as tcd-4-0.3; all where none is given")
    options = parser.parse_args()
    torch.set_grad_enabled(False)

    source = f"local-dir:{WEIGHTS / 'evaluator'}"
    model, _, resize = open_clip.create_model_and_transforms(source, device=options.device)
    tower, tokenize = ImageTower(model.eval(), resize), open_clip.get_tokenizer(source)
    fid = FrechetInceptionDistance(feature=tower, reset_real_features=False).to(options.device)
    real = [torch.from_numpy(world.render(world.scene(seed))) for seed in world.split_seeds("reference", 2048)]
    for batch in torch.stack(real).permute(0, 3, 1, 2).split(128):
        fid.update(batch.to(options.device), real=True)
    prompts = [world.caption(world.scene(seed)) for seed in world.split_seeds("prompts", options.images)]

    rows = []
    for name, scheduler, settings, adapter, steps, eta, guidance in GRID:
        if options.cells and cell_name(name, steps, eta) not in options.cells:
            continue
        pipeline = StableDiffusionPipeline.from_pretrained(
            options.weights / "teacher", torch_dtype=getattr(torch, options.dtype), use_safetensors=True
        ).to(options.device)
        pipeline.scheduler = scheduler(**NOISE, prediction_type=options.prediction, **settings)
        if adapter:
            pipeline.load_lora_weights(options.weights / adapter, weight_name="pytorch_lora_weights.safetensors")
            pipeline.fuse_lora()
            pipeline.unload_lora_weights()
        pipeline.unet.to(memory_format=torch.channels_last)
        pipeline.vae.to(memory_format=torch.channels_last)
        pipeline.set_progress_bar_config(disable=True)
        folder = options.out / cell_name(name, steps, eta)
        folder.mkdir(parents=True, exist_ok=True)
        fid.reset()
        clip_score = MeanMetric().to(options.device)
        for start in range(0, options.images, options.batch_size):
            texts = prompts[start : start + options.batch_size]
            generators = [image_generator(0, start + i) for i in range(len(texts))]
            shape = pipeline.unet.config.in_channels, *(2 * [options.size // pipeline.vae_scale_factor])
            latents = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
            images = pipeline(
                texts,
                num_inference_steps=steps,
                guidance_scale=guidance,
                height=options.size,
                width=options.size,
                generator=generators,
                latents=latents.to(options.device, pipeline.unet.dtype),
                **({} if eta is None else {"eta": eta}),
            ).images
            for i, image in enumerate(images):
                image.save(folder / f"{start + i:05d}.png")
            pixels = torch.stack([pil_to_tensor(image) for image in images]).to(options.device)
            fid.update(pixels, real=False)
            clip_score.update(
                100 * torch.cosine_similarity(tower(pixels), model.encode_text(tokenize(texts).to(options.device)))
            )
        rows.append((folder.name, float(fid.compute()), float(clip_score.compute())))
        print(*rows[-1], flush=True)
    with (options.out / "scores.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("cell", "fid", "clip_score"), *rows])


if __name__ == "__main__":
    main()
