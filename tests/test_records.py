"""Records survive JSON unchanged, and a cell's key covers exactly what can change its images."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from factories import make_record

from bench.records.cell import (
    Adapter,
    Base,
    Cell,
    Part,
    PromptSet,
    SchedulerSpec,
    Task,
    canonical_json,
    content_hash,
)
from bench.records.errors import BenchError, Corrupt, check_path
from bench.records.record import SCHEMA_VERSION, Calls, Failure, Images, Latency, Memory, Record
from bench.records.run import Claim, Run, Side

SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.00085}
PART = Part("controlnet", "owner/controlnet", "77aa")
BASE = Base("mini", "bench://teacher", "0a1b", "StableDiffusionPipeline", "float32", 64, 48, SCHEDULE, parts=(PART,))
ADAPTER = Adapter("tcd", "bench://tcd-lora", "lora.safetensors", "9f8e", 1.0)
SCHEDULER = SchedulerSpec("diffusers.TCDScheduler", {**SCHEDULE, "betas": [0.1, 0.2], "clip_sample": None})
CELL = Cell(
    base=BASE,
    task=Task(),
    method="tcd",
    scheduler=SCHEDULER,
    adapters=(ADAPTER,),
    fused=True,
    steps=4,
    eta=0.3,
    guidance_scale=0.0,
    prompts=PromptSet("world", 8, "77aa"),
    seed=3,
    batch_size=4,
    device="cpu",
    versions={"torch": "2.11", "diffusers": "0.42"},
)
CALLS = Calls(
    timesteps=(999.0, 499.0),
    sigmas=(14.6, 0.1 + 0.2),
    orders=(1, 2),
    scheduler_config={"lower_order_final": False, "original_inference_steps": 50},
    arguments={"eta": 0.3},
    scheduler_steps=2,
    denoiser_calls=2,
    denoiser_evaluations=4,
    denoiser_samples=32,
    batch_size=8,
)
IMAGES = Images(8, 64, 48, "ab" * 32)
LATENCY = Latency(1, 1, "perf_counter", (0.1, 0.2), (0.01, 0.01), (0.05, 0.06), (0.02, 0.02), (0.1, 0.1))
FULL = Record(
    key=CELL.key,
    cell=CELL,
    status="ok",
    environment={"cpu": "zwölf Kerne", "threads": 2},
    sampling_s=1 / 3,
    calls=CALLS,
    images=IMAGES,
    latency=LATENCY,
    memory=Memory(1, 1, 2, None, 4),
)
BARE = Record(CELL.key, CELL, "ok", {}, 0.0)
FAILED = replace(BARE, status="error", failure=Failure("ValueError", "eta „1.2“", "Traceback …\n  line"))
SIDES = Side("tcd", (2, 4), 0.3), Side("dpmpp_2s", (2, 4), None, 3.0)
CLAIM = Claim("few", "TCD wins", *SIDES, ("fid",), "not_worse", {"fid": 0.5})
RUN = Run(
    name="mini",
    settings={"seed": 0, "methods": {"tcd": {"eta": [0.0, 0.3]}}},
    cells=(CELL.key, "0" * 16),
    left_out=(("mini tcd 60 steps", "60 steps do not fit"),),
    prompts=("a red circle", "two „blue“ squares"),
    labels={"tcd": "TCD"},
    metrics=("fid", "kid"),
    claims=(CLAIM,),
    features={"mini": "e1"},
    references={"mini": "r1"},
    protocols={"mini": {"size": "224"}},
)


def settings_of(cell: Cell, name: str, value: object) -> Cell:
    """The cell with one more scheduler setting."""
    return replace(cell, scheduler=replace(cell.scheduler, settings={**cell.scheduler.settings, name: value}))


CHANGES_IMAGES: dict[str, Cell] = {
    "Base.weights": replace(CELL, base=replace(BASE, weights="other")),
    "Base.pipeline": replace(CELL, base=replace(BASE, pipeline="StableDiffusionXLPipeline")),
    "Base.dtype": replace(CELL, base=replace(BASE, dtype="float16")),
    "Base.height": replace(CELL, base=replace(BASE, height=72)),
    "Base.width": replace(CELL, base=replace(BASE, width=64)),
    "Base.noise_schedule": replace(CELL, base=replace(BASE, noise_schedule={**SCHEDULE, "beta_start": 0.001})),
    "Base.checkpoint_schedule": replace(CELL, base=replace(BASE, checkpoint_schedule={"beta_start": 0.1})),
    "Base.revision": replace(CELL, base=replace(BASE, revision="main")),
    "Base.variant": replace(CELL, base=replace(BASE, variant="fp16")),
    "Base.channels_last": replace(CELL, base=replace(BASE, channels_last=True)),
    "Base.parts": replace(CELL, base=replace(BASE, parts=())),
    "Part.role": replace(CELL, base=replace(BASE, parts=(replace(PART, role="motion_adapter"),))),
    "Part.weights": replace(CELL, base=replace(BASE, parts=(replace(PART, weights="other"),))),
    "Part.subfolder": replace(CELL, base=replace(BASE, parts=(replace(PART, subfolder="x"),))),
    "Part.file": replace(CELL, base=replace(BASE, parts=(replace(PART, file="x"),))),
    "Part.variant": replace(CELL, base=replace(BASE, parts=(replace(PART, variant="fp16"),))),
    "Base.memory_options": replace(CELL, base=replace(BASE, memory_options={"vae_tiling": True})),
    "Base.guidance": replace(CELL, base=replace(BASE, guidance="none")),
    "Base.arguments": replace(CELL, base=replace(BASE, arguments={"max_sequence_length": 256})),
    "Task.kind": replace(CELL, task=Task("inpainting")),
    "Task.settings": replace(CELL, task=Task(settings={"strength": 0.8})),
    "Task.inputs": replace(CELL, task=Task(inputs="abc")),
    "SchedulerSpec.target": replace(CELL, scheduler=replace(SCHEDULER, target="diffusers.LCMScheduler")),
    "SchedulerSpec.settings": settings_of(CELL, "clip_sample", value=True),
    "SchedulerSpec.settings, one more": settings_of(CELL, "timestep_spacing", "trailing"),
    "Adapter.file": replace(CELL, adapters=(replace(ADAPTER, file="other.safetensors"),)),
    "Adapter.weights": replace(CELL, adapters=(replace(ADAPTER, weights="other"),)),
    "Adapter.scale": replace(CELL, adapters=(replace(ADAPTER, scale=0.5),)),
    "Cell.adapters": replace(CELL, adapters=()),
    "Cell.adapters, one more": replace(CELL, adapters=(ADAPTER, ADAPTER)),
    "Cell.fused": replace(CELL, fused=False),
    "Cell.steps": replace(CELL, steps=8),
    "Cell.eta": replace(CELL, eta=0.30000000000000004),
    "Cell.eta, none": replace(CELL, eta=None),
    "Cell.guidance_scale": replace(CELL, guidance_scale=1.0),
    "PromptSet.count": replace(CELL, prompts=replace(CELL.prompts, count=7)),
    "PromptSet.text_hash": replace(CELL, prompts=replace(CELL.prompts, text_hash="other")),
    "Cell.seed": replace(CELL, seed=4),
    "Cell.noise": replace(CELL, noise="device"),
    "Cell.batch_size": replace(CELL, batch_size=8),
    "Cell.device": replace(CELL, device="cuda"),
    "Cell.versions": replace(CELL, versions={**CELL.versions, "torch": "2.12"}),
}
NAMES_FOR_PEOPLE: dict[str, Cell] = {
    "Base.name": replace(CELL, base=replace(BASE, name="my model")),
    "Base.source": replace(CELL, base=replace(BASE, source="/elsewhere/teacher")),
    "Base.config": replace(CELL, base=replace(BASE, config="/elsewhere/configuration")),
    "Part.source": replace(CELL, base=replace(BASE, parts=(replace(PART, source="/elsewhere"),))),
    "Adapter.name": replace(CELL, adapters=(replace(ADAPTER, name="my adapter"),)),
    "Adapter.source": replace(CELL, adapters=(replace(ADAPTER, source="/elsewhere/lora"),)),
    "Cell.method": replace(CELL, method="my method"),
}
PARTS = {"Cell.task", "Cell.base", "Cell.scheduler", "Cell.prompts"}
OPEN = {"PromptSet.source"}  # the hash of the text says already what is sampled


def refuse_constant(token: str) -> float:
    """Python reads NaN and Infinity, which JSON does not have."""
    raise ValueError(f"{token} is not JSON")


PLAIN = replace(FULL, calls=replace(CALLS, sigmas=None, orders=None), latency=replace(LATENCY, device_s=None))


@pytest.mark.parametrize("record", [FULL, BARE, FAILED, PLAIN], ids=["full", "bare", "failed", "no sigmas or orders"])
def test_a_record_survives_json_unchanged(record: Record) -> None:
    assert Record.from_json(record.to_json()) == record


def test_a_record_is_one_line_of_strict_json() -> None:
    text = FAILED.to_json()
    assert "\n" not in text
    assert json.loads(text, parse_constant=refuse_constant)["failure"]["traceback"] == "Traceback …\n  line"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_lacks_is_never_written_into_a_record(number: float) -> None:
    record = replace(FULL, sampling_s=number)
    try:
        text = record.to_json()
    except ValueError:
        return
    json.loads(text, parse_constant=refuse_constant)


@pytest.mark.parametrize("version", [0, 1, "2", None])
@pytest.mark.parametrize("stored", [FULL, RUN], ids=["record", "run"])
def test_another_schema_version_is_refused_in_one_sentence(stored: Record | Run, version: object) -> None:
    with pytest.raises(BenchError) as refusal:
        type(stored).from_json(json.dumps({**asdict(stored), "schema": version}))
    message = str(refusal.value)
    assert f"schema version {version!r}" in message
    assert f"reads {SCHEMA_VERSION}" in message
    assert "run the experiment again" in message
    assert "\n" not in message


def test_a_record_without_a_schema_version_is_refused() -> None:
    data = asdict(FULL)
    del data["schema"]
    with pytest.raises(BenchError, match="schema version None"):
        Record.from_json(json.dumps(data))


def test_the_reproducible_part_holds_no_times_no_memory_and_no_machine() -> None:
    other = replace(FULL, sampling_s=9.0, latency=None, memory=None, environment={"cpu": "other"})
    assert FULL.reproducible() == other.reproducible()
    assert FULL.reproducible() != replace(FULL, images=replace(IMAGES, sha256="other")).reproducible()
    assert FULL.reproducible() != replace(FULL, calls=replace(CALLS, denoiser_samples=31)).reproducible()


def test_a_run_survives_json_unchanged() -> None:
    assert Run.from_json(RUN.to_json()) == RUN


def test_a_run_is_strict_json_with_readable_text() -> None:
    text = RUN.to_json()
    assert json.loads(text, parse_constant=refuse_constant)["name"] == "mini"
    assert "two „blue“ squares" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("cell", [CELL, CHANGES_IMAGES["Cell.eta, none"], CHANGES_IMAGES["Cell.adapters"]])
def test_a_cell_survives_json_unchanged_and_keeps_its_name(cell: Cell) -> None:
    read = Cell.from_dict(json.loads(json.dumps(asdict(cell))))
    assert read == cell
    assert read.key == cell.key
    assert read.pipeline_key == cell.pipeline_key


def test_fields_that_came_later_are_in_no_file_and_no_hash_at_their_default() -> None:
    record = make_record(CELL, latency=LATENCY)
    written = json.loads(record.to_json())
    assert not {"guidance", "arguments"} & written["cell"]["base"].keys()
    assert not {"load_s", "warmup_s"} & (written.keys() | written["latency"].keys())
    assert "noise" not in written["cell"]
    later = replace(record, load_s=2.0, latency=replace(LATENCY, warmup_s=(1.0,)))
    assert Record.from_json(later.to_json()) == later
    assert later.reproducible() == record.reproducible()


@pytest.mark.parametrize("claim", [CLAIM, replace(CLAIM, expect="better", margins={})])
def test_a_claim_survives_json_unchanged(claim: Claim) -> None:
    assert Claim.from_dict(json.loads(json.dumps(asdict(claim)))) == claim


def test_every_setting_that_can_change_an_image_changes_the_key_of_its_cell() -> None:
    names = {cell.key: what for what, cell in {"as it is": CELL, **CHANGES_IMAGES}.items()}
    assert {"as it is", *CHANGES_IMAGES} - set(names.values()) == set()


@pytest.mark.parametrize("what", NAMES_FOR_PEOPLE)
def test_display_names_do_not_change_the_key_of_a_cell(what: str) -> None:
    assert NAMES_FOR_PEOPLE[what] != CELL
    assert NAMES_FOR_PEOPLE[what].key == CELL.key


def test_every_field_of_a_cell_is_known_to_change_images_or_to_be_a_name() -> None:
    kinds = (Cell, Base, Part, Task, Adapter, SchedulerSpec, PromptSet)
    there = {f"{kind.__name__}.{field.name}" for kind in kinds for field in fields(kind)}
    sorted_out = {what.partition(",")[0] for what in (*CHANGES_IMAGES, *NAMES_FOR_PEOPLE)}
    assert sorted_out | PARTS | OPEN == there


def test_the_name_of_a_cell_does_not_depend_on_the_order_of_settings() -> None:
    backwards = dict(reversed([*SCHEDULER.settings.items()]))
    assert replace(CELL, scheduler=replace(SCHEDULER, settings=backwards)).key == CELL.key


def test_the_name_of_a_cell_is_sixteen_hexadecimal_digits_that_every_process_finds_alike() -> None:
    assert content_hash({"b": 1, "a": [0.1, None]}) == "39c1a64c21a6f8de"
    assert len(CELL.key) == 16
    assert set(CELL.key) <= set("0123456789abcdef")


SAMPLING_ONLY = (
    *("Cell.steps", "Cell.eta", "Cell.guidance_scale", "Cell.seed", "Cell.batch_size"),
    *("SchedulerSpec.target", "SchedulerSpec.settings", "PromptSet.text_hash"),
)
OF_THE_PIPELINE = (
    *("Base.weights", "Base.dtype", "Base.variant", "Base.noise_schedule", "Adapter.weights", "Adapter.scale"),
    *("Cell.adapters", "Cell.fused", "Cell.device"),
)


@pytest.mark.parametrize("what", [*SAMPLING_ONLY, *OF_THE_PIPELINE])
def test_one_loaded_pipeline_serves_cells_that_differ_in_sampling_only(what: str) -> None:
    assert (CHANGES_IMAGES[what].pipeline_key == CELL.pipeline_key) == (what in SAMPLING_ONLY)


def test_canonical_json_is_equal_for_equal_values_and_strict() -> None:
    assert canonical_json({"b": [1, 0.1], "a": "ü"}) == '{"a":"ü","b":[1,0.1]}'
    with pytest.raises(ValueError, match="Out of range float"):
        canonical_json(float("nan"))


@pytest.mark.parametrize(("eta", "label"), [(0.3, "mini tcd 4 steps eta 0.3"), (None, "mini tcd 4 steps")])
def test_the_label_names_eta_only_where_there_is_one(eta: float | None, label: str) -> None:
    assert replace(CELL, eta=eta).label == label


@pytest.mark.parametrize("value", [CELL, FULL, RUN, CLAIM])
def test_shared_data_cannot_be_changed(value: Any) -> None:
    with pytest.raises(AttributeError):
        setattr(value, fields(value)[0].name, "changed")


def test_cells_are_read_from_any_mapping_which_stays_as_it_was() -> None:
    data: Mapping[str, Any] = asdict(CELL)
    before = json.dumps(data)
    Cell.from_dict(data)
    assert json.dumps(data) == before


@pytest.mark.parametrize(
    "damage",
    [lambda text: text[:-9], lambda text: text.replace('"denoiser_samples": ', '"unet_sample": '), lambda _: "[]"],
)
def test_an_altered_record_is_detected(damage: Callable[[str], str]) -> None:
    text = FULL.to_json()
    assert Record.from_json(text) == FULL
    assert damage(text) != text
    with pytest.raises(Corrupt):
        Record.from_json(damage(text))


def test_a_path_is_refused_by_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert check_path("a=b", tmp_path / "file", "file", "") == check_path("a=b", tmp_path / "file", "any", "")
    assert check_path("a=b", tmp_path, "folder", "") == tmp_path
    absent = "does not exist"
    for name, kind, what in (
        *(("nowhere", "any", absent), ("file/x", "file", absent), ("link", "file", absent)),
        *(
            ("file", "folder", "is a file"),
            (".", "file", "is a folder"),
            ("x" * 300, "any", "cannot be read ("),
        ),
    ):
        with pytest.raises(BenchError) as refusal:
            check_path("a=b", tmp_path / name, kind, "give another")  # type: ignore[arg-type]
        assert str(refusal.value).startswith(f"a=b {what}")
        assert str(refusal.value).endswith("; give another")
