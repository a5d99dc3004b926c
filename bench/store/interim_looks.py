"""Interim looks: the image counts per cell at which the claims of a results directory were judged so far.

Every look at the claims leaves `looks/<images>.json`: one by a run, by a report in between, or by a stopping rule.
A later, larger run in the same directory counts them (see `bench.analysis.sequential` for what that costs).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

from bench.records.cell import content_hash, plain
from bench.records.errors import Corrupt
from bench.records.run import Claim, Run
from bench.store.sealed import read_sealed, seal
from bench.store.store import Store


@dataclass(frozen=True, slots=True)
class Look:
    """One look: images per cell, the number planned then, and the claims judged, name to hash of the definition.

    `number` counts looks in order of time. `claims` is None where the file is damaged: the look then counts for every
    claim, and as the first.
    """

    images: int
    planned: int
    number: int
    claims: Mapping[str, str] | None

    def concerns(self, names: Iterable[str]) -> bool:
        """Whether one of these claims was judged at this look."""
        return self.claims is None or not self.claims.keys().isdisjoint(names)


def planned_images(run: Run) -> int:
    """Return images per cell at the last planned look of a run."""
    return round(len(run.prompts) / run.looks[-1])


def define(claim: Claim) -> str:
    """Return a hash over the definition of a claim; its texts may be reworded."""
    return content_hash({**plain(claim), **dict.fromkeys(("text", "source", "published"), "")})


def note_looks(store: Store, run: Run, judged: Iterable[tuple[Claim, int]]) -> None:
    """Record that claims of a run were judged, each with the number of images; does nothing without claims."""
    counts = {images for images, _ in run.history(len(run.prompts))}
    found: dict[int, dict[str, str]] = {}
    for claim, images in judged:
        found.setdefault(images if images in counts else len(run.prompts), {})[claim.name] = define(claim)
    for images, claims in sorted(found.items()):
        _note_look(store, images, planned_images(run), claims)


def _note_look(store: Store, images: int, planned: int, claims: Mapping[str, str]) -> None:
    earlier = looks_of(store)
    look = Look(images, planned, 1 + max((look.number for look in earlier), default=0), claims)
    before = next((look for look in earlier if look.images == images), None)
    if before is not None and before.claims is not None:
        if claims.items() <= before.claims.items():
            return
        look = replace(before, claims={**before.claims, **claims})
    name = f"looks/{images}.json"
    store.write_bytes(name, seal(name, json.dumps(asdict(look)).encode()))


def with_looks(store: Store, run: Run) -> Run:
    """Return the run with all looks at its claims: its own as shares of the plan, earlier plans' in order of time."""
    images, planned = len(run.prompts), planned_images(run)
    names = [claim.name for claim in run.claims]
    looks = [look for look in looks_of(store) if look.concerns(names)]
    own = *sorted(look.images for look in looks if look.planned == planned and look.images < images), images
    return replace(
        run,
        looks=tuple(count / planned for count in own),
        earlier_looks=tuple((look.images, look.planned) for look in looks if look.planned != planned),
    )


def looks_of(store: Store) -> list[Look]:
    """Return all looks at a directory's claims, in order of time."""
    found = []
    for images in (name.removesuffix(".json") for name in store.files.names("looks")):
        if images.isdecimal():
            try:
                found.append(Look(**json.loads(read_sealed(store.files, f"looks/{images}.json"))))
            except (FileNotFoundError, Corrupt, ValueError, TypeError):
                found.append(Look(int(images), int(images), 0, None))
    return sorted(found, key=lambda look: (look.number, look.images))
