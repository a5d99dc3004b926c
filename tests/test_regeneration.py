"""What is lost or damaged in a run is made again by `run`, once, and said; no reading takes it for numbers."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.generate.sampling import Sampler

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "robustness"))
import bit_flips

FEW = (
    *("method=[tcd]", "methods.tcd.steps=[2]", "methods.tcd.eta=[0,0.3]", "claim=[]", "measure.latency=false"),
    *("measure.memory=false", "scores=[fid,clip_score]", "concurrent_batches=1"),
)
Overrides = Callable[..., list[str]]
CAUSES: dict[str, Callable[[Path], object]] = {
    "lost": Path.unlink,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


def contents(results: Path) -> dict[str, bytes]:
    """Everything of a run that numbers and pictures are read from."""
    kinds = ("cells/*/record.json", "cells/*/*.npz", "cells/*/images/*", "*.npz", "*.csv", "report.html", "grid.png")
    return {p.relative_to(results).as_posix(): p.read_bytes() for kind in kinds for p in results.glob(kind)}


def numbers(results: Path) -> str:
    return (results / "scores.csv").read_text(encoding="utf-8")


def test_lost_or_damaged_files_of_a_finished_run_are_regenerated(
    overrides: Overrides, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, results = ["run", *overrides(*FEW)], tmp_path / "run"
    assert main(command) == 0
    before, scores = contents(results), numbers(results)
    image, features, reference = "cells/*/images/00001.png", "cells/*/features-*.npz", "reference-*.npz"
    rounds = {
        "lost": (image, features, reference),
        "cut": (features, reference, "run.json"),
        "folder": (image, features),
    }
    for kind, patterns in rounds.items():
        for name in ("report.html", "report.json"):
            (results / name).unlink()  # so that features are read
        for pattern in patterns:
            CAUSES[kind](sorted(results.glob(pattern))[0])
        assert main(command) == 0
        assert {**contents(results), "report.html": b""} == {**before, "report.html": b""}, kind
        said = capsys.readouterr().err
        assert ("the reference's features are gone" if kind == "lost" else "is damaged") in said
    assert numbers(results) == scores
    picture = sorted(results.glob("cells/*/images/00002.png"))[0]
    picture.write_bytes(picture.with_name("00003.png").read_bytes())
    (results / "report.json").unlink()
    assert main(["report", f"results={results}"]) == 0, "no number depends on a picture"
    assert "00002.png is damaged (it is not the image that was sampled)" in capsys.readouterr().err
    assert main(command) == 0
    assert contents(results).keys() == before.keys()
    assert picture.read_bytes() == before[picture.relative_to(results).as_posix()]


def test_a_larger_run_borrows_nothing_damaged_from_a_smaller_one(
    overrides: Overrides, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(results: Path, count: int) -> dict[str, bytes]:
        assert main(["run", *overrides(*FEW, f"results={results}", f"prompts.count={count}")]) == 0
        return contents(results)

    run(tmp_path / "grown", 4)
    first, second = sorted((tmp_path / "grown" / "cells").iterdir())
    image, features = first / "images" / "00001.png", next(second.glob("features-*.npz"))
    content = image.read_bytes()
    image.write_bytes(content[:300] + bytes([content[300] ^ 4]) + content[301:])
    CAUSES["cut"](features)
    whole = run(tmp_path / "whole", 6)
    capsys.readouterr()
    sampled: list[tuple[str, int]] = []
    begin = Sampler.begin

    def watched(self: Sampler, start: int) -> object:
        sampled.append((self.cell.key_without_prompts, start))
        return begin(self, start)

    monkeypatch.setattr(Sampler, "begin", watched)
    grown = run(tmp_path / "grown", 6)
    assert "00001.png is damaged" in capsys.readouterr().err
    assert len({cell for cell, _ in sampled}) == 2
    assert sorted(start for _, start in sampled) == [0, 4, 4], "images that are whole are borrowed"
    borrowed = {name: found for name, found in whole.items() if name.endswith((".npz", ".png")) and "cells/" in name}
    assert len(borrowed) == 2 * (6 + 1)
    assert {name: grown[name] for name in borrowed} == borrowed


def test_deleted_features_are_reported_missing_and_regenerated_by_the_run(
    overrides: Overrides, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, results = ["run", *overrides(*FEW)], tmp_path / "run"
    assert main(command) == 0
    before, scores = contents(results), numbers(results)
    (features, _) = sorted(results.glob("cells/*/features-*.npz"))
    features.unlink()
    (results / "report.json").unlink()
    capsys.readouterr()
    assert main(["report", f"results={results}"]) == 0
    assert "its features are missing; the same tcd-bench run again computes them" in (
        results / "report.html"
    ).read_text(encoding="utf-8")
    stands = [line for line in scores.splitlines() if not line.startswith(features.parent.name)]
    assert [line for line in numbers(results).splitlines() if not line.startswith(features.parent.name)] == stands
    assert numbers(results) != scores
    capsys.readouterr()
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "1 of 2 cells were sampled before and lack the features that these scores need (mini tcd 2 steps" in said
    assert {**contents(results), "report.html": b""} == {**before, "report.html": b""}
    assert main(command) == 0
    assert "lack the features" not in capsys.readouterr().err


@pytest.fixture
def flips(overrides: Overrides, tmp_path: Path) -> dict[str, Path]:
    """A finished run, a half-done run and a baseline."""
    asked = [text for text in overrides(*FEW) if not text.startswith("results=")]
    return bit_flips.make_runs(tmp_path, tuple(asked))


def test_damaged_files_never_give_other_numbers_and_never_a_traceback(flips: dict[str, Path]) -> None:
    said: list[str] = []
    found = bit_flips.check_readings(flips, 150, random.Random(0), said)  # noqa: S311
    assert said == []
    outcomes = {outcome for _, _, outcome in found}
    assert outcomes == {"same numbers", "made again or passed over", "refused"}
    assert {place for place, _, _ in found} == {"finished", "half", "baseline"}
