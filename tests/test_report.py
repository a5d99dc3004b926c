"""The page: self-contained, escaped, regenerated only when its inputs changed."""

import base64
import io
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from factories import make_base, make_cell, make_record, make_run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import norm
from test_tables import compile_latex

from bench.analysis.claims import Comparison, Judgement, judge_claims
from bench.analysis.scoring import ScoredRun
from bench.execute import kept_inputs
from bench.execute.kept_inputs import has_inputs, keep_inputs
from bench.generate.task_inputs import Inputs
from bench.pictures import hash_image, input_hashes, input_picture, save_inputs, save_pictures, to_png
from bench.records.cell import SchedulerSpec, Task
from bench.records.errors import BenchError, Damaged
from bench.records.record import Calls, Failure, Images, Latency, Memory, Record
from bench.records.run import Claim, Side
from bench.report.axes import PAGE_INCHES, legend_below, log_axis
from bench.report.embedded_images import Picture, embedded, open_picture, to_gif
from bench.report.image_grid import PromptGrid, draw_grid, films, prompt_grids
from bench.report.per_prompt import CURVE_HEIGHT, prompt_differences
from bench.report.plots import STYLE
from bench.report.power import draw_power, power, power_of_claim
from bench.report.write import write_report
from bench.store.store import Store

PROMPTS = ("<script>alert('x')</script>", "100% of $x_1$ & {more} \\textbf{#}", "a | b", "a red circle")


def record_of(method: str, steps: int, eta: float | None, failure: Failure | None = None) -> Record:
    scheduler = SchedulerSpec("diffusers.TCDScheduler", {"method": method})
    axes: dict[str, Any] = {"method": method, "steps": steps, "eta": eta, "scheduler": scheduler, "batch_size": 40}
    cell = make_cell(40, base=make_base(height=8, width=8), **axes)
    if failure:
        return make_record(cell, status="error", environment={"device": "cpu"}, failure=failure)
    calls = Calls((1.0,) * steps, None, None, {}, {}, steps, steps, steps, 40 * steps, 8)
    latency = Latency(1, 1, "perf_counter", (0.1 * steps,) * 3, (0.01,) * 3, (0.08 * steps,) * 3, (0.005,) * 3)
    memory = Memory(1, 500 * 2**20, None, None, None)
    images = Images(40, 8, 8, "s")
    known = {"calls": calls, "images": images, "latency": latency, "memory": memory}
    return make_record(cell, environment={"device": "cpu"}, **known)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "run")


def make_store(directory: Path) -> Store:
    """A small run with a failed cell, a missing one, and hostile names."""
    store = Store(directory)
    rng = np.random.default_rng(0)
    records = [record_of("tcd", n, eta) for n in (2, 4) for eta in (0.0, 1.0)] + [record_of("<b>ddim</b>", 4, None)]
    records.append(record_of("tcd", 8, 0.0, Failure("CellError", "image 3 is <i>black</i>", "Traceback <u>")))
    for record in records:
        store.commit(record)
        if record.status == "ok":
            features = {"image": rng.normal(size=(40, 4)), "clip_score": rng.normal(30, 1, 40)}
            store.cell(record.key).save_features("e", features)
    store.save_reference("r", rng.normal(size=(100, 4)))
    settings = {
        **{"task": {"kind": "text_to_image"}, "models": {"mini": {}}, "methods": {"tcd": {}, "<b>ddim</b>": {}}},
        **{
            "extractors": {"mini": {"source": "x"}},
            "reference": {"source": "world", "count": 100},
            "seed": 0,
            "batch_size": 40,
        },
        **{"weights": "checkpoint", "prompts": {"source": "world"}},
    }
    store.save_run(
        make_run(
            name="<em>run</em>",
            settings=settings,
            cells=(*(record.key for record in records), "missing"),
            left_out=(("tcd 60 steps", "60 steps <do> not fit"),),
            prompts=(*PROMPTS, *(f"prompt {i}" for i in range(36))),
            labels={"tcd": "TCD & <friends> $\\frac{1$"},
            metrics=("fid@mini", "clip_score@mini"),
        )
    )
    return store


