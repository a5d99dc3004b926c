"""Cells that differ in one field never share a row, line, panel or value of anything shown."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from test_tables import CELL, ESTIMATES, RECORD, RUN

from bench.analysis.scoring import ScoredCell
from bench.records.cell import Adapter, Base, Cell, Part, PromptSet, SchedulerSpec, Task
from bench.report.data_frame import scores_to_frame
from bench.report.identity import further_traits, traits
from bench.report.plots import plan_figures
from bench.report.series import eta_panels, to_series
from bench.report.table_forms import to_csv, to_latex, to_markdown
from bench.report.tables import cost_table, score_table
from bench.report.terminal import summarise

TCD = Adapter("tcd", "h1t/TCD", "a.safetensors", "w1")
PART = Part("controlnet", "x", "w1")
START = replace(
    CELL, task=Task("inpainting", {"strength": 0.99}, "i1"), adapters=(TCD,), base=replace(CELL.base, parts=(PART,))
)
CHANGES: Mapping[str, Any] = {
    "base name": {"base": {"name": "mini2"}},
    "weights": {"base": {"weights": "w2"}},
    "pipeline": {"base": {"pipeline": "AnotherPipeline"}},
    "dtype": {"base": {"dtype": "float16"}},
    "height": {"base": {"height": 128}},
    "width": {"base": {"width": 128}},
    "noise schedule": {"base": {"noise_schedule": {"beta_start": 0.1}}},
    "checkpoint schedule": {"base": {"checkpoint_schedule": {"beta_start": 0.1}}},
    "variant": {"base": {"variant": "fp16"}},
    "channels last": {"base": {"channels_last": True}},
    "parts": {"base": {"parts": (replace(PART, weights="w2"),)}},
    "memory_options": {"base": {"memory_options": {"compile": True}}},
    "kind of guidance": {"base": {"guidance": "true_cfg"}},
    "arguments": {"base": {"arguments": {"max_sequence_length": 256}}},
    "kind of task": {"task": {"kind": "canny"}},
    "strength": {"task": {"settings": {"strength": 0.5}}},
    "strength, a little": {"task": {"settings": {"strength": 0.9900000001}}},
    "inputs": {"task": {"inputs": "i2"}},
    "method": {"method": "lcm"},
    "scheduler": {"scheduler": SchedulerSpec("diffusers.LCMScheduler")},
    "setting of the scheduler": {"scheduler": SchedulerSpec("diffusers.TCDScheduler", {"rescale": True})},
    "scale of an adapter": {"adapters": (replace(TCD, scale=0.7),)},
    "weights of an adapter": {"adapters": (replace(TCD, weights="w2"),)},
    "no adapter": {"adapters": ()},
    "fused": {"fused": True},
    "noise": {"noise": "device"},
    "steps": {"steps": 5},
    "eta": {"eta": 1.0},
    "eta, a little": {"eta": 0.3000001},
    "no eta": {"eta": None},
    "guidance": {"guidance_scale": 3.0},
    "guidance, a little": {"guidance_scale": 1e-9},
    "prompts": {"prompts": PromptSet("world", 4, "t2")},
    "seed": {"seed": 1},
    "batch size": {"batch_size": 8},
    "device": {"device": "cuda"},
    "versions": {"versions": {"torch": "2.9"}},
}

NOT_IN_SCORES = {
    *("prompts", "seed", "batch_size", "versions", "weights", "pipeline", "noise_schedule", "checkpoint_schedule"),
    *("variant", "channels_last", "parts", "memory_options", "guidance", "arguments", "noise"),
}
"""Fields that scores.csv tells by the cell's key alone."""


def changed(cell: Cell, change: Mapping[str, Any]) -> Cell:
    """Return a cell with one field changed, of itself or of a part."""
    values = {
        name: replace(getattr(cell, name), **value) if name in ("base", "task") else value
        for name, value in change.items()
    }
    return replace(cell, **values)


def scored(cell: Cell, shift: float = 0.0) -> ScoredCell:
    estimates = {name: replace(e, value=e.value + shift) for name, e in ESTIMATES.items()}
    return ScoredCell(replace(RECORD, key=cell.key, cell=cell), estimates)


