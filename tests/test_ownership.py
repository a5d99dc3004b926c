"""A results directory belongs to one experiment: it may grow; another one is refused before anything is sampled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import make_record
from PIL import Image as Pictures

from bench.checkpoints.manifest import MANIFEST
from bench.execute.job import Job, plan_job
from bench.execute.ownership import OWNER, PICTURES, close_run, join, open_store, whole_run
from bench.experiment.compose import compose_settings
from bench.experiment.config import Experiment, check_experiment
from bench.generate.image_files import read_image
from bench.records.errors import BenchError
from bench.records.record import Images, Record
from bench.store.interim_looks import Look, define, looks_of, note_looks
from bench.store.store import Store

Overrides = Callable[..., list[str]]
Ask = Callable[..., Experiment]


@pytest.fixture
def ask(overrides: Overrides, models: Path, tmp_path: Path) -> Ask:
    """The small experiment with more overrides; {tmp} and {models} stand for directories."""

    def make(*more: str) -> Experiment:
        known = {"tmp": str(tmp_path), "models": str(models)}
        given = [text.format(**known) if "{tmp}" in text or "{models}" in text else text for text in more]
        return check_experiment(compose_settings(overrides(*given)))

    return make


def begin(experiment: Experiment, *, done: bool = False) -> tuple[Job, Store]:
    """Open the experiment's directory, as a run does; `done` leaves records and features, none of them sampled."""
    job = plan_job(join(experiment))
    store = open_store(job)
    for cell in job.plan.cells if done else ():
        count = len(job.run.prompts)
        store.commit(make_record(cell, images=Images(count, 64, 64, "x")))
        for identity in job.run.features.values():
            store.cell(cell.key).save_features(identity, {"image": np.zeros((count, 4))})
    if done:
        close_run(job, store, is_last=True)
    return job, store


OTHERS = {
    "seed=1": "seed is 0 there and 1 here",
    "name=other": "name is smoke there and other here",
    "batch_size=2": "batch_size is 4 there and 2 here",
    "models.mini.source={tmp}/teacher": "models.mini.source is {models}/teacher there and {tmp}/teacher here",
    "models.mini.adapters.tcd.scale=0.5": "models.mini.adapters.tcd.scale is 1.0 there and 0.5 here",
    "models.mini.adapters.tcd.source={models}/lcm-lora": (
        "models.mini.adapters.tcd is {models}/tcd-lora there and {models}/lcm-lora here"
    ),
    "models.mini.dtype=float16": "models.mini.dtype is float32 there and float16 here",
    "models.mini.memory_options.vae_tiling=true": (
        "models.mini.memory_options.vae_tiling is not given there and True here"
    ),
    "methods.tcd.scheduler.original_inference_steps=25": (
        "methods.tcd.scheduler.original_inference_steps is 50 there and 25 here"
    ),
    "methods.tcd.fused=false": "methods.tcd.fused is True there and False here",
    "prompts.template='a picture of {{}}'": "the first 1 prompts of prompts.source=world are not those that it has",
    "prompts.source={tmp}/prompts.txt": "prompts of prompts.source={tmp}/prompts.txt are not those",
    "reference.count=17": "reference is 16 images of world there and 17 images of world here",
    "extractors.mini.source={tmp}/evaluator": "mini.source is {models}/evaluator there and {tmp}/evaluator here",
    "measure.batch_size=2": "measure.batch_size is 1 there and 2 here",
}


@pytest.mark.parametrize("override", OTHERS)
def test_another_experiment_is_refused_with_what_differs_and_both_ways_out(
    override: str, ask: Ask, models: Path, tmp_path: Path
) -> None:
    _, store = begin(ask("scores=[fid,clip_score]", "claim=[]"))
    for name in ("teacher", "evaluator"):
        shutil.copytree(models / name, tmp_path / name)
        (tmp_path / name / "note.txt").write_text("another one")
    texts = list(store.run().prompts)
    (tmp_path / "prompts.txt").write_text("\n".join([*texts[:2], "another one", *texts[3:]]))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    given = override.replace("{{}}", "{}") if "{tmp}" not in override else override
    with pytest.raises(BenchError) as refused:
        join(ask("scores=[fid,clip_score]", "claim=[]", given))
    said = str(refused.value)
    assert said.startswith(f"results={tmp_path}/run belongs to another experiment: ")
    assert OTHERS[override].replace("{tmp}", str(tmp_path)).replace("{models}", str(models)) in said
    assert said.endswith("; choose another directory with results=…, or remove or archive that one")
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