def test_every_text_is_escaped_and_nothing_is_fetched(store: Store) -> None:
    page = Path(write_report(store)).read_text(encoding="utf-8")
    for markup in ("<script>x", "<em>run", "<b>ddim", "<i>black", "<u>", "<do>", "<friends>"):
        assert markup not in page, markup
    assert "&lt;em&gt;run&lt;/em&gt;" in page
    text = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"""src=["'](?!data:)""", text), "one self-contained file"
    assert all(re.fullmatch(r"#[\w-]+|[\w./]+", link) for link in re.findall(r"""href=["'](.*?)["']""", text))
    assert "://" not in re.sub(r"data:image/\w+;base64,[^\"]*", "", text)


def test_failed_and_waiting_cells_are_reported(store: Store) -> None:
    page = Path(write_report(store)).read_text(encoding="utf-8")
    assert "image 3 is &lt;i&gt;black&lt;/i&gt;" in page
    assert "1 cells have not been run yet" in page
    assert "60 steps &lt;do&gt; not fit" in page


@pytest.mark.usefixtures("drawn_figures")
def test_plots_are_png_svg_and_pdf_of_each_kind(store: Store) -> None:
    write_report(store)
    stems = {path.stem for path in (Path(store.location) / "plots").iterdir()}
    kinds = ("quality-evaluations", "quality-latency", "eta", "eta-steps", "latency-parts", "memory")
    assert stems == {f"mini-{kind}" for kind in kinds}
    assert all((Path(store.location) / "plots" / f"{stem}.svg").read_text().startswith("<?xml") for stem in stems)
    for stem in stems:
        content = (Path(store.location) / "plots" / f"{stem}.pdf").read_bytes()
        assert content.startswith(b"%PDF"), stem
        assert b"/FontFile2" in content, "fonts are embedded as TrueType, which journals ask for"
        assert b"/CreationDate" not in content, "the same run makes the same file"


@pytest.mark.usefixtures("drawn_figures")
def test_plots_are_as_wide_as_a_column_or_a_page_of_a_paper(store: Store) -> None:
    write_report(store)
    widths = set()
    for path in (Path(store.location) / "plots").glob("*.pdf"):
        (box,) = re.findall(rb"/MediaBox \[ ?0 0 ([\d.]+) ", path.read_bytes())
        widths.add(float(box) / 72)
    assert widths == {PAGE_INCHES}, "two scores"


@pytest.mark.usefixtures("drawn_figures")
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex here")
def test_plots_and_tables_are_in_a_latex_document_that_compiles(store: Store) -> None:
    store.save_run(replace(store.run(), claims=(CLAIM,), metrics=("clip_score@mini",)))
    folder = Path(write_report(store)).parent
    compile_latex(folder, "paper")
    text = (folder / "paper.tex").read_text(encoding="utf-8")
    for path in (folder / "plots").glob("*.pdf"):
        assert rf"\includegraphics{{plots/{path.name}}}" in text
    assert r"\begin{figure}[tp]\centering" in text, "a single score takes one column"
    assert r"\input{tables/scores}" in text
    log = (folder / "paper.log").read_text(encoding="utf-8", errors="replace")
    wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
    assert max(wide, default=0) < 1, "no plot is wider than its column"


def test_the_page_is_regenerated_only_when_its_inputs_changed(store: Store) -> None:
    page = Path(write_report(store))
    before = page.stat().st_mtime_ns
    assert Path(write_report(store)).stat().st_mtime_ns == before
    store.commit(record_of("tcd", 16, 0.0))
    assert Path(write_report(store)).stat().st_mtime_ns != before


