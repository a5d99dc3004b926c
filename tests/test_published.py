"""Published numbers are compared with the cells that measured the same, with the differences named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_report import store

from bench.analysis.published import Published, load_published, set_beside
from bench.analysis.scoring import ScoredCell, ScoredRun
from bench.report.published import beside_table, draw_beside
from bench.report.write import write_report
from bench.store.store import Store

__all__ = ["store"]
NUMBER = Published("mini", "tcd", 4, "clip_score", 31.2, 5000, "COCO val2014", "ViT-B/32", "a paper", "primary", "")


def test_every_published_number_is_read_with_its_source() -> None:
    numbers = load_published()
    assert len(numbers) > 50
    assert all(number.source and number.trust in ("primary", "secondary") for number in numbers)
    found = {(n.model, n.method, n.steps, n.metric): n.value for n in numbers if "table" in n.source}
    assert found["sdxl", "euler", 4, "fid"] == 44.31


@pytest.fixture
def scored(store: Store) -> list[ScoredCell]:
    return ScoredRun.load(store).cells


def test_only_the_same_model_method_steps_and_score_are_compared(store: Store, scored: list[ScoredCell]) -> None:
    run = store.run()
    pairs = set_beside(run, scored, [NUMBER])
    assert {pair.cell.record.cell.eta for pair in pairs} == {0.0, 1.0}
    for change in ({"model": "sdxl"}, {"method": "lcm"}, {"steps": 5}, {"metric": "pick_score"}):
        assert set_beside(run, scored, [replace(NUMBER, **change)]) == []


@pytest.mark.parametrize(("stated", "etas"), [({"eta": 0.0}, [0.0]), ({"eta": 0.3}, []), ({"guidance": 6.0}, [])])
def test_only_comparable_values_are_compared(
    store: Store, scored: list[ScoredCell], stated: dict[str, float], etas: list[float]
) -> None:
    pairs = set_beside(store.run(), scored, [replace(NUMBER, **stated)])
    assert [pair.cell.record.cell.eta for pair in pairs] == etas


def test_statements_of_sources_are_read() -> None:
    numbers = load_published()
    assert {n.guidance for n in numbers if "guidance" in n.note} == {6.0}
    assert {n.pixels for n in numbers if n.model == "sd15"} == {512}
    assert {n.eta for n in numbers} == {None}, "no source states it for its tables"


def test_measured_cells_of_several_etas_are_distinguished(store: Store, scored: list[ScoredCell]) -> None:
    pairs = set_beside(store.run(), scored, [NUMBER])
    legend = [text.get_text() for text in draw_beside(store.run(), pairs).legends[0].get_texts()]
    assert sum("measured" in text for text in legend) == 2
    rows = beside_table(store.run(), pairs).rows
    assert {row[2] for row in rows} == {"0", "1"}


@pytest.mark.parametrize(
    ("ours", "theirs", "factor"),
    [("image_reward", "image_reward_x100", 100), ("pick_score", "pick_score_by_100", 0.01)],
)
def test_a_score_published_at_another_scale_is_compared_at_that_scale(
    store: Store, scored: list[ScoredCell], ours: str, theirs: str, factor: float
) -> None:
    estimate, cell = scored[0].estimates["clip_score@mini"], scored[0].record.cell
    number = replace(NUMBER, metric=theirs, value=68.49, extractor="ImageReward", images=None, steps=cell.steps)
    (pair,) = set_beside(store.run(), [replace(scored[0], estimates={ours: estimate})], [number])
    assert pair.measured.value == pytest.approx(factor * estimate.value)
    assert ("extractor" in "; ".join(pair.differences)) == (ours == "pick_score")
    assert beside_table(store.run(), [pair]).rows[0][6] == "68.49"
    assert {n.metric for n in load_published() if n.metric.startswith("pick")} == {"pick_score", "pick_score_by_100"}


def test_each_difference_of_protocol_is_named(store: Store, scored: list[ScoredCell]) -> None:
    said = "; ".join(set_beside(store.run(), scored, [NUMBER])[0].differences)
    for words in ("40 images; theirs 5,000", "extractor mini; theirs ViT-B/32", "prompts world; theirs COCO val2014"):
        assert words in said
    assert "8×8 pixels; theirs not stated" in said
    assert "η 0; theirs not stated" in said
    assert "guidance 0; theirs not stated" in said
    alike = replace(NUMBER, images=40, extractor="mini", prompts="world", eta=0.0, guidance=0.0, pixels=8)
    assert "theirs" not in "; ".join(set_beside(store.run(), scored, [alike])[0].differences)


def test_the_table_and_the_plot_show_both(store: Store, scored: list[ScoredCell]) -> None:
    pairs = set_beside(store.run(), scored, [NUMBER])
    row = beside_table(store.run(), pairs).rows[0]
    assert row[6] == "31.2"
    assert "±" in row[7]
    axes = draw_beside(store.run(), pairs).axes[0]
    assert 31.2 in np.concatenate([np.atleast_1d(line.get_ydata()) for line in axes.lines])


def test_the_report_shows_them_only_where_there_are_some(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import bench.report.build

    assert "Beside the published" not in Path(write_report(store)).read_text()
    monkeypatch.setattr(bench.report.build, "load_published", lambda: [NUMBER])
    (Path(store.location) / "report.html").unlink()
    page = Path(write_report(store)).read_text()
    assert "Beside the published" in page
    assert (Path(store.location) / "tables" / "published.csv").exists()
    assert (Path(store.location) / "plots" / "published.png").exists()


def test_cells_of_random_weights_are_not_compared(store: Store, scored: list[ScoredCell]) -> None:
    base = replace(scored[0].record.cell.base, weights="random-1")
    random = [replace(s, record=replace(s.record, cell=replace(s.record.cell, base=base))) for s in scored]
    assert set_beside(store.run(), random, [NUMBER]) == []


def test_published_seconds_are_compared_with_latencies_with_both_machines(
    store: Store, scored: list[ScoredCell]
) -> None:
    number = replace(NUMBER, metric="seconds_per_image", value=1.5, note="Table 2; A100")
    pairs = set_beside(store.run(), [replace(s, disturbed="somebody else") for s in scored], [number])
    assert [pair.seconds for pair in pairs] == pytest.approx([0.4, 0.4])
    assert pairs[0].measured is None
    assert "our latency was disturbed: somebody else" in pairs[0].differences
    assert any(difference.endswith("; theirs on A100") for difference in pairs[0].differences)
    (pair, _) = set_beside(store.run(), scored, [replace(number, note="")])
    assert any(difference.endswith("; theirs on hardware not stated") for difference in pair.differences)
    assert "disturbed" not in "; ".join(pair.differences)


def test_differences_in_preparation_of_images_are_named(store: Store, scored: list[ScoredCell]) -> None:
    run = replace(store.run(), protocols={"mini": {"resize": "bicubic"}})
    assert "prepared by resize bicubic" in set_beside(run, scored, [NUMBER])[0].differences
    cell = scored[0].record.cell
    wide = replace(scored[0], record=replace(scored[0].record, cell=replace(cell, base=replace(cell.base, width=16))))
    (pair,) = set_beside(run, [wide], [replace(NUMBER, steps=cell.steps, pixels=8)])
    assert "8×16 pixels; theirs 8×8" in pair.differences