def test_every_field_of_a_cell_is_tried() -> None:
    tried = {name for change in CHANGES.values() for name in change}
    assert tried | {"base"} == set(Cell.__dataclass_fields__)
    of_base = {name for change in CHANGES.values() for name in change.get("base", {})}
    assert set(Base.__dataclass_fields__) - of_base == {"source", "revision", "config"}, "names, not content"


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_cells_that_differ_in_one_field_have_separate_rows_and_lines(change: Mapping[str, Any]) -> None:
    cells = [scored(START), scored(changed(START, change))]
    assert cells[0].record.cell.key != cells[1].record.cell.key or "name" in str(change) or "method" in change
    count, base = len(traits(RUN, cells)) + 1, change.get("base", {})
    for table in (score_table(RUN, cells), cost_table(RUN, cells)):
        assert len(set(table.columns)) == len(table.columns)
        assert table.rows[0][: count - 1] != table.rows[1][: count - 1], table.columns
        for write in (to_csv, to_markdown, to_latex):
            lines = write(table).splitlines()
            assert len(set(lines) - {""}) == len([line for line in lines if line])
    shown = summarise(replace(RUN, cells=("a", "b")), cells, []).to_text().splitlines()
    assert len({line.partition(" 12.35")[0] for line in shown}) == 3
    frame = scores_to_frame(RUN, cells)
    assert not frame.duplicated(subset=["key", "base", "method", "score"]).any()
    assert frame.duplicated(subset=[*frame.columns.difference(["key"])]).any() == bool(NOT_IN_SCORES & {*change, *base})
    labels = {
        (s.record.cell.base.name, line.label, s.record.cell.steps) for line in to_series(RUN, cells) for s in line.cells
    }
    assert len(labels) == 2


BESIDE_ETA = {name: change for name, change in CHANGES.items() if "eta" not in change}


@pytest.mark.parametrize("change", BESIDE_ETA.values(), ids=BESIDE_ETA)
def test_no_value_of_an_eta_map_overwrites_another(change: Mapping[str, Any]) -> None:
    pair = [START, changed(START, change)]
    cells = [scored(replace(cell, eta=eta), shift) for shift, cell in enumerate(pair) for eta in (0.0, 1.0)]
    shown = []
    for base in dict.fromkeys(cell.base.name for cell in pair):
        for panel in eta_panels(RUN, [s for s in cells if s.record.cell.base.name == base]):
            places = [(s.record.cell.eta, s.record.cell.steps) for s in panel.cells]
            assert len(set(places)) == len(places)
            shown.append((base, panel.label))
    assert len(set(shown)) == len(shown)
    maps = [draw() for name, _, draw in plan_figures(RUN, cells) if name.endswith("eta-steps")]
    written = [text.get_text() for figure in maps for axes in figure.axes for text in axes.texts]
    assert written.count("12.35") == 2
    assert written.count("13.35") == 2


def test_a_difference_is_a_column_only_where_it_distinguishes_cells() -> None:
    sdxl = replace(START, base=replace(START.base, name="sdxl", dtype="float16", weights="x"))
    assert further_traits([scored(START), scored(sdxl)]) == [], "the base says it"
    half = changed(START, {"base": {"dtype": "float16"}})
    assert [trait.head for trait in further_traits([*map(scored, (START, half, sdxl))])] == ["dtype"]
    assert [trait.of(scored(half)) for trait in further_traits([scored(START), scored(half)])] == ["float16"]


def test_the_columns_that_are_always_there_are_not_repeated() -> None:
    for change in ({"steps": 5}, {"eta": None}, {"guidance_scale": 3.0}, {"method": "lcm"}):
        assert further_traits([scored(START), scored(replace(START, **change))]) == [], change


def test_a_missing_eta_is_not_zero_and_random_weights_are_named() -> None:
    random = replace(CELL, base=replace(CELL.base, weights="random-1"))
    shown = {trait.head: trait.of for trait in traits(RUN, [])}
    assert [shown["η"](scored(replace(CELL, eta=eta))) for eta in (None, 0.0)] == ["–", "0"]
    assert [shown["Base"](scored(cell)) for cell in (CELL, random)] == ["mini", "mini (cost only)"]


def test_long_values_with_a_common_prefix_are_distinguished() -> None:
    cells = [scored(changed(START, {"task": {"settings": {"strength": "x" * 50 + end}}})) for end in "ab"]
    (trait,) = further_traits(cells)
    first, second = map(trait.of, cells)
    assert first != second
    assert first[:24] == second[:24] == "x" * 24


def test_parts_are_named_by_their_role() -> None:
    parts = [(Part("controlnet", "x", "w1"), Part("vae", "y", weights)) for weights in ("w1", "w2")]
    cells = [scored(replace(START, base=replace(START.base, parts=pair))) for pair in parts]
    assert [trait.head for trait in further_traits(cells)] == ["parts vae weights"]
