"""Types of the values of settings, each with its range."""

from __future__ import annotations

from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from bench.records.score import split_score

STRICT = ConfigDict(extra="forbid", frozen=True, defer_build=True)  # each verb builds only its own settings


def _listed(value: object) -> object:
    """Accept a single value as a list of one."""
    return value if isinstance(value, list | tuple) or value is None else [value]


def _distinct(values: list[object]) -> list[object]:
    """Refuse duplicates: their cells would be compared with themselves."""
    if twice := [value for i, value in enumerate(values) if value in values[:i]]:
        raise PydanticCustomError("twice", "{value} occurs twice, give it once", {"value": str(twice[0])})
    return values


def _day(text: str) -> str:
    """Refuse anything but a day in ISO 8601."""
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise PydanticCustomError("day", "input should be a day, as 2027-01-31") from None


def _concurrent_batches(value: object, check: ValidatorFunctionWrapHandler) -> object:
    """Return one error for both allowed kinds, where each type would give its own."""
    try:
        return check(value)
    except ValidationError:
        raise PydanticCustomError("concurrent_batches", "input should be auto, or a whole number from 1") from None


def _guidance(value: object, check: ValidatorFunctionWrapHandler) -> object:
    """Return one error for a scale or `best`, where each type would give its own."""
    try:
        return check(value)
    except ValidationError:
        raise PydanticCustomError("guidance", "input should be best, or a number from 0") from None


def expand_home(text: str) -> str:
    """Return a path with its leading ~ replaced by the home directory; any other text unchanged."""
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        raise PydanticCustomError("home", "the home directory for ~ is unknown; write it out") from None


OneOrMore = BeforeValidator(_listed)
Distinct = AfterValidator(_distinct)
AnyNumber = BeforeValidator(lambda value: _listed(value) or [])
Steps = Annotated[int, Field(ge=1, le=1000)]
Eta = Annotated[float, Field(ge=0, le=1)]
GuidanceScale = Annotated[float, Field(ge=0, allow_inf_nan=False)]
GuidanceOrBest = Annotated[GuidanceScale | Literal["best"], WrapValidator(_guidance)]
Source = Annotated[str, AfterValidator(expand_home)]
"""A path, or a name for something else, such as a hub id. ~ is expanded."""
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
MOST_IMAGES = 1_000_000
ImageCount = Annotated[int, Field(ge=1, le=MOST_IMAGES)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
ArgumentValue = bool | int | float | str | list[bool | int | float | str] | None
"""The value of an argument of a pipeline's call."""
ConcurrentBatches = Annotated[Literal["auto"] | Count, WrapValidator(_concurrent_batches)]
MetricName = Literal[
    "fid",
    "kid",
    "clip_score",
    "attribute_accuracy",
    "cmmd",
    "precision",
    "recall",
    "density",
    "coverage",
    "sharpness",
    "bits_per_pixel",
    "high_frequency",
    "gradient_entropy",
    "pick_score",
    "image_reward",
    "aesthetic_score",
    "image_complexity",
    "hps_v2",
    "vqa_score",
    "style_similarity",
    "image_similarity",
    "masked_fid",
    "background_psnr",
    "background_lpips",
    "edge_agreement",
    "depth_error",
    "temporal_consistency",
    "flicker",
    "path_error",
    "speed",
    "pairwise_distance",
    "vendi_score",
    "pairwise_lpips",
]
OF_CAPTIONS = ("clip_score", "attribute_accuracy", "style_similarity")
"""Scores by extractors with a text encoder."""
OF_EXTRACTORS = (
    *("fid", "kid", "cmmd", "precision", "recall", "density", "coverage", "masked_fid"),
    *("image_similarity", "temporal_consistency", "pairwise_distance", "vendi_score"),
    *OF_CAPTIONS,
)
"""Scores by any extractor, written `fid@mini`."""
WITHOUT_INTERVAL = ("recall", "coverage")
"""Scores whose error is not known well enough for an interval, which claims need."""
OF_WORLD = ("attribute_accuracy", "path_error", "speed")
"""Scores by what is known of the world, whose prompts they need."""
OF_PROMPTS = ("pairwise_distance", "vendi_score", "pairwise_lpips")
"""Scores of the images of each prompt together, which need several."""


def _score_name(name: str) -> str:
    short, extractor = split_score(name)
    known = get_args(MetricName)
    if short not in known:
        near = "".join(f"did you mean {other}? " for other in get_close_matches(short, known, 1, 0.6))
        raise PydanticCustomError("score", "{near}choose from {known}", {"near": near, "known": ", ".join(known)})
    if extractor is not None and short not in OF_EXTRACTORS:
        raise PydanticCustomError("score", "{short} needs no extractor; write {short}", {"short": short})
    return name


ScoreName = Annotated[str, AfterValidator(_score_name)]
"""A score, with its extractor where it has one: `fid@mini`, `sharpness`. Without `@` the first extractor that can."""
ExtractorName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
PreferenceModelName = Literal[
    "pick_score", "image_reward", "aesthetic_score", "image_complexity", "hps_v2", "vqa_score"
]
"""Scores computed by a dedicated network."""
SCORES: tuple[str, ...] = ("fid", "kid", "clip_score", "attribute_accuracy")

Day = Annotated[str, AfterValidator(_day)]
"""A day, as 2027-01-31."""
