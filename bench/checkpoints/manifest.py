"""All weights that scores need, in one list: their source, files, hashes and licences. Imports no torch.

`sha256` is a hash or its beginning, as the publisher's file name carries it; None where no publisher states one. A
licence is named where it is certain; the publisher is authoritative.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from bench.records.errors import BenchError


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of a preference model or score. `source` is a hub id, or the address of a single file.

    `file` is the one file that is read, "" for a repository in the layout of transformers (config.json, safetensors).
    """

    source: str
    file: str = ""
    sha256: str | None = None
    licence: str | None = None
    by_hand: str | None = None
    """Instructions for the user where no command fetches the file."""

    def command(self, path: Path | None = None) -> str:
        """Return what fetches it: a single file to `path`, else into the current directory or the hub's cache."""
        if self.by_hand is not None:
            return self.by_hand
        if "://" in self.source:
            return f"`curl -fL --create-dirs -o '{path}' '{self.source}'`" if path else f"`curl -fLO '{self.source}'`"
        only = self.file or "--exclude '*.bin' '*.msgpack' '*.h5'"
        return f"`hf download {self.source} {only}`"


_ALEXNET = Weights(
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "alexnet-owt-7be5be79.pth", "7be5be79"
)
MANIFEST: dict[str, Weights] = {
    "inception": Weights(
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        "weights-inception-2015-12-05-6726825d.pth",
        "6726825d",
        "Apache-2.0",
    ),
    "background_lpips": _ALEXNET,
    "pairwise_lpips": _ALEXNET,
    "pick_score": Weights("yuvalkirstain/PickScore_v1"),
    "image_reward": Weights("THUDM/ImageReward", "ImageReward.pt", licence="Apache-2.0"),
    "image_reward_tokenizer": Weights("google-bert/bert-base-uncased", "vocab.txt", licence="Apache-2.0"),
    "aesthetic_score": Weights(
        "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/sac+logos+ava1-l14-linearMSE.pth",
        "sac+logos+ava1-l14-linearMSE.pth",
        licence="Apache-2.0",
    ),
    "aesthetic_score_tower": Weights("openai/clip-vit-large-patch14"),
    "hps_v2": Weights(
        "xswu/HPSv2",
        "HPS_v2.1_compressed.pt",
        "c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837",
        "Apache-2.0",
    ),
    "vqa_score": Weights("Salesforce/instructblip-flan-t5-xl", licence="MIT"),
    "image_complexity": Weights(
        "https://github.com/tinglyfeng/IC9600",
        "ck.pth",
        by_hand="the link in the README of https://github.com/tinglyfeng/IC9600, in a browser",
    ),
    "dinov2": Weights("facebook/dinov2-large", licence="Apache-2.0"),
}
"""By score, extractor, or a score's further requirement. ICNet's checkpoint is behind a link of its repository."""

PREFERENCE_MODELS = ("pick_score", "image_reward", "aesthetic_score", "image_complexity", "hps_v2", "vqa_score")
"""Scores computed by a dedicated network, independent of the extractors."""


def check_file(path: Path, name: str) -> str:
    """Return a file's hash, 16 digits; raises BenchError where it is missing or differs from the manifest."""
    weights = MANIFEST[name]
    if not path.is_file():
        raise BenchError(f"{path} is missing, and {name} needs it; fetch it with {weights.command(path)}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if weights.sha256 is not None and not found.startswith(weights.sha256):
        raise BenchError(
            f"{path} has the hash {found[:16]}…, but the manifest's begins with {weights.sha256[:16]}; the file is "
            f"different or damaged, so fetch it again with {weights.command(path)}"
        )
    return found[:16]
