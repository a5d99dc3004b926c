"""Several runs in one report: told apart by what differs, compared where they are the same, else refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from factories import CALLS, make_base, make_cell, make_failure, make_record, make_run

from bench.__main__ import main
from bench.analysis.claims import Judgement, judge_run
from bench.analysis.published import Published
from bench.records.cell import PromptSet, SchedulerSpec
from bench.records.record import Images, Latency
from bench.records.run import BEST, Claim, Side
from bench.report.joint import join_runs
from bench.score.metrics import metric_of
from bench.store.store import Store

N = 240
PROMPTS = PromptSet("world", N, "t")
GOOD, BAD = Side("tcd", (4,)), Side("ddim", (4,))
CLAIM = Claim("wins", "TCD wins", GOOD, BAD, ("fid@mini",), "better")
SHIFTS = {"tcd": 0.1, "ddim": 1.0, "lcm": 1.0, "euler": 2.0}
Make = Callable[..., Store]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that writes a run: `methods` of one seed and machine, with features of that cell alone."""

    def write(
        name: str,
        methods: tuple[str, ...] = ("tcd", "ddim"),
        seed: int = 0,
        gpu: str = "A100",
        seconds: float = 0.1,
        extractor: str = "mini",
        identity: str = "e",
        reference: str = "r",
        images: str = "s",
        metrics: tuple[str, ...] = ("fid@mini", "sharpness"),
        claims: tuple[Claim, ...] = (CLAIM,),
        failed: tuple[str, ...] = (),
        prompts: PromptSet = PROMPTS,
        scales: tuple[float, ...] = (),
        **changes: Any,
    ) -> Store:
        store, keys = Store(tmp_path / name), []
        for method in methods:
            settings = {"method": method, "seed": seed, "eta": None, **changes}
            cell = make_cell(base=make_base(height=8, width=8), scheduler=SchedulerSpec(f"x.{method}"), **settings)
            cell = replace(cell, prompts=prompts)
            keys.append(cell.key)
            environment = {"device": "cuda", "gpus": [{"name": gpu}], "processor": "Xeon"}
            if method in failed:
                store.commit(make_failure(cell, environment=environment))
                continue
            latency = Latency(1, 1, "perf_counter", (seconds,) * 3, (0.01,) * 3, (0.08,) * 3, (0.005,) * 3)
            known = {"calls": CALLS, "latency": latency, "images": Images(N, 8, 8, f"{images}{method}{seed}")}
            record = make_record(cell, environment=environment, **known)
            store.commit(record)
            rng = np.random.default_rng([seed, *method.encode()])
            features = {"image": rng.normal(SHIFTS[method], size=(N, 4)), "clip_score": rng.normal(30, 1, N)}
            store.cell(cell.key).save_features(identity, features, record.images_hash)
            store.cell(cell.key).save_features("p", {"sharpness": rng.normal(8, 1, N)}, record.images_hash)
        store.save_reference(reference, np.random.default_rng(9).normal(size=(500, 4)))
        settings = {
            **{
                "task": {"kind": "text_to_image"},
                "models": {"mini": {}},
                "methods": {m: {"guidance_scale": scales} for m in methods},
            },
            **{"extractors": {extractor: {"source": "x"}}, "reference": {"source": "world", "count": 500}},
            **{"seed": seed, "batch_size": 4, "weights": "pretrained", "prompts": {"source": "world"}},
        }
        store.save_run(
            make_run(
                name=name,
                settings=settings,
                cells=tuple(keys),
                prompts=tuple(f"prompt {i}" for i in range(N)),
                metrics=metrics,
                claims=claims,
                features={extractor: identity, "pixels": "p"},
                references={extractor: reference},
            )
        )
        return store

    return write


def report(*stores: Store) -> Path:
    """Make one report of these runs; returns its directory."""
    output = Path(stores[0].location).parent / "joint"
    assert main(["report", f"results=[{','.join(store.location for store in stores)}]", f"output={output}"]) == 0
    return output


