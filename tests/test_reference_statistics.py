"""Statistics of reference images in the files that others publish: read, written, checked, refused."""

import io
import pickle
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from factories import make_run
from numpy.typing import NDArray

import bench
from bench.__main__ import main
from bench.records.errors import BenchError
from bench.score.frechet import Reference
from bench.score.statistics_file import read_statistics_file
from bench.store.store import Store

D = 6
_Rows = NDArray[np.float64]


def draw(n: int, d: int = D, seed: int = 0, shift: float = 0.0) -> _Rows:
    rng = np.random.default_rng(seed)
    return shift + rng.normal(size=(n, d)) @ rng.normal(size=(d, d))


def as_clean_fid(path: Path, features: _Rows) -> Path:
    """Write as clean-fid's make_custom_stats does."""
    np.savez_compressed(path, mu=np.mean(features, axis=0), sigma=np.cov(features, rowvar=False))
    return path


def as_torch_fidelity(path: Path, features: _Rows) -> Path:
    """Write what torch-fidelity's own function computes, of features in single precision."""
    torch = pytest.importorskip("torch")
    metric = pytest.importorskip("torch_fidelity.metric_fid")
    np.savez(path, **metric.fid_features_to_statistics(torch.from_numpy(features.astype(np.float32))))
    return path


def textbook(features: _Rows, real: _Rows) -> float:
    """Fréchet distance by eigenvalues of the product of covariances, as torch-fidelity computes it."""
    shift = features.mean(axis=0) - real.mean(axis=0)
    ours, theirs = (np.cov(rows, rowvar=False) for rows in (features, real))
    roots = np.sqrt(np.linalg.eigvals(ours @ theirs).astype(complex)).real
    return float(shift @ shift + np.trace(ours) + np.trace(theirs) - 2 * roots.sum())


@pytest.mark.parametrize(("m", "d"), [(900, D), (40, 64)], ids=["more images", "fewer images than dimensions"])
def test_distances_from_written_statistics_equal_those_from_features(tmp_path: Path, m: int, d: int) -> None:
    features, real = draw(400, d, 1, 0.2), draw(m, d)
    bench.write_statistics(tmp_path / "s.npz", real)
    reference = bench.read_statistics(tmp_path / "s.npz")
    expected, found = (bench.frechet_distance(features, r) for r in (real, reference))
    assert found.value == pytest.approx(expected.value, rel=1e-9, abs=1e-9)
    assert found.debiased == pytest.approx(expected.debiased, rel=1e-9, abs=1e-9)
    assert found.interval == pytest.approx(expected.interval, rel=1e-6)
    assert found.value == pytest.approx(textbook(features, real), rel=1e-4)


def test_a_round_trip_is_exact(tmp_path: Path) -> None:
    first = Reference.of(draw(50))
    bench.write_statistics(tmp_path / "a.npz", first)
    second = bench.read_statistics(tmp_path / "a.npz")
    bench.write_statistics(tmp_path / "b.npz", second)
    third = bench.read_statistics(tmp_path / "b.npz")
    for reference in (second, third):
        np.testing.assert_array_equal(reference.moments.mean, first.moments.mean)
        np.testing.assert_array_equal(reference.moments.covariance, first.moments.covariance)
    assert read_statistics_file(tmp_path / "a.npz").count == 50


@pytest.mark.parametrize(("write", "precision"), [(as_clean_fid, 1e-9), (as_torch_fidelity, 1e-5)])
def test_files_of_others_are_read(tmp_path: Path, write: Callable[[Path, _Rows], Path], precision: float) -> None:
    features, real = draw(400, seed=1, shift=0.2), draw(900)
    reference = bench.read_statistics(write(tmp_path / "x.npz", real))
    expected = bench.frechet_distance(features, real).value
    assert bench.frechet_distance(features, reference).value == pytest.approx(expected, rel=precision)


