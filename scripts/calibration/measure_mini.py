"""How good the miniature's evaluator and autoencoder are, on images that no training has seen.

    .venv/bin/python scripts/calibration/measure_mini.py [--images 2048] [--results results/mini]

With --results it reads a finished run as well: each cell's attribute accuracy as a share of the real images'.

Prints, and writes to bench/mini/weights/quality.json: attribute accuracy on real images (all, and by kind), how often
the right caption is found among 64 different ones, the same after a round trip through the autoencoder, the Fréchet
distance of that round trip, and the sizes on disk.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from bench import Reference, frechet_distance
from bench.checkpoints.sources import local_path
from bench.features.extractor import Extractor, encode_captions, images_to_features
from bench.features.openclip import load_open_clip
from bench.mini import world
from bench.report.data_frame import load_scores

WEIGHTS = Path(str(local_path("bench://mini/weights")))
AMONG = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--results", type=Path, default=None)
    arguments = parser.parse_args()
    count = arguments.images
    extractor = load_open_clip("mini", WEIGHTS / "evaluator", "cpu")
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "teacher" / "vae", dtype=torch.float32).eval()
    scenes = [world.scene(seed) for seed in world.split_seeds("validation", count)]
    real = np.stack([world.render(scene) for scene in scenes])
    decoded = np.concatenate([round_trip(vae, real[i : i + 64]) for i in range(0, count, 64)])
    quality = {
        "images": count,
        "real": read(extractor, scenes, real),
        "autoencoded": read(extractor, scenes, decoded),
        "autoencoded_psnr_db": round(psnr(real, decoded), 2),
        "mebibytes": {
            path.name: round(sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) / 2**20, 2)
            for path in sorted(WEIGHTS.iterdir())
            if path.is_dir()
        },
    }
    half = count // 2
    features = {name: embed(extractor, images) for name, images in (("real", real), ("autoencoded", decoded))}
    reference = Reference.of(features["real"][half:])
    quality["frechet_distance"] = {
        "real against other real": round(frechet_distance(features["real"][:half], reference).value, 3),
        "autoencoded against other real": round(frechet_distance(features["autoencoded"][:half], reference).value, 3),
    }
    if arguments.results:
        quality["share_of_real_accuracy"] = shares(arguments.results, quality["real"]["attribute_accuracy"])
    path = WEIGHTS / "quality.json"
    before = json.loads(path.read_text())
    quality |= {name: before[name] for name in ("flow", "rows") if name in before}  # of the other scripts beside this
    text = json.dumps(quality, indent=1)
    print(text)
    path.write_text(text + "\n")


def shares(results: Path, real: float) -> dict[str, float]:
    """Attribute accuracy of each cell of a run over that of real images."""
    frame = load_scores(results)
    frame = frame[frame["score"].str.startswith("attribute_accuracy")]
    etas = ["" if np.isnan(eta) else f" eta {eta:g}" for eta in frame["eta"].astype(float)]
    labels = frame["method"] + " " + frame["steps"].astype(str) + " steps" + etas
    return dict(zip(labels, (frame["value"] / real).round(4), strict=True))


def read(extractor: Extractor, scenes: list[world.Scene], images: np.ndarray) -> dict[str, object]:
    """Accuracies of the extractor on images of known scenes."""
    truths = [tuple(world.counterfactuals(scene)) for scene in scenes]
    captions = encode_captions(extractor, [world.caption(scene) for scene in scenes], truths)
    unit = embed(extractor, images)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for i, image in enumerate(unit):
        for name, wrong in zip(captions.kinds[i], captions.wrong[i], strict=True):  # type: ignore[index]
            by_kind[name.partition(".")[0]].append(bool(image @ captions.own[i] > (wrong @ image).max()))
    features = [images_to_features(extractor, images[i : i + 64], captions, i) for i in range(0, len(images), 64)]
    rates = np.concatenate([f["attributes_right"] / f["attributes_named"] for f in features])
    return {
        "attribute_accuracy": round(float(rates.mean()), 4),
        "by_kind": {kind: round(float(np.mean(right)), 4) for kind, right in by_kind.items()},
        f"caption_found_among_{AMONG}": round(retrieval(scenes, unit, captions.own), 4),
    }


def retrieval(scenes: list[world.Scene], images: np.ndarray, texts: np.ndarray) -> float:
    """Share of images whose own caption is the nearest of 64 different ones."""
    groups: list[list[int]] = [[]]
    seen: set[str] = set()
    for i, scene in enumerate(scenes):
        if (text := world.caption(scene)) not in seen:
            groups[-1].append(i)
            seen.add(text)
        if len(groups[-1]) == AMONG:
            groups.append([])
            seen.clear()
    hits = [(images[g] @ texts[g].T).argmax(axis=1) == np.arange(AMONG) for g in groups if len(g) == AMONG]
    return float(np.mean(hits))


def embed(extractor: Extractor, images: np.ndarray) -> np.ndarray:
    return np.concatenate([extractor.image_features(images[i : i + 64]) for i in range(0, len(images), 64)])


@torch.inference_mode()
def round_trip(vae: AutoencoderKL, images: np.ndarray) -> np.ndarray:
    """Images through encoder and decoder, uint8 again."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    output = vae.decode(vae.encode(pixels).latent_dist.mean).sample
    array: np.ndarray = (output * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return array


def psnr(real: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all pixels."""
    return float(10 * np.log10(255**2 / np.mean(np.square(real.astype(float) - other))))


if __name__ == "__main__":
    main()
