"""Extractors as settings, and the names of scores by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic.dataclasses import dataclass

from bench.experiment.value_types import OF_CAPTIONS, OF_EXTRACTORS, STRICT, Source
from bench.records.errors import BenchError
from bench.records.score import split_score

MINI = "bench://mini/weights/evaluator"
"""The extractor of the miniature's world."""
INCEPTION = "inception://"
"""The Inception network of published FIDs (needs `tcd-bench[inception]`)."""


@dataclass(config=STRICT)
class ExtractorChoice:
    """A network by whose features images are scored. Only `source` is needed; the preparation of images belongs to it.

    Without a text encoder it gives no scores of captions.
    """

    source: Source
    """A directory or a hub id. `inception://` is the Inception network of published FIDs (needs
    `tcd-bench[inception]`)."""
    kind: Literal["openclip", "dinov2", "inception"] | None = None
    """What the files are; by default found from them."""

    @property
    def reads_captions(self) -> bool:
        """Whether it may have a text encoder, as far as settings say."""
        return self.kind not in ("dinov2", "inception") and self.source != INCEPTION


def name_score(score: str, extractors: Mapping[str, ExtractorChoice]) -> str:
    """Return a score's name with its extractor: the given one, or the first that can give it.

    Raises BenchError where that extractor was not chosen or has no text encoder.
    """
    short, extractor = split_score(score)
    if short not in OF_EXTRACTORS:
        return score
    needs_text = short in OF_CAPTIONS
    able = [name for name, choice in extractors.items() if choice.reads_captions or not needs_text]
    if extractor is None and able:
        return f"{short}@{able[0]}"
    if extractor in able:
        return score
    there = ", ".join(extractors) or "none"
    if extractor is not None and extractor not in extractors:
        raise BenchError(
            f"scores: {score} was given, and the chosen extractors are: {there}; choose one of them, or add one, as "
            f"in 'extractor=[{','.join([*extractors, extractor])}]'"
        )
    if needs_text and extractors:
        raise BenchError(
            f"scores: {score} needs an extractor with a text encoder, which {extractor or there} has not; omit the "
            "score, or choose an OpenCLIP model, as in 'extractor=[mini]'"
        )
    raise BenchError(f"scores: {score} needs an extractor, and none was chosen; choose one, as in 'extractor=[mini]'")