def test_others_read_what_is_written(tmp_path: Path) -> None:
    real = draw(900)
    bench.write_statistics(tmp_path / "s.npz", real)
    with np.load(tmp_path / "s.npz") as file:  # as pytorch-fid and clean-fid do
        np.testing.assert_allclose(file["mu"], real.mean(axis=0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(file["sigma"], np.cov(real, rowvar=False), rtol=1e-12, atol=1e-12)


def test_features_of_clean_fid_give_the_kernel_distance(tmp_path: Path) -> None:
    features, real = draw(100, seed=1), draw(300)
    np.savez_compressed(tmp_path / "faces_legacy_tensorflow_custom_na_kid.npz", feats=real)
    reference = bench.read_statistics(tmp_path / "faces_legacy_tensorflow_custom_na_kid.npz")
    assert bench.kernel_distance(features, reference) == bench.kernel_distance(features, real)


def test_what_takes_reference_images_is_refused(tmp_path: Path) -> None:
    bench.write_statistics(tmp_path / "s.npz", draw(900))
    reference, features = bench.read_statistics(tmp_path / "s.npz"), draw(400, seed=1)
    with pytest.raises(ValueError, match="kernel distance needs the features of reference images"):
        bench.kernel_distance(features, reference)
    with pytest.raises(ValueError, match="own noise needs the features of reference images"):
        bench.frechet_distance(features, reference, reference_noise=True)
    few = bench.frechet_distance(features[:10], reference)
    assert few.interval is None
    assert np.isfinite(few.value)
    difference = bench.frechet_difference(features[:10], features[10:20], reference)
    assert difference.interval is None
    assert np.isfinite(difference.value)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


def content(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


GOOD: Mapping[str, Any] = {"mu": np.zeros(3), "sigma": np.eye(3)}
NONSENSE = {
    "empty": b"",
    "a pickle": pickle.dumps(Evil()),
    "pickled members": content(mu=np.array([Evil()], object), sigma=np.eye(1)),
    "cut": content(**GOOD)[:200],
    "not an archive": b"mu, sigma",
    "an archive of something else": content(a=np.zeros(3)),
    "other shapes": content(mu=np.zeros(3), sigma=np.eye(4)),
    "no dimensions": content(mu=np.zeros(0), sigma=np.zeros((0, 0))),
    "NaN": content(mu=np.full(3, np.nan), sigma=np.eye(3)),
    "text": content(mu=np.array(["a"] * 3), sigma=np.eye(3)),
    "not symmetric": content(mu=np.zeros(3), sigma=np.triu(np.ones((3, 3)))),
    "negative variances": content(mu=np.zeros(3), sigma=-np.eye(3)),
    "features of one image": content(feats=np.zeros((1, 3))),
}


@pytest.mark.parametrize("bad", NONSENSE.values(), ids=NONSENSE)
def test_damaged_and_pickled_files_are_refused(tmp_path: Path, bad: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.npz").write_bytes(bad)
    with pytest.raises(BenchError, match=r"cannot be read as statistics") as refused:
        bench.read_statistics(tmp_path / "s.npz")
    assert "\n" not in str(refused.value)
    assert "executed" not in capsys.readouterr().out


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    whole = content(mu=np.arange(3.0), sigma=np.eye(3))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert len(archive.namelist()) == 2
    place = whole.index(np.arange(3.0).tobytes())
    (tmp_path / "s.npz").write_bytes(whole[: place + 9] + b"\x01" + whole[place + 10 :])
    with pytest.raises(BenchError, match="cannot be read as statistics"):
        bench.read_statistics(tmp_path / "s.npz")


@pytest.mark.parametrize("place", ["nowhere.npz", ""])
def test_a_file_that_is_not_there_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(BenchError):
        bench.read_statistics(tmp_path / place)
    with pytest.raises(BenchError, match=r"ends in \.npz"):
        bench.write_statistics(tmp_path / "x.txt", draw(5))


SCORES = "scores=[fid,clip_score]"


def test_a_run_is_scored_by_statistics_of_another_run(
    overrides: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *overrides("scores=[fid,kid,clip_score]")]) == 0
    bench.write_statistics(tmp_path / "own.npz", tmp_path / "run")
    given = f"reference.source={tmp_path}/own.npz"
    assert main(["run", *overrides(SCORES, given, f"results={tmp_path}/second")]) == 0
    assert main(["report", f"results={tmp_path}/second"]) == 0, "with what is stored alone"
    first, second = (bench.load(tmp_path / name) for name in ("run", "second"))
    ours, theirs = (
        frame[frame["score"] == "fid_mini_n6"].set_index(["method", "steps", "eta"])["value"]
        for frame in (first, second)
    )
    pd.testing.assert_series_equal(ours, theirs, rtol=1e-9)
    assert "the statistics in" in (tmp_path / "second" / "report.html").read_text()
    capsys.readouterr()

    def refusal(*more: str) -> str:
        assert main(["run", *overrides(given, f"results={tmp_path}/third", *more)]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        assert not (tmp_path / "third").exists()
        return line

    said = refusal("scores=[fid,kid,precision]")
    assert "kid@mini, precision@mini take the features of reference images" in said
    again = f"extractors.other.source={tmp_path}/other"
    shutil.copytree(Path(overrides()[4].partition("=")[2]), tmp_path / "other")
    (tmp_path / "other" / "note.txt").write_text("another hash")
    assert "statistics of one extractor" in refusal("scores=[fid@mini,fid@other]", f"+{again}")
    assert "with the identity" in refusal("scores=[fid@other]", f"+{again}")
    as_clean_fid(tmp_path / "own.npz", draw(900))
    assert "has 6 dimensions, and the extractor mini has 64" in refusal(SCORES)
    given = f"reference.source={as_clean_fid(tmp_path / 'faces_clean_custom_na.npz', draw(900, 64))}"
    assert "clean-fid" in refusal(SCORES)
    (tmp_path / "cut.npz").write_bytes(b"PK")
    given = f"reference.source={tmp_path}/cut.npz"
    assert "cannot be read as statistics" in refusal(SCORES)
    assert main(["doctor", *overrides(given, SCORES)]) == 1
    assert "cannot be read as statistics" in capsys.readouterr().out


def test_a_runs_statistics_need_an_extractor_where_there_are_several(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    store.save_reference("r", draw(20))
    store.save_run(
        make_run(features={"a": "1", "b": "2"}, references={"a": "r", "b": "r2"}, protocols={"a": {"size": "3"}})
    )
    with pytest.raises(BenchError, match="by a, b; name one"):
        bench.write_statistics(tmp_path / "s.npz", tmp_path / "run")
    with pytest.raises(BenchError, match="no reference features by b"):
        bench.write_statistics(tmp_path / "s.npz", tmp_path / "run", extractor="b")
    bench.write_statistics(tmp_path / "s.npz", str(tmp_path / "run"), extractor="a")
    found = read_statistics_file(tmp_path / "s.npz")
    assert (found.count, found.extractor, found.protocol) == (20, "1", {"size": "3"})
