"""A LoRA file by its header: whether it is complete, and applied to the published layers at the trained strength.

Only the alphas are read, which are one number each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isclose, sqrt
from pathlib import Path
from typing import Any

from bench.checkpoints.files import first_few
from bench.checkpoints.headers import Header, read_header, read_number

_SIDES = (
    *((".lora_A.", "A"), (".lora_B.", "B"), (".lora_down.", "A"), (".lora_up.", "B")),
    *((".lora.down.", "A"), (".lora.up.", "B"), ("_lora.down.", "A"), ("_lora.up.", "B")),
    *((".lora_linear_layer.down.", "A"), (".lora_linear_layer.up.", "B")),
)
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", None)
"""Values of peft's `init_lora_weights` that leave the base model's weights unchanged."""


def lora_faults(path: Path) -> list[str]:
    """Return the reasons why a LoRA file cannot be applied as it was trained.

    Halves of pairs, missing layers, forms that diffusers does not read, and contradictions between metadata and tensors
    on ranks or alphas.
    """
    header = read_header(path)
    if any(name.startswith("base_model.model.") for name in header.shapes):
        return [
            f"{path} is in peft's form, and diffusers would not read its alpha from adapter_config.json; load it "
            "with peft and save it with the pipeline's save_lora_weights"
        ]
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    for layer, side, name in _matrices(header):
        pairs.setdefault(layer, {})[side] = header.shapes[name]
    if not pairs:
        return [f"{path} does not hold a LoRA: none of its tensors is named lora_A or lora_down"]
    faults = []
    if halves := [layer for layer, sides in pairs.items() if len(sides) != 2]:
        faults.append(f"{path} is half a LoRA: {first_few(halves)} has only one of the two matrices")
    whole = {layer: sides for layer, sides in pairs.items() if len(sides) == 2}
    if unequal := [layer for layer, sides in whole.items() if sides["A"][:1] != sides["B"][1:2]]:
        faults.append(f"{path} is damaged: the two matrices of {first_few(unequal)} have different ranks")
    try:
        said = _Said.of(header)
    except (ValueError, TypeError, AttributeError, RecursionError, re.error):
        return [*faults, f"{path} is damaged: its lora_adapter_metadata cannot be read; fetch or save it again"]
    if said.dora or any("dora_scale" in name or "lora_magnitude_vector" in name for name in header.shapes):
        faults.append(f"{path} is a DoRA, whose magnitudes diffusers ignores; use a plain LoRA")
    if idle := [target for target in said.targets if not any(f".{layer}".endswith(f".{target}") for layer in pairs)]:
        faults.append(f"{path} lacks layers that it was published for: {first_few(idle)}")
    if said.start is not None:
        faults.append(
            f"{path} was trained over a changed base model (init_lora_weights is {said.start}); convert it to a plain "
            "LoRA with peft's path_initial_model_for_weight_conversion"
        )
    if not faults:
        faults += _contradictions(path, header, said, {layer: sides["A"][0] for layer, sides in whole.items()})
    return faults


@dataclass(frozen=True, slots=True)
class MatrixPair:
    """The two matrices of a layer by their names in a file, None for one that is missing, and the factor of B·A."""

    first: str | None
    second: str | None
    scale: float


def stated_pairs(path: Path) -> list[MatrixPair]:
    """Return the matrices A and B of each layer of a LoRA file, and the factor of B·A.

    The factor is alpha / rank, by the alphas beside the matrices (kohya's form) or by diffusers' metadata, where rsLoRA
    divides by √rank (Kalajdzievski 2023, arXiv:2312.03732). It is 1 where the file states no alpha, for alpha then is
    the rank. Raises BenchError for a file that cannot be read.
    """
    header = read_header(path)
    said, names = _Said.of(header), dict[str, dict[str, str]]()
    for layer, side, name in _matrices(header):
        names.setdefault(layer, {})[side] = name
    found = []
    for layer, own in names.items():
        scale = 1.0
        if "A" in own:
            rank, alpha = header.shapes[own["A"]][0], f"{layer}.alpha"
            stated = read_number(path, alpha) if alpha in header.shapes else None
            scale = said.scale(layer, rank) if stated is None else stated / rank
        found.append(MatrixPair(own.get("A"), own.get("B"), scale))
    return found


@dataclass(frozen=True)
class _Said:
    """The contents of diffusers' metadata in a file, by model: the fields of peft's LoraConfig."""

    models: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, header: Header) -> _Said:
        said = json.loads(header.metadata.get("lora_adapter_metadata", "{}"))
        models: dict[str, dict[str, Any]] = {}
        for name, value in said.items():
            model, _, key = name.partition(".")
            models.setdefault(model, {})[key] = value
        for entries in models.values():
            for table in ("rank_pattern", "alpha_pattern"):
                for pattern in entries.get(table) or ():
                    re.compile(pattern)
        return cls(models)

    @property
    def targets(self) -> list[str]:
        lists = [said.get("target_modules") for said in self.models.values()]
        return [str(target) for targets in lists if isinstance(targets, list) for target in targets]

    @property
    def dora(self) -> bool:
        return any(said.get("use_dora") for said in self.models.values())

    @property
    def start(self) -> str | None:
        """The initialisation of the training, where it changed the base model."""
        starts = [said.get("init_lora_weights") for said in self.models.values()]
        return next((str(start) for start in starts if start not in _PLAIN_STARTS), None)

    def rank(self, layer: str) -> float | None:
        """Return a layer's rank from diffusers' metadata; None where they do not state it."""
        return self._of(layer, "r", "rank_pattern")

    def scale(self, layer: str, rank: int) -> float:
        """Return alpha / rank from diffusers' metadata; 1 where they do not state it."""
        alpha = self._of(layer, "lora_alpha", "alpha_pattern")
        if alpha is None:
            return 1.0
        return alpha / (sqrt(rank) if self.models[layer.partition(".")[0]].get("use_rslora") else rank)

    def _of(self, layer: str, default: str, patterns: str) -> float | None:
        """Apply peft's rule: the first pattern that the layer's name ends with, else the value for all layers."""
        model, _, inner = layer.partition(".")
        said = self.models.get(model)
        if said is None:
            return None
        table = said.get(patterns)
        for pattern, value in table.items() if isinstance(table, dict) else ():
            if re.match(rf"(.*\.)?({pattern})$", inner):
                return _number(value)
        return _number(said.get(default, 8))  # the default of peft's LoraConfig


def _contradictions(path: Path, header: Header, said: _Said, ranks: Mapping[str, int]) -> Iterator[str]:
    """Yield the differences between metadata and tensors, which leave open with which of them the LoRA was trained."""
    for layer, rank in ranks.items():
        stated = said.rank(layer)
        if stated is not None and stated != rank:
            numbers = f"its metadata give {layer} rank {stated:g}, its matrices have {rank}"
            yield f"{path} contradicts itself: {numbers}; {_FIX}"
            return
    alphas = [name for name in header.shapes if name.endswith(".alpha")]
    if said.models and alphas:
        yield f"{path} contradicts itself: it states alphas in its metadata and in {first_few(alphas)}; {_FIX}"
        return
    values = [read_number(path, name) for name in alphas] or [float(rank) for rank in ranks.values()]
    for what, entry, found in (("rank", "dim", [*ranks.values()]), ("alpha", "alpha", values)):
        stated = _number(header.metadata.get(f"ss_network_{entry}"))  # layers may differ, but some have this value
        if stated is not None and not any(isclose(stated, value, rel_tol=0.01) for value in found):
            has = ", ".join(f"{value:g}" for value in sorted({*found})[:3])
            yield f"{path} contradicts itself: ss_network_{entry} is {stated:g}, its layers have {what} {has}; {_FIX}"


_FIX = "save it again with the program that made it, or fetch it again"


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:  # kohya's tools also write None and Dynamic
        return None


def _matrices(header: Header) -> Iterator[tuple[str, str, str]]:
    """Yield layer, side (A or B) and name of each matrix."""
    for name in header.shapes:
        for mark, side in _SIDES:
            if mark in name:
                yield name.split(mark)[0], side, name
                break
