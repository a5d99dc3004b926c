"""Extractors as settings, and the names of scores by them."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Literal

from pydantic import model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

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

    source: Source | None = None
    """A directory or a hub id: a model of OpenCLIP, or a CLIP, SigLIP or DINOv2 of transformers. `inception://` is the
    Inception network of published FIDs (needs `tcd-bench[inception]`)."""
    kind: Literal["openclip", "clip", "siglip", "dinov2", "inception"] | None = None
    """What the files are; by default found from them."""
    own: str | None = None
    """The dotted path of a class of yours, installed or in a module of the current directory. `Class(source, device)`
    is called with images, uint8 (n, height, width, 3), and returns features, float (n, d)."""

    @model_validator(mode="after")
    def _names_a_network(self) -> ExtractorChoice:
        if not self.source and not self.own:
            raise PydanticCustomError("extractor", "give source, or own")
        if self.own and self.kind:
            raise PydanticCustomError("extractor", "kind is that of files, and own is a class; give one of them")
        return self

    @property
    def reads_captions(self) -> bool:
        """Whether it may have a text encoder, as far as settings say."""
        return self.own is None and self.kind not in ("dinov2", "inception") and self.source != INCEPTION

    @property
    def named(self) -> str:
        """What the user gave: the source, or the class and its source."""
        return " ".join(filter(None, (self.own, self.source)))


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
        near = get_close_matches(extractor, extractors, 1, 0.6)
        add = f"choose one of them, or add one, as in 'extractor=[{','.join([*extractors, extractor])}]'"
        raise BenchError(
            f"scores: {score} was given, and the chosen extractors are: {there}; "
            + (f"did you mean {short}@{near[0]}?" if near else add)
        )
    if needs_text and extractors:
        raise BenchError(
            f"scores: {score} needs an extractor with a text encoder, which {extractor or there} has not; omit the "
            "score, or choose an OpenCLIP model, as in 'extractor=[mini]'"
        )
    raise BenchError(f"scores: {score} needs an extractor, and none was chosen; choose one, as in 'extractor=[mini]'")