def contents(store: Store) -> dict[str, bytes]:
    """All files of the run."""
    root = Path(store.location)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_report_with_changed_or_lost_files_is_regenerated(store: Store) -> None:
    write_report(store)
    before = contents(store)
    page, table, plot, scores = (Path(store.location) / name for name in (
        "report.html", "tables/scores.md", "plots/mini-memory.svg", "scores.csv",
    ))  # fmt: skip
    damages: list[Callable[[], object]] = [
        lambda: page.write_bytes(page.read_bytes()[:2000]),
        lambda: scores.write_bytes(scores.read_bytes()[:-40]),
        lambda: (plot.unlink(), table.write_text("FID 0.0")),
        lambda: (Path(store.location) / "report.json").write_text("{}"),
    ]
    for damage in damages:
        damage()
        write_report(store)
        assert contents(store) == before


def test_a_report_that_cannot_be_written_is_one_sentence_and_the_old_one_stays(store: Store) -> None:
    write_report(store)
    store.commit(record_of("tcd", 16, 0.0))
    plot = Path(store.location) / "plots" / "mini-memory.png"
    plot.unlink()
    plot.mkdir()
    before = contents(store)
    with pytest.raises(BenchError, match=r"cannot be written \(plots/mini-memory\.png is a folder\)") as refusal:
        write_report(store)
    assert "\n" not in str(refusal.value)
    assert contents(store) == before


def test_plots_of_an_earlier_report_are_removed_and_foreign_files_stay(store: Store) -> None:
    write_report(store)
    plots = Path(store.location) / "plots"
    (plots / "mine.png").touch()
    (plots / "mini-eta.svg").write_text("edited")
    store.save_run(replace(store.run(), cells=(record_of("<b>ddim</b>", 4, None).key,)))
    write_report(store)
    assert {path.name for path in plots.iterdir() if "eta" in path.name or "mine" in path.name} == {
        *("mine.png", "mini-eta.svg")
    }


