"""PSNR, SSIM and LPIPS of kept images against the baseline's, beside the displacement, with intervals over images.

They decide nothing: a fixed threshold of any of them flaps, and says nothing of what matters.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.analysis.claims import LEVEL
from bench.analysis.scoring import ScoredRun
from bench.gate.outcome import Outcome
from bench.gate.pairing import Pair
from bench.records.errors import BenchError
from bench.report.embedded_images import Picture

_Pixels = NDArray[np.uint8]


def compare_pixels(pairs: Sequence[Pair], baseline: ScoredRun, candidate: ScoredRun) -> Iterator[Outcome]:
    """Outcomes for each pair with the same noise and with images that both kept and that differ."""
    for pair in pairs:
        if pair.images_equal or not pair.same_noise:
            continue
        before, after = _kept_by_both(pair, baseline, candidate)
        if len(before) and before.shape == after.shape:
            yield from measure_pixels(pair.label, before, after)


def _kept_by_both(pair: Pair, baseline: ScoredRun, candidate: ScoredRun) -> tuple[_Pixels, _Pixels]:
    found: list[tuple[_Pixels, _Pixels]] = []
    count = min(len(cell.record.images.hashes) if cell.record.images else 0 for cell in (pair.before, pair.after))
    for row in range(count):
        pictures = Picture(baseline.store, pair.before.record, row), Picture(candidate.store, pair.after.record, row)
        if all(picture.is_whole() for picture in pictures):
            before, after = (np.asarray(Image.open(io.BytesIO(picture.read())).convert("RGB")) for picture in pictures)
            found.append((before, after))
    if len({image.shape for images in found for image in images}) != 1:
        return np.zeros((0, 0, 0, 3), np.uint8), np.zeros((0, 0, 0, 3), np.uint8)
    return np.stack([before for before, _ in found]), np.stack([after for _, after in found])


def measure_pixels(label: str, before: _Pixels, after: _Pixels) -> Iterator[Outcome]:
    """PSNR in decibels, SSIM and, where its weights are available, LPIPS of pairs of images (n, h, w, 3).

    SSIM as torchmetrics has it (Wang et al. 2004, Gaussian window of 11 pixels). Intervals are Student's, over images;
    images that are equal have no PSNR and are counted.
    """
    noise = decibels(before, after)
    some = noise[np.isfinite(noise)]
    note = f"mean of {len(some)} images{_in_brackets(some)}, in dB"
    if len(some) < len(noise):
        note += f"; {len(noise) - len(some)} more are equal"
    if len(some):
        yield Outcome("images", label, "psnr", "measured", None, float(some.mean()), note=note)
    yield _similarity(label, "ssim", 1.0, ssim(before, after))
    distances = _lpips(before, after)
    if distances is not None:
        yield _similarity(label, "lpips", 0.0, distances)


def decibels(before: _Pixels, after: _Pixels) -> NDArray[np.float64]:
    """PSNR of each pair in decibels, of a peak of 255; infinite for equal images."""
    error = ((before.astype(np.float64) - after) ** 2).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        found: NDArray[np.float64] = 10 * np.log10(255.0**2 / error)
    return found


def ssim(before: _Pixels, after: _Pixels) -> NDArray[np.float64]:
    """SSIM of each pair, 1 for equal images."""
    import torch  # slow to import, and only images that differ need it
    from torchmetrics.functional.image import structural_similarity_index_measure

    ours, theirs = (torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255 for images in (before, after))
    found = structural_similarity_index_measure(ours, theirs, data_range=1.0, reduction="none")
    values: NDArray[np.float64] = np.atleast_1d(found.numpy())  # type: ignore[union-attr]
    return values


def _lpips(before: _Pixels, after: _Pixels) -> NDArray[np.float64] | None:
    from bench.features.tasks import lpips

    try:
        return lpips(before, after)
    except (BenchError, OSError):  # its weights are not available
        return None


def _similarity(label: str, name: str, equal: float, values: NDArray[np.float64]) -> Outcome:
    interval = interval_of(values - equal)
    note = f"mean of {len(values)} images; {equal:g} for equal ones"
    return Outcome("images", label, name, "measured", equal, float(values.mean()), interval, note=note)


def interval_of(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """Student's 95% interval of a mean; None of fewer than two values."""
    from scipy.stats import t

    if len(values) < 2:
        return None
    width = float(t.ppf(1 - LEVEL / 2, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean() - width), float(values.mean() + width)


def _in_brackets(values: NDArray[np.float64]) -> str:
    interval = interval_of(values)
    return "" if interval is None else f" [{interval[0]:.1f}, {interval[1]:.1f}]"
