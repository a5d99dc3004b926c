"""Published numbers are compared with the cells that measured the same, with the differences named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_report import store

from bench.analysis.published import Beside, Published, load_published, load_spreads, set_beside
from bench.analysis.scoring import ScoredCell, ScoredRun
from bench.report.published import beside_table, draw_beside
from bench.report.write import write_report
from bench.store.store import Store

__all__ = ["store"]
DECISIVE = ("extractor", "prompts", "η")
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
    assert {(n.method, n.eta) for n in numbers if n.eta is not None} == {("tcd", 0.2)}
    assert {n.source.split(",")[0] for n in numbers if n.eta is not None} == {"arXiv 2402.19159"}, "the paper's default"
    assert {n.rounding for n in numbers if n.metric == "image_reward"} == {0.005}


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


ALIKE = replace(NUMBER, images=40, extractor="mini", prompts="world", eta=0.0, guidance=0.0, pixels=8)


def judged(store: Store, scored: list[ScoredCell], **changes: object) -> Beside:
    """A number that is published of the first cell in the same protocol, with changes."""
    value = scored[0].estimates["clip_score@mini"].value
    number = replace(ALIKE, **{"steps": scored[0].record.cell.steps, "value": value, **changes})
    return set_beside(store.run(), scored[:1], [number])[0]


def test_a_number_within_the_error_of_both_samples_is_reproduced(store: Store, scored: list[ScoredCell]) -> None:
    estimate = scored[0].estimates["clip_score@mini"]
    joint = 1.96 * estimate.standard_error * 2**0.5 + 0.002 * estimate.value
    for apart, verdict in ((0.0, "reproduced"), (0.98 * joint, "reproduced"), (1.05 * joint, "not comparable")):
        assert judged(store, scored, value=estimate.value + apart).verdict == verdict
    fewer = judged(store, scored, value=estimate.value + 1.05 * joint, images=10)
    assert "images" in fewer.differences[0]
    assert fewer.verdict == "reproduced", "their sample is smaller, so its error is larger"


def test_a_number_beyond_what_tools_differ_by_is_different(store: Store, scored: list[ScoredCell]) -> None:
    estimate = scored[0].estimates["clip_score@mini"]
    between = judged(store, scored, value=estimate.value * 1.04)
    assert between.verdict == "not comparable"
    assert "as far as tools differ for one model (MLPerf" in between.reason
    assert judged(store, scored, value=estimate.value * 1.2).verdict == "different"
    unknown = replace(scored[0], estimates={"aesthetic_score": estimate})
    number = replace(ALIKE, metric="aesthetic_score", extractor="", steps=2, value=estimate.value * 1.04)
    assert set_beside(store.run(), [unknown], [number])[0].verdict == "different", "no spread is known"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"eta": None}, "η 0; theirs not stated"),
        ({"pixels": 16}, "8×8 pixels; theirs 16×16"),
        ({"extractor": "ViT-B/32"}, "extractor mini; theirs ViT-B/32"),
        ({"extractor": ""}, "extractor mini; theirs not stated"),
        ({"prompts": "COCO val2014"}, "prompts world; theirs COCO val2014"),
    ],
)
def test_numbers_of_other_protocols_are_not_comparable(
    store: Store, scored: list[ScoredCell], changes: dict[str, object], reason: str
) -> None:
    pair = judged(store, scored, **changes)
    assert (pair.verdict, pair.reason) == ("not comparable", reason)
    assert judged(store, scored, guidance=None, pixels=None, prompts="").verdict == "reproduced"


def test_a_frechet_distance_needs_the_same_number_of_images_and_an_interval(
    store: Store, scored: list[ScoredCell]
) -> None:
    clip = scored[0].estimates["clip_score@mini"]
    fid = replace(scored[0], estimates={"fid@mini": clip})
    number = replace(ALIKE, metric="fid", steps=2, value=clip.value)
    assert set_beside(store.run(), [fid], [number])[0].verdict == "reproduced"
    (pair,) = set_beside(store.run(), [fid], [replace(number, images=5000)])
    assert (pair.verdict, pair.reason) == ("not comparable", "40 images; theirs 5,000")
    assert any("reference 100 images of world" in difference for difference in pair.differences)
    few = replace(fid, estimates={"fid@mini": replace(clip, problem="too few images")})
    assert set_beside(store.run(), [few], [number])[0].reason == "no interval: too few images"


def test_coco_is_recognised_by_the_name_of_its_captions(store: Store, scored: list[ScoredCell]) -> None:
    run = store.run()
    captions = {**run.settings, "prompts": {"source": "coco/annotations/captions_val2014.json"}}
    (pair,) = set_beside(replace(run, settings=captions), scored[:1], [replace(ALIKE, steps=2, prompts="COCO val2014")])
    assert "prompts" not in "; ".join(pair.differences)


def test_known_spreads_have_sources() -> None:
    spreads = load_spreads()
    assert {"fid", "clip_score", "image_reward", "pick_score"} <= spreads.keys()
    assert all(spread.source and spread.one_protocol <= spread.between_tools for spread in spreads.values())
    low, high = 23.01085758, 23.95007626
    assert spreads["fid"].of((low + high) / 2, 1.0)[0] == pytest.approx((high - low) / 2, rel=1e-6)
    assert spreads["image_reward"].of(68.49, 100.0)[1] == pytest.approx(4.8)


def test_the_table_and_the_plot_show_both(store: Store, scored: list[ScoredCell]) -> None:
    pairs = set_beside(store.run(), scored, [NUMBER])
    row = beside_table(store.run(), pairs).rows[0]
    assert row[6] == "31.2"
    assert "±" in row[7]
    assert row[9:11] == (
        "not comparable",
        "; ".join(d for d in pairs[0].differences if d.partition(" ")[0] in DECISIVE),
    )
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
