"""Latencies disturbed by load are marked, and excluded from fronts and claims."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_tables import CELL, LATENCY, RECORD, RUN

from bench.analysis.claims import judge_claims
from bench.analysis.pace import disturbed, forget_disturbed
from bench.analysis.scoring import ScoredCell
from bench.records.record import Record
from bench.records.run import Claim, Side
from bench.report.plots import plan_figures
from bench.report.table_forms import to_latex
from bench.report.tables import cost_table
from bench.report.terminal import summarise
from bench.score.estimate import mean_estimate
from bench.store.store import Store


def timed(steps: int, call_s: float, pace: float = 1.0, method: str = "tcd", calls: int = 5) -> Record:
    """A cell on a machine whose reference workload takes `pace` times 10 ms."""
    cell = replace(CELL, method=method, steps=steps)
    seconds = tuple(call_s * (1 + 0.01 * i) for i in range(calls))
    latency = replace(LATENCY, batch_size=1, call_s=seconds, workload_s=(0.01 * pace,) * calls)
    return replace(RECORD, key=cell.key, cell=cell, latency=latency)


LOADED = [timed(2, 0.02), timed(4, 0.03), timed(8, 0.25, pace=2.1), timed(16, 0.116)]


def test_a_cell_measured_on_a_slower_machine_is_found_with_the_factor() -> None:
    (reason,) = disturbed(LOADED).values()
    assert reason == "the machine took 2.1 times as long as usual for a fixed piece of work beside it"
    assert {*disturbed(LOADED)} == {LOADED[2].key}


@pytest.mark.parametrize(("pace", "found"), [(1.0, False), (1.2, False), (1.3, True), (5.0, True)])
def test_the_variation_of_idle_machines_is_not_a_disturbance(pace: float, found: bool) -> None:
    assert bool(disturbed([timed(2, 0.02), timed(4, 0.03), timed(8, 0.05, pace)])) is found


def test_up_to_three_quarters_of_the_cells_may_be_disturbed() -> None:
    cells = [timed(steps, 0.1, pace=1.0 if steps < 7 else 2.0) for steps in range(1, 21)]
    assert len(disturbed(cells)) == 14


def test_half_of_the_calls_count_and_single_ones_do_not() -> None:
    def mixed(share: int) -> Record:
        record = timed(8, 0.05, calls=10)
        assert record.latency
        paces = (0.03,) * share + (0.01,) * (10 - share)
        return replace(record, latency=replace(record.latency, workload_s=paces))

    quiet = [timed(2, 0.02), timed(4, 0.03)]
    assert not disturbed([*quiet, mixed(3)])
    assert disturbed([*quiet, mixed(6)])


def test_equal_calls_with_differing_parts_are_weak_evidence() -> None:
    record = timed(4, 0.03)
    for calls, found in (
        *(((0.1, 0.11, 0.3, 0.31), ["from 108 to 302 ms"]), ((0.1, 0.11, 0.1, 0.4, 0.1), [])),
        ((0.1, 0.2), ["ms"]),
    ):
        apart = replace(record, latency=replace(record.latency, call_s=calls, workload_s=()))
        reasons = list(disturbed([apart]).values())
        assert len(reasons) == len(found), calls
        assert all(words in reason for words, reason in zip(found, reasons, strict=True))


def test_machines_are_compared_with_themselves() -> None:
    elsewhere = [replace(timed(n, 0.1, pace=3.0), environment={"processor": "another"}) for n in (32, 64)]
    assert {*disturbed([*LOADED, *elsewhere])} == {LOADED[2].key}


def scored(records: list[Record]) -> list[ScoredCell]:
    reasons, rng = disturbed(records), np.random.default_rng(0)
    return [
        ScoredCell(r, {"clip_score@mini": mean_estimate(rng.normal(r.cell.steps, 1, 40))}, disturbed=reasons.get(r.key))
        for r in records
    ]


def test_tables_mark_them_and_say_what_to_do() -> None:
    cells = scored(LOADED)
    table = cost_table(RUN, cells)
    column = table.columns.index("call p50 ms")
    assert [row[column] for row in table.rows] == ["20.4", "30.6", "255.0*", "118.3"]
    assert "mini tcd 8 steps eta 0.3 (the machine took 2.1 times" in table.note
    assert "measure.again=true" in table.note
    assert "*" not in cost_table(RUN, [cells[0]]).note
    assert "255.0*" in to_latex(table)
    assert "255 ms*" in summarise(RUN, cells, []).to_text()


def test_plots_show_them_hollow_and_the_front_leaves_them_out() -> None:
    fast = [*LOADED[:2], timed(8, 0.021, pace=2.1), timed(16, 0.116)]
    run = replace(RUN, metrics=("clip_score@mini",))
    figures = {name: (caption, draw) for name, caption, draw in plan_figures(run, scored(fast))}
    caption, draw = figures["mini-quality-latency"]
    assert "hollow: disturbed by load" in caption
    lines = {str(line.get_label()): line for line in draw().axes[0].lines}
    assert [round(float(x), 4) for x in np.asarray(lines["Pareto front"].get_xdata())] == [0.0204, 0.0306, 0.1183]
    (hollow,) = (line for line in draw().axes[0].lines if line.get_markerfacecolor() == "white")
    assert np.asarray(hollow.get_xdata()).tolist() == pytest.approx([0.021 * 1.02])


CLAIM = Claim("c", "as fast", Side("tcd", (8,)), Side("ddim", ()), ("clip_score@mini",), "better", equal="latency")


def test_claims_at_equal_latency_do_not_take_them() -> None:
    calm, loaded = timed(8, 0.05), timed(8, 0.05, pace=2.1)
    others = [timed(2, 0.02, method="ddim"), timed(4, 0.03, method="ddim")]
    run = replace(RUN, claims=(CLAIM,))
    assert judge_claims(run, scored([calm, *others]))[0].comparisons[0].object.startswith("mini ddim 4 steps")
    (judged,) = judge_claims(run, scored([loaded, *others]))
    assert judged.verdict == "not tested"
    assert "was disturbed: the machine took 2.1 times" in judged.missing[0]
    assert "measure it again" in judged.missing[0]
    (judged,) = judge_claims(run, scored([calm, *others, timed(6, 0.09, pace=2.1, method="ddim")]))
    assert judged.verdict == "not tested", "its latency may be within the budget"
    below = [calm, others[1], timed(2, 0.04, pace=2.1, method="ddim")]
    assert judge_claims(run, scored(below))[0].comparisons, "one that is surely cheaper changes nothing"


def test_disturbed_latencies_can_be_discarded_and_measured_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for record in LOADED:
        store.commit(record)
    assert forget_disturbed(store) == [LOADED[2].cell.label]
    found = {record.cell.steps: record.latency is None for record in store.records()}
    assert found == {2: False, 4: False, 8: True, 16: False}
    assert forget_disturbed(store) == []


def test_one_faster_cell_does_not_make_others_disturbed() -> None:
    assert not disturbed([timed(2, 0.02, pace=0.7), *(timed(steps, 0.03) for steps in range(3, 12))])


def test_devices_of_one_machine_are_not_compared() -> None:
    on_gpu = [timed(steps, 0.1, pace=3.0) for steps in (32, 64)]
    on_gpu = [replace(record, cell=replace(record.cell, device="cuda")) for record in on_gpu]
    assert not disturbed([timed(2, 0.02), timed(4, 0.03), timed(8, 0.05), *on_gpu])
