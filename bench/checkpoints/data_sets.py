"""Public data sets that experiments name by their files: where they are published, and how to unpack them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

COCO = "http://images.cocodataset.org"
"""The host of cocodataset.org's download page, which states the sizes."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip file: its address, size and licence, and the member (a file, or a folder) that a setting names."""

    url: str
    size: str
    member: str
    licence: str

    def command(self, place: str) -> str | None:
        """Return what downloads it and unpacks the member to `place`; None where the member cannot lie there."""
        inner, path = PurePath(self.member), PurePath(place)
        if path.parts[-len(inner.parts) :] != inner.parts:
            return None
        above = path.parents[len(inner.parts) - 1]
        only = f"{self.member}/*" if not inner.suffix else self.member
        file = self.url.rpartition("/")[2]
        return f"curl -fLC - -O {self.url} && unzip -nq {file} '{only}' -d '{above}'"


ARCHIVES = (
    Archive(
        f"{COCO}/annotations/annotations_trainval2014.zip", "241 MB", "annotations/captions_val2014.json", "CC BY 4.0"
    ),
    Archive(f"{COCO}/zips/val2014.zip", "6 GB", "val2014", "each under its terms on Flickr"),
)


def advice(source: str) -> str | None:
    """Return how to get a public data set to the place where a setting expects it; None for anything else."""
    for archive in ARCHIVES:
        if (command := archive.command(source)) is not None:
            return f"download it ({archive.size}, {archive.licence}) in the current directory with `{command}`"
    return None
