"""How good the models of the guide's rows are, against the targets in the model card.

    .venv/bin/python scripts/calibration/measure_rows.py [--images 512] [--steps 50] [--rows xl canny …]
        [--weights bench/mini/weights]

Prints what each row reaches on the prompts' own scenes, beside what their true images reach after a round trip through
the autoencoder and what the teacher reaches without the add-on. With the default images and steps it is also written to
quality.json beside the weights. Samples with DPM-Solver++(2S), guidance 3.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import ControlNetModel, DPMSolverSinglestepScheduler, LCMScheduler, MotionAdapter, TCDScheduler
from numpy.typing import NDArray
from PIL import Image

from bench.checkpoints import derived
from bench.checkpoints.sources import local_path
from bench.features.extractor import Extractor, encode_captions, images_to_features
from bench.features.openclip import load_open_clip
from bench.features.tasks import edge_agreement, psnr, straight_path
from bench.mini import films, looks, reading, truth, world

PACKAGED = Path(str(local_path("bench://mini/weights")))
SOLVER = {"solver_order": 2, "lower_order_final": False, "final_sigmas_type": "sigma_min"}
BATCH = 64
CROP = 12
Images = NDArray[np.uint8]
Numbers = dict[str, float]


class Rows:
    """What the rows have in common: scenes, their true images, the evaluator, and how to sample."""

    def __init__(self, weights: Path, count: int, steps: int) -> None:
        self.weights, self.steps = weights, steps
        self.scenes = [world.scene(seed) for seed in world.split_seeds("prompts", count)]
        self.captions = [world.caption(scene) for scene in self.scenes]
        self.evaluator: Extractor = load_open_clip("mini", PACKAGED / "evaluator", "cpu")
        truths = [tuple(world.counterfactuals(scene)) for scene in self.scenes]
        self.encoded = encode_captions(self.evaluator, self.captions, truths)
        self.images = np.stack([world.render(scene) for scene in self.scenes])

    @cached_property
    def alone(self) -> Images:
        """What the XL teacher draws from the prompts without any add-on."""
        return self.sample(self.pipeline("xl"))

    def pipeline(self, name: str, kind: str = "StableDiffusionXLPipeline", **parts: Any) -> Any:
        path = derived.completed(self.weights / name, self.weights)
        pipeline = getattr(diffusers, kind).from_pretrained(path, dtype=torch.float32, **parts)
        pipeline.scheduler = DPMSolverSinglestepScheduler.from_config(pipeline.scheduler.config, **SOLVER)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def sample(
        self,
        pipeline: Any,
        of_rows: Callable[[slice], dict[str, Any]] | None = None,
        suffix: str = "",
        words: bool = True,
        **more: Any,
    ) -> Images:
        """Return an image of each caption; `of_rows` gives arguments of a slice of the scenes."""
        options = {"num_inference_steps": self.steps, "guidance_scale": 3.0, "output_type": "np", **more}
        found = []
        for start in range(0, len(self.captions), BATCH):
            rows = slice(start, start + BATCH)
            captions = [f"{caption}{suffix}" if words else "" for caption in self.captions[rows]]
            generators = [torch.Generator().manual_seed(start + i) for i in range(len(captions))]
            given = options | (of_rows(rows) if of_rows is not None else {})
            found.append(pipeline(captions, generator=generators, **given).images)
        return np.round(np.concatenate(found) * 255).astype(np.uint8)

    def films(self, pipeline: Any, count: int) -> Images:
        """Return films of the first captions, (n, frames, h, w, 3)."""
        found = []
        for start in range(0, count, 8):
            captions = self.captions[start : start + 8]
            generators = [torch.Generator().manual_seed(start + i) for i in range(len(captions))]
            options = {"num_inference_steps": self.steps, "guidance_scale": 3.0, "output_type": "np"}
            output = pipeline(captions, generator=generators, num_frames=films.FRAMES, height=64, width=64, **options)
            found.append(output.frames)
        return np.round(np.concatenate(found) * 255).astype(np.uint8)

    def decoded(self, images: Images) -> Images:
        """Return true images after a round trip through the autoencoder."""
        vae = self.pipeline("xl").vae
        found = []
        for start in range(0, len(images), BATCH):
            pixels = torch.from_numpy(images[start : start + BATCH]).permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.inference_mode():
                found.append(vae.decode(vae.encode(pixels).latent_dist.mean).sample)
        output = (torch.cat(found) * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
        array: Images = output.permute(0, 2, 3, 1).numpy()
        return array

    def embed(self, images: Images) -> NDArray[np.float64]:
        """Return the evaluator's embeddings of images, (n, 64), of length 1."""
        parts = [self.evaluator.image_features(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        vectors = np.concatenate(parts).astype(np.float64)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def accuracy(self, images: Images) -> float:
        parts = [
            images_to_features(self.evaluator, images[i : i + BATCH], self.encoded, i)
            for i in range(0, len(images), BATCH)
        ]
        return float(np.concatenate([part["attributes_right"] / part["attributes_named"] for part in parts]).mean())


def measure_xl(rows: Rows) -> dict[str, Any]:
    """Accuracy of the teacher and its TCD-LoRA, and how far a crop of 12 pixels moves things."""
    pipeline, whole = rows.pipeline("xl"), rows.alone
    cropped = rows.sample(pipeline, crops_coords_top_left=(CROP, CROP))
    found = {
        "true": rows.accuracy(rows.decoded(rows.images)),
        "teacher": rows.accuracy(whole),
        "teacher at 4 steps": rows.accuracy(rows.sample(pipeline, num_inference_steps=4)),
        f"moved by a crop of {CROP}": float(np.nanmedian(reading.read_places(whole) - reading.read_places(cropped))),
    }
    found["TCD at 4 steps"] = rows.accuracy(rows.sample(with_tcd(pipeline, rows.weights / "xl-tcd-lora"), **FEW))
    if (lora := rows.weights / "xl-lcm-lora").exists():
        pipeline = load_lora(rows.pipeline("xl"), lora)
        pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
        found["LCM at 4 steps"] = rows.accuracy(rows.sample(pipeline, num_inference_steps=4, guidance_scale=0.0))
    return found


FEW = {"num_inference_steps": 4, "guidance_scale": 0.0, "eta": 0.3}


def load_lora(pipeline: Any, lora: Path) -> Any:
    whole = derived.completed(lora, lora.parent)
    pipeline.load_lora_weights(str(whole), weight_name="pytorch_lora_weights.safetensors", adapter_name=lora.name)
    return pipeline


def with_tcd(pipeline: Any, lora: Path) -> Any:
    load_lora(pipeline, lora).scheduler = TCDScheduler.from_config(pipeline.scheduler.config)
    return pipeline


def measure_inpainting(rows: Rows) -> dict[str, Any]:
    """Accuracy, and the agreement of the background with the input's."""
    masks = np.stack([truth.mask(scene) for scene in rows.scenes])

    def given(part: slice) -> dict[str, Any]:
        light = [Image.fromarray(mask * np.uint8(255)) for mask in masks[part]]
        return {"image": [Image.fromarray(image) for image in rows.images[part]], "mask_image": light}

    def background(images: Images) -> float:
        pairs = zip(images, rows.images, masks, strict=True)
        return float(np.mean([psnr(ours[~mask], theirs[~mask]) for ours, theirs, mask in pairs]))

    pipeline = rows.pipeline("xl-inpainting", "StableDiffusionXLInpaintPipeline")
    painted = rows.sample(pipeline, given, strength=0.99, height=64, width=64)
    decoded, alone = rows.decoded(rows.images), rows.alone
    return {
        "true": {"accuracy": rows.accuracy(decoded), "background": background(decoded)},
        "inpainting": {"accuracy": rows.accuracy(painted), "background": background(painted)},
        "teacher alone": {"accuracy": rows.accuracy(alone), "background": background(alone)},
    }


def measure_control(rows: Rows, name: str) -> dict[str, Any]:
    """Agreement with outlines, or error of depth, with a ControlNet at scales 1 and 0.5, and without it.

    At scale 0 its images are the teacher's, bit for bit (tests/test_mini_rows.py).
    """
    wanted = np.stack([truth.outlines(s) if name == "canny" else truth.depth(s) for s in rows.scenes])
    shown = np.repeat((wanted * 255).astype(np.uint8)[..., None], 3, axis=-1)

    def agreement(images: Images) -> Numbers:
        if name == "depth":
            return {"depth error": float(np.abs(reading.read_depth(images) - wanted).mean())}
        pairs = zip(map(reading.read_outlines, images), wanted, strict=True)
        return {"edge agreement": float(np.mean([edge_agreement(*pair) for pair in pairs]))}

    def given(part: slice) -> dict[str, Any]:
        return {"image": [Image.fromarray(image) for image in shown[part]]}

    path = derived.completed(rows.weights / f"xl-{name}", rows.weights)
    network = ControlNetModel.from_pretrained(path, dtype=torch.float32)
    pipeline = rows.pipeline("xl", "StableDiffusionXLControlNetPipeline", controlnet=network)
    found: dict[str, Any] = {"true": agreement(rows.decoded(rows.images))}
    for scale in (1.0, 0.5, 0.0):
        images = rows.sample(pipeline, given, controlnet_conditioning_scale=scale) if scale else rows.alone
        found[f"scale {scale:g}"] = {**agreement(images), "accuracy": rows.accuracy(images)}
    return found


def measure_look(rows: Rows, look: looks.LookName) -> dict[str, Any]:
    """Share of images that are told from plain ones, and accuracy, with and without the look's weights."""

    seeds = [world.scene(seed) for seed in world.split_seeds("validation", 512)]
    pair = [rows.embed(np.stack([looks.render_look(scene, kind) for scene in seeds])) for kind in ("plain", look)]
    covariance = sum(np.cov(vectors.T) for vectors in pair) / 2
    direction = np.linalg.solve(covariance + 1e-4 * np.eye(len(covariance)), pair[1].mean(0) - pair[0].mean(0))
    threshold = (pair[1].mean(0) + pair[0].mean(0)) @ direction / 2

    def of(images: Images) -> Numbers:
        return {
            "told apart": float((rows.embed(images) @ direction > threshold).mean()),
            "accuracy": rows.accuracy(images),
        }

    if look == "papercut":
        pipeline = rows.pipeline("xl")
        alone = rows.sample(pipeline, suffix=" cut")
        images = rows.sample(load_lora(pipeline, rows.weights / "xl-papercut-lora"), suffix=" cut")
    else:
        images, alone = rows.sample(rows.pipeline("xl-ink")), rows.alone
    true = rows.decoded(np.stack([looks.render_look(scene, look) for scene in rows.scenes]))
    return {"true": of(true), look: of(images), "teacher alone": of(alone)}


def measure_image_prompt(rows: Rows) -> dict[str, Any]:
    """Cosine of the evaluator's embeddings with those of the image prompts, of images without words."""
    pipeline = rows.pipeline("xl")
    folder = str(derived.completed(rows.weights / "xl-image-prompt", rows.weights))
    pipeline.load_ip_adapter(folder, subfolder="", weight_name="ip_adapter.safetensors")

    def given(part: slice) -> dict[str, Any]:
        # One image per prompt: the pipeline takes their embeddings, without and with the image.
        shown = pipeline.prepare_ip_adapter_image_embeds(
            [[Image.fromarray(image) for image in rows.images[part]]], None, torch.device("cpu"), 1, True
        )
        return {"ip_adapter_image_embeds": [shown[0].reshape(2, -1, *shown[0].shape[2:]).flatten(0, 1)[:, None]]}

    own = rows.embed(rows.images)
    others = [world.complete(scene) for scene in rows.scenes]
    again = rows.embed(np.stack([world.render(replace(scene, seed=scene.seed + 5_000_000)) for scene in others]))
    found = {"true": float((own * again).sum(axis=1).mean())}
    for scale in (1.0, 0.5, 0.0):
        pipeline.set_ip_adapter_scale(scale)
        images = rows.sample(pipeline, given, words=False)
        found[f"scale {scale:g}"] = float((own * rows.embed(images)).sum(axis=1).mean())
    return found


def measure_v2(rows: Rows) -> dict[str, Any]:
    """Accuracy of the second version's teacher and its TCD-LoRA."""
    pipeline = rows.pipeline("v2", "StableDiffusionPipeline")
    found = {
        "true": rows.accuracy(rows.decoded(rows.images)),
        "teacher": rows.accuracy(rows.sample(pipeline)),
        "teacher at 4 steps": rows.accuracy(rows.sample(pipeline, num_inference_steps=4)),
    }
    found["TCD at 4 steps"] = rows.accuracy(rows.sample(with_tcd(pipeline, rows.weights / "v2-tcd-lora"), **FEW))
    return found


FILMS = 64


def measure_motion(rows: Rows) -> dict[str, Any]:
    """Likeness of neighbouring frames, how far things leave a straight path, and their growth, of films."""
    count = min(FILMS, len(rows.scenes))
    true = [films.film(seed) for seed in world.split_seeds("prompts", count)]
    zooms = [films.zoom(seed) for seed in world.split_seeds("prompts", count)]
    pictures = [np.stack([films.render_film(scenes) for scenes in kind]) for kind in ([f.scenes for f in true], zooms)]
    decoded = [rows.decoded(shown.reshape(-1, *shown.shape[2:])).reshape(shown.shape) for shown in pictures]
    path = derived.completed(rows.weights / "v2-motion", rows.weights)
    still = MotionAdapter.from_pretrained(path, dtype=torch.float32)
    for name, parameter in still.named_parameters():
        if "proj_out" in name:
            torch.nn.init.zeros_(parameter)
    moving = MotionAdapter.from_pretrained(path, dtype=torch.float32)
    animated = rows.pipeline("v2", "AnimateDiffPipeline", motion_adapter=moving)
    found = {
        "true": of_films(rows, decoded[0]),
        "true zoom": of_films(rows, decoded[1]),
        "without adapter": of_films(
            rows, rows.films(rows.pipeline("v2", "AnimateDiffPipeline", motion_adapter=still), count)
        ),
        "motion": of_films(rows, rows.films(animated, count)),
    }
    found["zoom"] = of_films(rows, rows.films(load_lora(animated, rows.weights / "v2-zoom-lora"), count))
    return found


def of_films(rows: Rows, shown: Images) -> Numbers:
    """Return numbers of films (n, frames, h, w, 3)."""
    frames = shown.shape[1]
    flat = shown.reshape(-1, *shown.shape[2:])
    unit = rows.embed(flat).reshape(len(shown), frames, -1)
    paths = np.array([straight_path(path) for path in reading.read_places(flat).reshape(len(shown), frames, 2)])
    area = (reading.read_depth(flat) > 0).mean(axis=(1, 2)).reshape(len(shown), frames)
    whole = (area > 0).all(axis=1)
    return {
        "neighbours": float((unit[:, 1:] * unit[:, :-1]).sum(axis=-1).mean()),
        "pixels from a straight path": float(np.median(paths[:, 0])),
        "pixels per frame": float(np.median(paths[:, 1])),
        "growth": float(np.median(np.sqrt(area[whole, -1] / area[whole, 0]))),
        "films with things in all frames": float(whole.mean()),
    }


MEASURES: dict[str, Callable[[Rows], dict[str, Any]]] = {
    "xl": measure_xl,
    "inpainting": measure_inpainting,
    "canny": lambda rows: measure_control(rows, "canny"),
    "depth": lambda rows: measure_control(rows, "depth"),
    "papercut": lambda rows: measure_look(rows, "papercut"),
    "ink": lambda rows: measure_look(rows, "ink"),
    "image prompt": measure_image_prompt,
    "v2": measure_v2,
    "motion": measure_motion,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rows", nargs="+", choices=MEASURES, default=[*MEASURES])
    parser.add_argument("--weights", type=Path, default=PACKAGED)
    arguments = parser.parse_args()
    rows = Rows(arguments.weights, arguments.images, arguments.steps)
    found = {}
    for name in arguments.rows:
        found[name] = MEASURES[name](rows)
        print(json.dumps({name: found[name]}, default=lambda value: round(float(value), 4)), flush=True)
    if arguments.images == 512 and arguments.steps == 50:
        path = arguments.weights / "quality.json"
        quality = json.loads(path.read_text())
        quality["rows"] = {**quality.get("rows", {}), **json.loads(json.dumps(found), parse_float=rounded)}
        path.write_text(json.dumps(quality, indent=1) + "\n")


def rounded(text: str) -> float:
    return round(float(text), 4)


if __name__ == "__main__":
    main()
