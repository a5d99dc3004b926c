"""Trackers receive everything; none can stop a run."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from many_records import write

from bench import trackers
from bench.experiment.trackers import MLflow, TensorBoard
from bench.records.errors import BenchError
from bench.report.data_frame import load_scores
from bench.store.store import Store
from bench.trackers import Point, Trackers


class Book:
    """A tracker that records its input, or fails."""

    def __init__(self, choice: object, run: str, settings: dict[str, str]) -> None:
        self.run, self.settings, self.fails = run, settings, False
        self.series: list[Point] = []
        self.names: list[str] = []
        self.closed = False
        books.append(self)

    def points(self, points: Sequence[Point]) -> None:
        if self.fails:
            raise ConnectionError("no network")
        self.series += points

    def files(self, paths: Sequence[Path]) -> None:
        self.names += [path.name for path in paths if path.stat().st_size]

    def close(self) -> None:
        self.closed = True


books: list[Book] = []


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Trackers:
    books.clear()
    monkeypatch.setitem(trackers.KINDS, "tensorboard", Book)
    monkeypatch.setattr(trackers, "find_spec", lambda _: True)
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789abcdefghij")
    settings = {"prompts": {"source": "s3://me:hf_0123456789abcdefghij@host/x"}, "seed": 0}
    return Trackers({"board": TensorBoard(), "other": TensorBoard()}, "mini", settings)


def test_cells_scores_and_the_report_reach_every_tracker(told: Trackers, tmp_path: Path) -> None:
    write(tmp_path, 30)
    store = Store(tmp_path)
    store.write_bytes("report.html", b"page")
    store.write_bytes("scores.csv", load_scores(tmp_path).to_csv(index=False).encode())
    records = list(store.records())
    told.cell(records[0])
    told.end(store)
    for book in books:
        assert book.run == "mini"
        assert book.settings["seed"] == "0"
        assert "hf_0123456789" not in book.settings["prompts.source"]
        assert book.series[0].series.startswith("latency_s_per_image/model0-m")
        assert {point.series.partition("/")[0] for point in book.series[2:]} == {"fid_mini_n64", "clip_score_mini_n64"}
        assert {point.steps for point in book.series[2:]} == {2, 4, 6}
        assert book.names == ["report.html", "scores.csv"]
        assert book.closed
    assert len(books) == 2


def test_a_tracker_that_fails_is_left_behind(
    told: Trackers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, 10)
    store = Store(tmp_path)
    record = next(iter(store.records()))
    told.cell(record)
    books[0].fails = True
    told.cell(record)
    told.end(store)
    assert "tracker=board failed (no network); the run goes on without it" in capsys.readouterr().err
    assert books[1].closed
    assert not books[0].closed


def test_a_missing_library_is_named_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    with pytest.raises(BenchError, match=r"tracker=flow needs the package mlflow: pip install tcd-bench\[mlflow\]"):
        Trackers({"flow": MLflow()}, "mini", {})


def test_tensorboard_reads_back_what_was_written(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    writer = trackers.ToTensorBoard(TensorBoard(directory=str(tmp_path)), "mini", {"seed": "0"})
    writer.points([Point("fid/mini-tcd", 4, 1.5), Point("fid/mini-tcd", 8, 1.25)])
    writer.close()
    events = accumulator.EventAccumulator(str(tmp_path / "mini"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("fid/mini-tcd")] == [(4, 1.5), (8, 1.25)]