GROWTH = [
    "prompts.count=12",
    "method=[tcd,dpmpp_2s,ddim]",
    "methods.tcd.steps=[2,4,8]",
    "methods.tcd.eta=[0,0.3]",
    "methods.dpmpp_2s.guidance_scale=[1,3]",
    "scores=[fid,clip_score,precision]",
    "scores=[clip_score]",
    "claim=[tcd_few_steps]",
    "claim=[]",
    "measure.latency=false",
    "measure.repeats=3",
    "executor.workers=2",
    "keep=grid",
    "concurrent_batches=1",
    "strict=false",
]


@pytest.mark.parametrize("override", GROWTH)
def test_additions_to_an_experiment_are_accepted_in_its_directory(override: str, ask: Ask) -> None:
    scores = ("scores=[fid,clip_score]", "claim=[]")
    begin(ask(*scores), done=True)
    begin(ask(*scores, override) if "claim=[tcd" not in override else ask(override))


def test_other_weights_at_the_same_place_are_another_experiment(ask: Ask, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "teacher", tmp_path / "own")
    own = f"models.mini.source={tmp_path}/own"
    begin(ask(own))
    (tmp_path / "own" / "note.txt").write_text("trained for longer")
    with pytest.raises(BenchError, match=rf"models.mini.source \({tmp_path}/own\) has other content than it had"):
        join(ask(own))


def test_the_same_weights_at_another_place_are_the_same_experiment(ask: Ask, models: Path, tmp_path: Path) -> None:
    begin(ask())
    shutil.copytree(models / "teacher", tmp_path / "moved")
    assert join(ask(f"models.mini.source={tmp_path}/moved"))