def table(output: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(output / "tables" / f"{name}.csv", dtype=str)


def judge(*stores: Store) -> list[Judgement]:
    return judge_run(join_runs(stores[0], stores))


def refusal(capsys: pytest.CaptureFixture[str], *stores: Store | str, output: object = "joint") -> str:
    """Return the sentence with which a report of these runs is refused."""
    places = [store if isinstance(store, str) else store.location for store in stores]
    assert main(["report", f"results=[{','.join(places)}]", *([f"output={output}"] if output else [])]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.usefixtures("drawn_figures")
def test_latencies_of_two_gpus_stand_side_by_side_and_scores_once(make: Make) -> None:
    output = report(make("a", seconds=0.1), make("b", gpu="H100", seconds=0.05))
    costs = table(output, "costs")
    assert costs[["Method", "Machine", "call p50 ms"]].values.tolist() == [
        *(["tcd", "A100", "100.0"], ["ddim", "A100", "100.0"]),
        *(["tcd", "H100", "50.0"], ["ddim", "H100", "50.0"]),
    ]
    scores = table(output, "scores")
    assert list(scores["Method"]) == ["tcd", "ddim"]
    assert "Machine" not in scores
    assert not {"Run", "Seed", "Device"} & {*costs}, "they do not differ"
    assert len(table(output, "verdicts")) == 1, "the same cells are compared once"
    assert (output / "plots" / "mini-quality-latency.svg").read_text().count("H100") > 0
    assert "A100" in (output / "summary.txt").read_text()


def test_scores_csv_names_the_run_of_every_row(make: Make) -> None:
    a, b = make("a"), make("b", seed=1)
    frame = pd.read_csv(report(a, b) / "scores.csv")
    assert frame.columns[0] == "run"
    assert frame.groupby("run").size().to_dict() == {"a": 4, "b": 4}
    assert main(["report", f"results={a.location}"]) == 0
    alone = pd.read_csv(Path(a.location) / "scores.csv")
    pd.testing.assert_frame_equal(frame[frame["run"] == "a"].drop(columns="run").reset_index(drop=True), alone)


def test_seeds_are_told_apart_and_judged_apart(make: Make) -> None:
    a, b = make("a"), make("b", seed=1)
    assert list(table(report(a, b), "scores")["Seed"]) == ["0", "0", "1", "1"]
    (judged,) = judge(a, b)
    assert [(c.subject, c.object) for c in judged.comparisons] == [
        (f"mini tcd 4 steps, Seed {seed}", f"mini ddim 4 steps, Seed {seed}") for seed in (0, 1)
    ]
    assert judged.verdict == "supported"
    assert judged.missing == ()


def test_a_claim_compares_cells_of_two_runs_of_one_setting(make: Make) -> None:
    a, b = make("a", methods=("tcd",)), make("b", methods=("ddim",), claims=())
    together = make("c")
    (joint,), (one,) = judge(a, b), judge_run(join_runs(together, [together]))
    assert joint.comparisons == one.comparisons
    assert joint.verdict == "supported"


def test_a_claim_is_not_judged_where_no_run_makes_it(make: Make) -> None:
    lcm = Claim("lcm", "LCM wins", Side("lcm", (4,)), Side("euler", (4,)), ("fid@mini",), "better")
    judged = judge(make("a"), make("b", seed=1, methods=("lcm", "euler"), claims=(lcm,)))
    assert [(j.claim.name, j.verdict, len(j.comparisons), j.missing) for j in judged] == [
        ("wins", "supported", 1, ()),
        ("lcm", "supported", 1, ()),
    ]


@pytest.mark.parametrize("change", [{"identity": "e2"}, {"reference": "r2"}], ids=["extractor", "reference"])
def test_scores_of_different_protocols_are_never_compared(make: Make, change: dict[str, str]) -> None:
    a, b = make("a", methods=("tcd",)), make("b", methods=("ddim",), **change)
    for judged in judge(a, b):
        assert judged.comparisons == ()
        assert "fid@mini-" in judged.missing[0]
    scores = table(report(a, b), "scores")
    heads = [head for head in scores if head.startswith("fid_mini-") and "without" not in head]
    assert len(heads) == 2
    values = scores[heads].values.tolist()
    assert values[0][1] == values[1][0] == "–"
    assert "sharpness_pixels_n240 ↑" in scores, "its protocol is the same"


def test_scores_of_networks_with_different_weights_have_a_column_each(make: Make) -> None:
    stores = [make("a", claims=()), make("b", gpu="H100", claims=())]
    for weights, store in zip(("w1", "w2"), stores, strict=True):
        for record in store.records():
            rows = {"image_complexity": np.random.default_rng(1).random(N)}
            store.cell(record.key).save_features(weights, rows, record.images_hash)
        run = store.run()
        store.save_run(
            replace(run, metrics=("image_complexity",), features={**run.features, "image_complexity": weights})
        )
    output = report(*stores)
    scores = table(output, "scores")
    assert len([head for head in scores if head.startswith("image_complexity_icnet-")]) == 2
    assert "(w1)" in (output / "tables" / "scores.md").read_text()
    frame = pd.read_csv(output / "scores.csv")
    assert frame.groupby("run")["extractor"].unique().map(list).to_dict() == {"a": ["w1"], "b": ["w2"]}


def test_published_numbers_stand_beside_each_run(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    number = Published("mini", "tcd", 4, "seconds_per_image", 0.1, None, "", "", "a paper", "primary", "; on a GPU")
    monkeypatch.setattr("bench.report.build.load_published", lambda: [number])
    beside = table(report(make("a"), make("b", gpu="H100", seconds=0.05)), "published")
    assert list(beside["measured"]) == ["0.1", "0.05"]
    assert [text.partition(";")[0] for text in beside["what differs from their protocol"]] == ["run a", "run b"]


def test_runs_with_other_extractors_share_their_cells(make: Make) -> None:
    other = replace(CLAIM, metrics=("fid@other",))
    a = make("a")
    b = make("b", extractor="other", identity="e2", reference="r2", metrics=("fid@other",), claims=(other,))
    scores = table(report(a, b), "scores")
    assert list(scores["Method"]) == ["tcd", "ddim"], "one row with the scores of both"
    assert not (scores == "–").drop(columns="η").any(axis=None)
    assert [judged.verdict for judged in judge(a, b)] == ["supported", "supported"]


def test_the_fallback_of_a_shared_cell_comes_from_the_run_that_has_its_features(make: Make) -> None:
    a = make("a", metrics=("sharpness",), claims=(), extractor="none", identity="x", reference="r3")
    joined = join_runs(a, [a, make("b")])
    (tcd, _) = joined.images
    fallback = tcd.fallback("fid@mini")
    assert fallback is not None
    assert np.isfinite(fallback.value)
    assert tcd.source is not None
    halves = tcd.source.estimate_parts(tcd.record, metric_of("fid@mini"), np.split(np.arange(N), 2))
    assert all(np.isfinite(half.value) for half in halves)


def test_the_same_cell_with_other_images_is_a_contradiction(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, c = make("a"), make("b", seed=1), make("c", images="other")
    said = refusal(capsys, a, b, c, output=Path(a.location).parent / "joint")
    assert "mini tcd 4 steps" in said
    key = next(iter(a.run().cells))
    assert f"cell {key}" in said
    assert a.location in said
    assert c.location in said
    assert b.location not in said


def test_other_images_of_another_gpu_are_told_apart_and_not_mixed(make: Make) -> None:
    a, b = make("a"), make("b", gpu="H100", images="other")
    (judged,) = judge(a, b)
    assert [c.subject for c in judged.comparisons] == ["mini tcd 4 steps, A100", "mini tcd 4 steps, H100"]
    assert list(table(report(a, b), "scores")["Machine"]) == ["A100", "A100", "H100", "H100"]


def test_runs_with_nothing_else_to_tell_them_apart_are_named(make: Make) -> None:
    output = report(make("a"), make("b", seconds=0.2))
    assert list(table(output, "costs")["Run"]) == ["a", "a", "b", "b"]
    assert "Run" not in table(output, "scores")


def test_a_claim_at_equal_latency_compares_within_a_machine(make: Make) -> None:
    claim = replace(CLAIM, object=Side("ddim", ()), equal="latency")
    (judged,) = judge(make("a", claims=(claim,)), make("b", gpu="H100", seconds=0.05, claims=(claim,)))
    assert [c.subject for c in judged.comparisons] == ["mini tcd 4 steps, A100", "mini tcd 4 steps, H100"]


def test_a_failed_cell_takes_the_scores_of_the_run_that_has_it(make: Make) -> None:
    a, b = make("a", failed=("tcd",)), make("b")
    (judged,) = judge(a, b)
    assert judged.verdict == "supported"
    output = report(a, b)
    assert list(table(output, "scores")["Method"]) == ["tcd", "ddim"]
    assert "–" in table(output, "costs")["call p50 ms"].to_list()
    assert (output / "summary.txt").read_text().count("0.05 ±") == 1, "the failed cell has no score"
    assert "failed: mini tcd 4 steps, Run a" in (output / "report.html").read_text()


def test_versions_and_numbers_of_prompts_are_columns(make: Make) -> None:
    a = make("a", versions={"torch": "2.8"})
    b = make("b", versions={"torch": "2.9"}, prompts=PromptSet("world", N + 1, "u"))
    scores = table(report(a, b), "scores")
    assert list(scores["Torch"]) == ["2.8", "2.8", "2.9", "2.9"]
    assert list(scores["Prompts count"]) == ["240", "240", "241", "241"]
    assert "Prompts text hash" not in scores, "their number tells them apart"


def test_different_claims_of_one_name_are_both_judged(make: Make) -> None:
    a, b = make("a"), make("b", claims=(replace(CLAIM, metrics=("sharpness",)),))
    assert [judged.claim.name for judged in judge(a, b)] == ["wins (a)", "wins (b)"]


def test_the_best_guidance_is_sought_among_the_scales_of_all_runs(make: Make) -> None:
    best = replace(CLAIM, object=Side("ddim", (4,), None, BEST), metrics=("sharpness",))
    a = make("a", claims=(best,))
    b = make("b", methods=("ddim",), claims=(), guidance_scale=3.0, scales=(3.0,))
    (judged,) = judge(a, b)
    assert judged.missing == ()
    assert "guidance" in str(judged.comparisons[0].choices)
    c = make("c", methods=("ddim",), claims=(), guidance_scale=3.0, scales=(3.0, 5.0))
    (judged,) = judge(a, c)
    assert "not run at guidance 5" in judged.missing[0]


def test_a_joint_report_leaves_the_runs_as_they_were(make: Make) -> None:
    stores = [make("a"), make("b", seed=1)]

    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for s in stores for path in Path(s.location).rglob("*") if path.is_file()}

    before = files()
    output = report(*stores)
    assert files() == before
    page = (output / "report.html").stat().st_mtime_ns
    assert (report(*stores) / "report.html").stat().st_mtime_ns == page, "it is current"
    stores[0].save_run(replace(stores[0].run(), labels={"tcd": "TCD"}))
    assert (report(*stores) / "report.html").stat().st_mtime_ns != page


def test_what_cannot_be_joined_is_refused_in_one_sentence(
    make: Make, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    a, b = make("a"), make("b", seed=1)
    assert "output=" in refusal(capsys, a, b, output=None)
    assert "is in the run" in refusal(capsys, a, b, output=f"{a.location}/joint")
    assert "is in the run" in refusal(capsys, a, b, output=b.location)
    assert "occurs twice" in refusal(capsys, a, b, f"{a.location}/../a", output=tmp_path / "joint")
    assert "holds no run" in refusal(capsys, a, str(tmp_path / "nothing"), output=tmp_path / "joint")
    assert "holds a run" in refusal(capsys, a, b, output=make("c").location)
    assert main(["report", f"results={a.location}", f"output={tmp_path}/joint"]) == 2
    assert "leave output out" in capsys.readouterr().err
    assert not (tmp_path / "joint").exists()
    old = replace(b.run(), schema=1)
    b.save_run(old)
    said = refusal(capsys, a, b, output=tmp_path / "joint")
    assert "schema version 1" in said
    assert b.location in said
    assert not [*(tmp_path / "joint").rglob("*")]