def test_a_damaged_image_is_never_shown_and_a_lost_image_is_reported(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    record = keep(store, next(r for r in store.records() if r.status == "ok"), [Image.new("RGB", (8, 8))] * 2)
    name = store.cell(record.key).image_name(1)
    write_report(store)
    complete = contents(store)
    Image.new("RGB", (8, 8), "red").save(Path(store.location) / name)
    write_report(store)
    assert {**contents(store), name: b""} == {**complete, name: b""}
    (Path(store.location) / "report.html").unlink()
    with pytest.raises(Damaged, match="not the image that was sampled") as refusal:
        write_report(store)
    store.quarantine(refusal.value.name, refusal.value.why)
    capsys.readouterr()
    write_report(store)
    assert "1 kept images are gone" in capsys.readouterr().err
    lacking = contents(store)["report.html"]
    assert lacking != complete["report.html"]
    write_report(store)
    assert capsys.readouterr().err == "", "it is left as it is"
    store.cell(record.key).save_image(1, to_png(np.zeros((8, 8, 3), np.uint8)))
    write_report(store)
    assert contents(store)["report.html"] == complete["report.html"]


@pytest.mark.parametrize("name", ["run.json", "reference-r.npz", "cells/KEY/features-e.npz", "cells/KEY/record.json"])
def test_no_report_is_made_from_damaged_files(store: Store, name: str) -> None:
    path = Path(store.location) / name.replace("KEY", record_of("tcd", 2, 0.0).key)
    path.write_bytes(path.read_bytes()[:-100] + b"x" * 100)
    with pytest.raises(Damaged, match="start the same tcd-bench run again") as refusal:
        write_report(store)
    assert "\n" not in str(refusal.value)
    assert str(pickle.loads(pickle.dumps(refusal.value))) == str(refusal.value), "it comes out of a forked process"  # noqa: S301


def test_a_reference_of_different_rows_is_detected(store: Store) -> None:
    store.save_reference("r", np.ones((16, 4)))
    with pytest.raises(BenchError, match=r"16 reference images where run\.json says 100"):
        write_report(store)


def test_an_up_to_date_page_is_recognised_without_loading_heavy_modules(store: Store) -> None:
    write_report(store)
    code = (
        "import sys; from bench.report.write import write_report; from bench.store.store import Store\n"
        "write_report(Store(sys.argv[1])); print(sorted({'scipy', 'matplotlib', 'pandas'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", code, store.location], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_an_unavailable_score_is_explained_and_the_others_are_kept(store: Store) -> None:
    broken = record_of("tcd", 2, 0.0)
    features = store.cell(broken.key).features("e")
    features["image"][3, 1] = np.nan
    store.cell(broken.key).save_features("e", features)
    page = Path(write_report(store)).read_text(encoding="utf-8")
    assert f"No fid@mini of {broken.cell.label}:" in page
    assert "NaN" in page
    assert "fid_mini_n40" in page


def test_scores_missing_in_all_cells_are_reported_once(store: Store) -> None:
    run = store.run()
    for record in store.records():
        if record.status == "ok":
            one = {name: rows[:1] for name, rows in store.features_of(record, "e").items()}
            store.cell(record.key).save_features("e", one, record.images_hash)
    store.save_run(replace(run, prompts=run.prompts[:1]))
    page = Path(write_report(store)).read_text(encoding="utf-8")
    assert page.count("<p><strong>No ") == 1
    assert "No fid@mini of all cells:" in page
    assert "(no interval)" in page


def test_etas_that_differ_between_methods_only_make_no_curve(store: Store) -> None:
    chosen = [record_of("tcd", 2, 1.0), record_of("<b>ddim</b>", 4, 0.0)]
    for record in chosen:
        store.commit(record)
        features = {"image": np.random.default_rng(1).normal(size=(40, 4)), "clip_score": np.arange(40.0)}
        store.cell(record.key).save_features("e", features)
    store.save_run(replace(store.run(), cells=tuple(record.key for record in chosen)))
    write_report(store)
    assert not (Path(store.location) / "plots" / "mini-eta.png").exists()
    assert (Path(store.location) / "plots" / "mini-memory.png").exists()


def test_a_run_whose_scores_need_no_reference_has_a_report(store: Store) -> None:
    store.save_run(replace(store.run(), metrics=("clip_score@mini",), references={}, real_images=None))
    (Path(store.location) / "reference-r.npz").unlink()
    page = Path(write_report(store)).read_text(encoding="utf-8")
    assert "none: no score needs one" in page
    assert "fid_mini" not in page


def keep(store: Store, record: Record, images: Sequence[Image.Image]) -> Record:
    """The record with these images kept, as it is in the store then."""
    pixels = [np.asarray(image) for image in images]
    kept = replace(record, images=replace(record.images, hashes=tuple(hash_image(image) for image in pixels)))
    for row, image in enumerate(pixels):
        store.cell(record.key).save_image(row, to_png(image))
    store.cell(kept.key).replace(kept)
    return kept


def stored(tmp_path: Path, image: Image.Image) -> Picture:
    """An image as a store keeps it."""
    store = Store(tmp_path / "kept")
    return Picture(store, keep(store, record_of("tcd", 2, 0.0), [image]), 0)


def test_a_video_becomes_an_animation_and_its_middle_frame_a_picture(tmp_path: Path) -> None:
    strip = np.concatenate([np.full((8, 8, 3), level, np.uint8) for level in (0, 100, 200)])
    picture = stored(tmp_path, Image.fromarray(strip))
    kind, _, text = embedded(picture, frames=3).partition(";base64,")
    assert kind == "data:image/webp"
    film = Image.open(io.BytesIO(base64.b64decode(text)))
    assert (film.n_frames, film.size) == (3, (8, 8))
    gif = Image.open(io.BytesIO(to_gif(picture, 3)))
    assert (gif.format, gif.n_frames) == ("GIF", 3)
    assert np.asarray(open_picture(picture, frames=3)).tolist() == strip[8:16].tolist()


@pytest.mark.parametrize(("side", "kind"), [(64, "png"), (1024, "webp")])
def test_a_large_picture_is_shrunk_for_the_page(tmp_path: Path, side: int, kind: str) -> None:
    head, _, text = embedded(stored(tmp_path, Image.new("RGB", (side, side // 2)))).partition(";base64,")
    assert head == f"data:image/{kind}"
    assert max(Image.open(io.BytesIO(base64.b64decode(text))).size) == min(side, 512)


CLAIM = Claim(
    "few", "TCD <beats> itself", Side("tcd", (4,), 1.0), Side("tcd", (4,), 0.0), ("clip_score@mini",), "better"
)


def test_behind_a_verdict_are_the_prompts_that_gain_and_lose_most(store: Store) -> None:
    cells = {record.cell.eta: record for record in store.records() if record.cell.label.startswith("mini tcd 4")}
    for eta, record in cells.items():
        scores = np.arange(40.0) if eta else np.arange(40.0)[::-1]
        store.cell(record.key).save_features("e", {**store.cell(record.key).features("e"), "clip_score": scores})
        cells[eta] = keep(store, record, [Image.new("RGB", (8, 8), (6 * row, 0, 0)) for row in range(40)])
    store.save_run(replace(store.run(), claims=(CLAIM,)))
    run = store.run()
    scored = ScoredRun.load(store, run)
    found = prompt_differences(scored, judge_claims(run, scored.cells))["few"]
    assert [pair.gain for pair in found.gains] == [39, 37, 35]
    assert [pair.gain for pair in found.losses] == [-39, -37, -35]
    assert found.gains[0].subject == (Picture(store, cells[1.0], 39),)
    assert found.losses[0].object == (Picture(store, cells[0.0], 0),)
    assert found.share == 0.5
    assert (found.kept, found.prompts) == (40, 40)
    assert found.zero == CURVE_HEIGHT / 2
    page = Path(write_report(store)).read_text(encoding="utf-8")
    assert "Prompt by prompt" in page
    assert "TCD &lt;beats&gt; itself" in page
    assert (Path(store.location) / "plots" / "power.png").exists()


@pytest.mark.parametrize("values", [(0.06, 0.17), (0.1, 0.11), (0.03, 0.9), (16, 16384), (2, 4)])
def test_a_logarithmic_axis_has_ticks_to_read_a_value_by(values: tuple[float, float]) -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.plot(values, values)
    log_axis(axes, values)
    FigureCanvasAgg(figure).draw()  # type: ignore[no-untyped-call]
    low, high = axes.get_xlim()
    labels = [tick.get_text() for tick in axes.get_xticklabels() if low <= tick.get_position()[0] <= high]
    assert 3 <= len(labels) <= 12, labels
    assert all(re.fullmatch(r"[\d.]+", label) for label in labels), labels


@pytest.mark.parametrize("width", [4.4, 10.4])
@pytest.mark.parametrize("letters", [3, 30, 60, 400])
def test_a_legend_fits_below_its_plots_and_names_what_any_of_them_shows(width: float, letters: int) -> None:
    figure = Figure(figsize=(width, 3.0), layout="constrained")
    for i, axes in enumerate(figure.subplots(1, 2)):
        for row in range(i, i + 5):
            axes.plot([0, 1], [0, row], label=f"{row} {('wide ' * 80)[:letters].strip()}")
    with mpl.rc_context(STYLE):
        legend_below(figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert box.y0 >= 0
    assert box.y1 <= min(axes.get_tightbbox().y0 for axes in figure.axes) + 1
    assert {text.get_text()[0] for text in figure.legends[0].get_texts()} == set("012345")


def test_power_is_the_share_of_runs_that_would_decide() -> None:
    comparison = Comparison("mini", "clip_score@mini", "a", "b", 1, 0, 0.3, None, 0.0, 100, error=0.2, level=0.025)
    counts = np.array([100.0, 400.0])
    rng = np.random.default_rng(0)
    errors = 0.2 * np.sqrt(100 / counts)
    bound = norm.isf(0.8 * 0.025)
    simulated = [np.mean(0.3 + rng.normal(size=200_000) * error > bound * error) for error in errors]
    assert power(comparison, counts) == pytest.approx(simulated, abs=0.005)
    unknown = replace(comparison, error=None)
    assert power(unknown, counts) is None
    claims = [Judgement(CLAIM, "undecided", (comparison, other), ()) for other in (comparison, unknown)]
    assert draw_power(claims[1:]) is None, "what has no interval is not decided"
    assert draw_power(claims) is not None
    equal = replace(comparison, gain=0.0, threshold=1.0, expect="equivalent")
    found = power(equal, counts)
    assert found[0] == pytest.approx(2 * norm.cdf(5 - bound) - 1, abs=1e-3)


def test_a_claim_is_as_hard_to_decide_as_its_hardest_comparison_or_as_easy_as_what_refutes_it() -> None:
    counts = np.array([100.0])
    easy, hard, against = (
        Comparison("mini", "clip_score@mini", "a", "b", 1, 0, gain, None, 0.0, 100, error=0.2)
        for gain in (0.6, 0.3, -0.4)
    )
    for comparisons, decisive in (((easy, hard), hard), ((easy, hard, against), against)):
        assert power_of_claim(Judgement(CLAIM, "undecided", comparisons, ()), counts) == power(decisive, counts)


@pytest.fixture
def inpainted(store: Store) -> Store:
    """A run of an inpainting task with inputs and images."""
    task = Task("inpainting", {"kind": "inpainting", "strength": 0.99}, "i")
    records = [record_of(*what) for what in (("tcd", 2, 0.3), ("tcd", 4, 0.3), ("ddim", 4, None))]
    records = [replace(r, cell=replace(r.cell, task=task)) for r in records]
    records = [replace(r, key=r.cell.key) for r in records]
    rng = np.random.default_rng(1)
    for i, record in enumerate(records):
        images = rng.integers(0, 255, (2, 8, 8, 3)).astype(np.uint8) // (i + 1)
        kept = replace(record, images=Images(40, 8, 8, "s", tuple(hash_image(image) for image in images)))
        store.commit(kept)
        for row, image in enumerate(images):
            store.cell(record.key).save_image(row, to_png(image))
        store.cell(record.key).save_features(
            "e", {"image": rng.normal(size=(40, 4)), "clip_score": rng.normal(30, 1, 40)}
        )
    black, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    save_inputs(store, {f"{row:05d}{end}": image for row in range(2) for end, image in (("", black), ("-mask", white))})
    run = store.run()
    settings = {**run.settings, "task": {"kind": "inpainting"}}
    store.save_run(replace(run, cells=tuple(r.key for r in records), settings=settings))
    return store


def test_of_few_kept_images_those_with_the_largest_differences_are_shown(store: Store) -> None:
    for record in list(store.records()):
        if record.cell.label.startswith("mini tcd 4"):
            scores = np.arange(40.0) if record.cell.eta else np.arange(40.0)[::-1]
            store.cell(record.key).save_features("e", {**store.cell(record.key).features("e"), "clip_score": scores})
            keep(store, record, [Image.new("RGB", (8, 8), (6 * row, 0, 0)) for row in range(8)])
    store.save_run(replace(store.run(), claims=(CLAIM,)))
    scored = ScoredRun.load(store, store.run())
    found = prompt_differences(scored, judge_claims(store.run(), scored.cells))["few"]
    assert [pair.gain for pair in found.losses] == [-39, -37, -35]
    assert found.gains == (), "no prompt with a kept image is better"
    assert (found.kept, found.prompts) == (8, 40)
    page = Path(write_report(store)).read_text(encoding="utf-8")
    assert "No prompt with kept images is better." in page
    assert "Of the 8 prompts whose images were kept (of 40; keep=all keeps all)." in page


def test_inputs_and_masks_are_shown_with_their_outputs(inpainted: Store) -> None:
    run = inpainted.run()
    grids = prompt_grids(ScoredRun.load(inpainted, run))
    assert [[said for said, _ in grid.inputs] for grid in grids] == [["input", "mask"]] * 2
    assert np.asarray(open_picture(grids[0].inputs[1][1])).min() == 255
    page = Path(write_report(inpainted)).read_text(encoding="utf-8")
    assert page.count('alt="mask"') == 2
    assert "inpainting, strength 0.99" in page
    assert draw_grid(grids).size > draw_grid([replace(grid, inputs=()) for grid in grids]).size


def test_an_altered_input_is_not_shown(inpainted: Store) -> None:
    path = Path(inpainted.location) / "inputs" / "00000-mask.png"
    path.write_bytes(to_png(np.zeros((8, 8, 3), np.uint8)))
    page = Path(write_report(inpainted)).read_text(encoding="utf-8")
    assert page.count('alt="mask"') == 1
    assert page.count('alt="input"') == 2


def test_reference_images_are_shown_under_their_names(store: Store) -> None:
    write_report(store)
    pictures = {f"<b>{i}</b>.jpg": np.full((8, 8, 3), i, np.uint8) for i in range(3)}
    save_pictures(store.files, "reference", "r", pictures)
    (Path(store.location) / "reference" / "00001.png").write_bytes(to_png(pictures["<b>0</b>.jpg"]))
    page = Path(write_report(store)).read_text(encoding="utf-8")
    assert "<figcaption>&lt;b&gt;0&lt;/b&gt;.jpg</figcaption>" in page
    assert "1&lt;/b&gt;" not in page, "a picture that is not what was written"
    assert "<b>2" not in page
    save_pictures(store.files, "reference", "of another set", pictures)
    assert "Some of the reference images" not in Path(write_report(store)).read_text(encoding="utf-8")


def test_a_run_keeps_the_inputs_of_what_is_shown(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    for count in (3, 20):
        inputs = Inputs(Task("inpainting", {"strength": 0.9}), "world", count, 32, 32)
        assert not has_inputs(store, inputs)
        keep_inputs(store, inputs)
        assert len(input_hashes(store)) == 2 * min(count, 8)
        assert has_inputs(store, replace(inputs, source="not there"))
    kept = input_picture(store, "00002-mask")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(kept)))[..., 0] > 0, inputs.masks[2])


@pytest.mark.parametrize("harm", ["all gone", "one gone", "one damaged", "none"])
def test_a_finished_run_has_its_inputs_kept_again(harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "run")
    inputs = Inputs(Task("inpainting", {"strength": 0.9}), "world", 3, 32, 32)
    kept_inputs.keep_inputs(store, inputs)
    pictures = {name: input_picture(store, name) for name in input_hashes(store)}
    if harm == "all gone":
        shutil.rmtree(tmp_path / "run" / "inputs")
    elif harm == "one gone":
        (tmp_path / "run" / "inputs" / "00001-mask.png").unlink()
    elif harm == "one damaged":
        (tmp_path / "run" / "inputs" / "00001-mask.png").write_bytes(pictures["00001"] or b"")
    else:
        monkeypatch.setattr(kept_inputs, "keep_inputs", None)
    kept_inputs.restore_inputs(store, inputs)
    assert {name: input_picture(store, name) for name in input_hashes(store)} == pictures


def test_each_video_shown_is_a_file(tmp_path: Path) -> None:
    picture = stored(tmp_path, Image.new("RGB", (8, 24)))
    grid = PromptGrid("mini", "x", (2, 4), (("tcd", (picture, None)),), frames=3)
    ((name, content),) = films([grid]).items()
    assert name == f"films/{picture.record.key}-00000.gif"
    assert Image.open(io.BytesIO(content)).format == "GIF"
    assert films([replace(grid, frames=1)]) == {}
