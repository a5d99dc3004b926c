"""Two runs → pairs of cells that mean the same, and those that cannot be compared, with the reason."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from bench.analysis.scoring import ScoredCell, ScoredRun
from bench.gate.outcome import Outcome
from bench.records.cell import Cell
from bench.records.run import Run


@dataclass(frozen=True)
class Pair:
    """One cell before and after."""

    before: ScoredCell
    after: ScoredCell

    @property
    def label(self) -> str:
        """The display name."""
        return self.after.record.cell.label

    @property
    def images_equal(self) -> bool:
        """Whether every pixel of every image is the same."""
        ours, theirs = self.after.record.images, self.before.record.images
        return ours is not None and theirs is not None and ours.sha256 == theirs.sha256

    @property
    def same_noise(self) -> bool:
        """Whether both were sampled from the same initial latents."""
        return self.before.record.cell.seed == self.after.record.cell.seed


def pair_cells(baseline: ScoredRun, candidate: ScoredRun) -> tuple[list[Pair], list[Outcome]]:
    """Cells with the same base model, method and axes, and an outcome for every cell that has no comparable partner.

    Library versions, schedulers' settings and code may differ: they are what is compared.
    """
    before = {_identity(scored.record.cell): scored for scored in baseline.cells}
    after = {_identity(scored.record.cell): scored for scored in candidate.cells}
    pairs, outcomes = [], []
    for identity, old in before.items():
        new = after.get(identity)
        if new is None:
            note = "the baseline has it, the candidate does not"
            outcomes.append(Outcome("cells", old.record.cell.label, "record", "missing", note=note))
        elif reason := _why_not(baseline.run, candidate.run, old, new):
            outcomes.append(Outcome("cells", new.record.cell.label, "record", "not comparable", note=reason))
        elif new.record.failure:
            note = f"{new.record.failure.kind}: {new.record.failure.message}"
            outcomes.append(Outcome("cells", new.record.cell.label, "record", "failed", note=note))
        else:
            pairs.append(Pair(old, new))
    outcomes += [
        Outcome("cells", new.record.cell.label, "record", "new", note="the baseline does not have it")
        for identity, new in after.items()
        if identity not in before
    ]
    return pairs, outcomes


def _identity(cell: Cell) -> Hashable:
    return cell.base.name, cell.task.kind, cell.method, cell.steps, cell.eta, cell.guidance_scale


def _why_not(before: Run, after: Run, old: ScoredCell, new: ScoredCell) -> str | None:
    ours, theirs = new.record.cell, old.record.cell
    if old.record.failure:
        return "it failed in the baseline; accept a baseline in which it runs"
    different = {
        "the extractors": _shared(before.features, after.features),
        "the reference images": _shared(before.references, after.references),
        "the prompts": (theirs.prompts.text_hash, ours.prompts.text_hash),
        "the number of images": (theirs.prompts.count, ours.prompts.count),
        "the base model's weights": (theirs.base.weights, ours.base.weights),
        "the adapters' weights": ([a.weights for a in theirs.adapters], [a.weights for a in ours.adapters]),
        "the task": (theirs.task, ours.task),
        "the size of the images": ((theirs.base.height, theirs.base.width), (ours.base.height, ours.base.width)),
    }
    names = [name for name, (was, is_now) in different.items() if was != is_now]
    return f"{', '.join(names)} differ from the baseline's; run the baseline again with the same" if names else None


def _shared(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the identities under the names that both have."""
    names = sorted(before.keys() & after.keys())
    return [before[name] for name in names], [after[name] for name in names]