def test_other_versions_of_the_libraries_are_named(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.execute import job

    begin(ask())
    monkeypatch.setattr(job, "library_versions", lambda: {"torch": "1.0", "diffusers": "0.1"})
    with pytest.raises(BenchError, match=r"the version of diffusers is [\d.]+ there and 0.1 here"):
        join(ask())


@pytest.mark.parametrize("harm", ["removed", "damaged", "emptied"])
def test_without_the_note_of_the_owner_records_identify_their_experiment(harm: str, ask: Ask) -> None:
    _, store = begin(ask(), done=True)
    owner = Path(store.location) / OWNER
    if harm == "removed":
        owner.unlink()
    else:
        owner.write_bytes(owner.read_bytes().replace(b'"seed": {', b'"sead": {') if harm == "damaged" else b"")
    with pytest.raises(BenchError, match="seed is 0 there and 1 here"):
        join(ask("seed=1"))
    with pytest.raises(BenchError, match="seed is 0 there and 1 here"):
        open_store(plan_job(ask("seed=1")))
    begin(ask())
    assert json.loads(owner.read_text())["facts"]["seed"] == {"is": 0}


def test_an_experiment_whose_weights_are_absent_is_not_compared(ask: Ask) -> None:
    begin(ask())
    absent = ask("models.mini.source=nobody/nothing", "seed=1")
    assert join(absent, weights_needed=False) is absent


def test_a_preference_model_stays_with_its_score_and_its_weights(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ck.pth"
    path.write_bytes(b"weights")
    monkeypatch.setitem(MANIFEST, "image_complexity", replace(MANIFEST["image_complexity"], sha256=None))
    begin(ask("claim=[]", "scores=[image_complexity]", f"preference_models.image_complexity={path}"))
    joined = join(ask("claim=[]", "scores=[fid]"))
    assert joined.scores == ["image_complexity", "fid@mini"]
    assert joined.preference_models == {"image_complexity": str(path)}
    path.write_bytes(b"other weights")
    with pytest.raises(BenchError, match=r"preference_models\.image_complexity is"):
        join(joined)


def test_a_run_of_another_version_is_refused_and_a_secret_is_not_kept(ask: Ask, models: Path, tmp_path: Path) -> None:
    secret = tmp_path / f"hf_{'A1b2C3d4' * 5}"
    shutil.copytree(models / "teacher", secret)
    _, store = begin(ask(f"models.mini.source={secret}"))
    assert secret.name not in (Path(store.location) / OWNER).read_text()
    path = Path(store.location) / "run.json"
    path.write_text(store.run().to_json().replace('"schema": ', '"schema": 9'))
    with pytest.raises(BenchError, match=r"holds the run of another version of tcd-bench .* choose another directory"):
        join(ask(f"models.mini.source={secret}"))


def test_what_an_experiment_adds_is_known_from_then_on(ask: Ask, other_extractor: Path) -> None:
    begin(ask("claim=[]", "scores=[]", "measure.latency=false", "measure.memory=false", "measure.batch_size=3"))
    begin(ask("claim=[]", "scores=[fid]"))
    begin(ask("claim=[]", "scores=[]", "measure.latency=false", "measure.memory=false", "measure.batch_size=2"))
    for changed in (f"extractors.mini.source={other_extractor}", "measure.batch_size=2"):
        with pytest.raises(BenchError, match=f"{changed.partition('=')[0]} is"):
            join(ask("claim=[]", "scores=[fid]", changed))


def test_one_of_two_experiments_that_begin_at_once_is_refused(ask: Ask) -> None:
    jobs = [plan_job(ask(f"seed={seed}")) for seed in range(4)]

    def try_to(job: Job) -> str:
        try:
            open_store(job)
        except BenchError as error:
            return str(error)
        return "opened"

    with ThreadPoolExecutor(4) as pool:
        said = sorted(pool.map(try_to, jobs))
    assert said.count("opened") == 1
    assert all("belongs to another experiment: seed is" in text for text in said if text != "opened")


def test_two_runs_of_one_experiment_share_its_directory(ask: Ask) -> None:
    (one, store), (other, _) = begin(ask()), begin(ask())
    assert one.run == other.run == store.run()


def test_what_is_known_of_earlier_cells_and_prompts_is_kept(ask: Ask) -> None:
    begin(ask("method=[tcd,ddim]", "claim=[]"))
    _, store = begin(ask("method=[ddim]", "claim=[]", "prompts.count=3"))
    with pytest.raises(BenchError, match=r"methods\.tcd\.fused is True there and False here"):
        join(ask("claim=[]", "methods.tcd.fused=false"))
    assert {"3", "6"} <= json.loads((Path(store.location) / OWNER).read_text())["prompts"].keys()


def test_fewer_images_than_stored_are_refused(ask: Ask) -> None:
    begin(ask("prompts.count=12"))
    job, store = begin(ask())  # nothing was sampled yet, so nothing is lost
    for is_last, count in ((False, 12), (True, 6)):
        close_run(job, store, is_last)
        assert len(store.run().prompts) == count, "a later look stays, unless there will be none"
    begin(ask("prompts.count=12"), done=True)
    with pytest.raises(BenchError, match=r"prompts.count=6 was given, but .* has 12 images per cell already"):
        join(ask())


def test_scores_and_cells_of_the_first_run_stay(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    begin(ask("scores=[fid,clip_score,precision]", "claim=[]", "method=[tcd,dpmpp_2s]"), done=True)
    job, store = begin(ask("scores=[clip_score,recall]", "claim=[]", "method=[tcd,ddim]"), done=True)
    said = capsys.readouterr().err
    assert f"results={store.location} has these scores already, they stay: fid@mini, precision@mini" in said
    assert job.run.metrics == ("fid@mini", "clip_score@mini", "precision@mini", "recall@mini")
    run = store.run()
    assert run.metrics == job.run.metrics
    found = [record.cell.method for key in run.cells if (record := store.cell(key).record())]
    assert sorted(set(found)) == ["ddim", "dpmpp_2s", "tcd"]
    assert len(run.cells) == len(set(run.cells)) == len(found)
    assert {"tcd", "dpmpp_2s", "ddim"} == set(run.settings["methods"]) == set(run.labels)
    written = (Path(store.location) / "records.jsonl").read_text().splitlines()
    assert [Record.from_json(line).key for line in written] == list(run.cells)


def test_axes_and_models_of_finished_cells_stay_and_unfinished_cells_do_not(ask: Ask) -> None:
    few = ("claim=[]", "scores=[fid]", "methods.tcd.steps=[2]")
    job, store = begin(ask(*few, "method=[tcd]", "methods.tcd.eta=[0,1]"), done=True)
    _, unfinished = job.run.cells
    store.cell(unfinished).drop_features(job.run.features["mini"])
    run = begin(ask(*few, "method=[tcd]"))[1].run()
    assert unfinished not in run.cells
    assert set(job.run.cells) - set(run.cells) == {unfinished}
    assert run.settings["methods"]["tcd"]["eta"] == [0.3, 0.0, 1.0]


def test_models_and_extractors_of_earlier_runs_stay_known(ask: Ask, other_extractor: Path) -> None:
    few = ("claim=[]", "method=[tcd]", "methods.tcd.steps=[2]", "methods.tcd.eta=[0]")
    second = ("extractor=[mini]", f"extractors.b={{source: '{other_extractor}'}}", "scores=[fid@b]")
    begin(ask(*few, *second, "model=[mini,mini_fp16]"), done=True)
    _, store = begin(ask(*few, "model=[mini]", "scores=[kid]"), done=True)
    run = store.run()
    assert run.metrics == ("fid@b", "kid@mini")
    assert set(run.settings["extractors"]) == {"mini", "b"} <= set(run.features)
    assert set(run.settings["models"]) == {"mini", "mini_fp16"}
    assert {record.cell.base.name for record in store.records(run.cells)} == {"mini", "mini_fp16"}


def test_cells_that_a_larger_run_has_no_place_for_are_named_as_they_leave_the_report(
    ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    _, store = begin(ask("claim=[]", "method=[tcd,dpmpp_2s]", "methods.dpmpp_2s.steps=[2,4]"), done=True)
    capsys.readouterr()
    fewer = ("claim=[]", "method=[tcd,dpmpp_2s]", "methods.dpmpp_2s.steps=[4]")
    begin(ask(*fewer), done=True)
    assert capsys.readouterr().err == "", "with as many images they stay"
    begin(ask(*fewer, "prompts.count=12"), done=True)
    assert capsys.readouterr().err == (
        f"results={store.location}: 1 cells of 6 images are not in the grid of 12 images and leave the report "
        "(mini dpmpp_2s 2 steps guidance 3 for one); to keep them, add their methods and steps again\n"
    )
    job, _ = begin(ask(*fewer, "prompts.count=12"), done=True)
    assert capsys.readouterr().err == ""
    assert set(store.run().cells) == {cell.key for cell in job.plan.cells}


def test_a_cell_whose_task_has_more_inputs_by_now_does_not_leave_the_grid(ask: Ask) -> None:
    cell = plan_job(ask()).plan.cells[0]
    more = replace(cell, prompts=replace(cell.prompts, count=12), task=replace(cell.task, inputs="of 12 images"))
    assert cell.place == more.place != replace(cell, steps=99).place


def test_claims_that_were_judged_stay_and_do_not_change(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [f"methods.{name}.steps=[2,4,8]" for name in ("tcd", "dpmpp_2s")]
    both = ("claim=[tcd_few_steps,tcd_8_steps]", "scores=[fid,attribute_accuracy]", *steps)
    job, store = begin(ask(*both), done=True)
    seen, unseen = job.run.claims
    note_looks(store, job.run, [(seen, 6)])
    again, _ = begin(ask("claim=[]", "scores=[fid]"))
    assert whole_run(store, again).claims == store.run().claims == (seen,), "one that was never judged need not stay"
    assert f"has these claims already, they stay: {seen.name}" in capsys.readouterr().err
    assert [*whole_run(store, again).settings["claims"]] == [seen.name]
    assert whole_run(store, job).claims == (seen, unseen), "none is there twice"
    begin(ask(*both, f"claims.{unseen.name}.metrics=[fid]"))
    begin(ask(*both, f"claims.{seen.name}.text='said otherwise'"))
    with pytest.raises(BenchError, match=f"claims.{seen.name} was judged there with another definition; give the"):
        join(ask(*both, f"claims.{seen.name}.metrics=[fid]"))


def test_looks_are_remembered_with_their_claims(ask: Ask) -> None:
    job, store = begin(ask())
    (claim,) = job.run.claims
    assert looks_of(store) == []
    note_looks(store, job.run, [])
    assert looks_of(store) == [], "nothing was judged"
    for _ in range(2):
        note_looks(store, replace(job.run, looks=(0.25, 0.5)), [(claim, 6)])
    note_looks(store, replace(job.run, prompts=job.run.prompts * 3), [(replace(claim, name="more"), 18)])
    known = {claim.name: define(claim)}
    assert looks_of(store)[0] == Look(6, 12, 1, known)
    assert [(look.images, look.concerns([claim.name])) for look in looks_of(store)] == [(6, True), (18, False)]
    path = Path(store.location) / "looks" / "18.json"
    path.write_bytes(path.read_bytes().replace(b"more", b"less"))
    assert looks_of(store)[0].concerns([claim.name]), "a damaged one counts for all"


def noisy_jpegs(folder: Path, count: int, size: int = 64) -> None:
    folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (size, size, 3), dtype=np.uint8)
        Pictures.fromarray(pixels).save(folder / f"{i}.jpg", quality=90)


def flip(path: Path) -> None:
    """A bit of a JPEG file's compressed part, after which it can still be decoded."""
    content = bytearray(path.read_bytes())
    for position in range(len(content) // 2, len(content)):
        changed = bytearray(content)
        changed[position] ^= 2
        path.write_bytes(changed)
        with suppress(BenchError):
            read_image(path)
            return
    raise AssertionError


def test_reference_images_that_changed_are_named(ask: Ask, tmp_path: Path) -> None:
    """A JPEG file with a flipped bit in its compressed part can be read, and is a different picture."""
    photos = tmp_path / "photos"
    noisy_jpegs(photos, 17)
    asked = ask(f"reference.source={photos}")
    _, store = begin(asked)
    begin(asked)
    flip(photos / "7.jpg")
    with pytest.raises(
        BenchError, match=r"reference \(16 images of .*\) has other content than it had: 7\.jpg is anot"
    ):
        join(asked)
    (photos / "3.jpg").rename(photos / "99.jpg")
    with pytest.raises(BenchError, match=r": 7\.jpg is another picture, 3\.jpg is gone, 16\.jpg is new; choose"):
        join(asked)
    store.files.remove(PICTURES)
    with pytest.raises(BenchError, match="has other content than it had; choose"):
        join(asked)


def test_inputs_and_masks_that_changed_are_named(ask: Ask, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    noisy_jpegs(inputs, 6)
    (inputs / "masks").mkdir()
    for i in range(6):
        mask = np.zeros((64, 64), np.uint8)
        mask[: 8 + i] = 255
        Pictures.fromarray(mask).save(inputs / "masks" / f"{i}.png")
    asked = ask("task=inpainting", f"task.inputs={inputs}", "scores=[kid]", "claim=[]")
    begin(asked)
    Pictures.fromarray(mask[::-1]).save(inputs / "masks" / "2.png")
    flip(inputs / "4.jpg")
    said = (
        r"task.inputs of 6 images .*has other content than it had: 4\.jpg is another picture, masks/2\.png is another"
    )
    with pytest.raises(BenchError, match=said):
        join(asked)
