"""Small untrained models on disk, in the layouts of the real ones, so that no test depends on trained weights."""

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from filelock import FileLock
from PIL import Image

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # before torch and numpy look; child processes inherit it
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, CORES // int(workers))))

WORKER_BYTES = 3 * 2**30
"""What a process that runs tests takes at most, with its child processes."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of processes of `-n auto`: one more than cores, since tests also wait for disks and children.

    Fewer where memory is short, at least two.
    """
    return max(2, min(CORES + 1, psutil.virtual_memory().available // WORKER_BYTES))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run modules with slow tests first, so that no process has one left at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def own_temporary_directory() -> Iterator[None]:
    """Use temporary files and device locks of this session only: no test waits for another run.

    Its name is short, since Ray's sockets are below it.
    """
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="tb-") as directory:
        patch.setenv("TMPDIR", directory)
        patch.setattr(tempfile, "tempdir", directory)
        yield


@pytest.fixture(scope="session", autouse=True)
def disks_are_not_awaited() -> Iterator[None]:
    """Leave out fsync, for which runs would wait by the thousand: tests kill processes, and no machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def draw() -> Iterator[Callable[..., object]]:
    """Leave the figures for papers empty: drawing them takes longer than most runs of tests. Yields what draws them."""
    from bench.report import build

    drawn = build._to_pictures
    png = io.BytesIO()
    Image.new("RGB", (1, 1)).save(png, "png")
    empty = {"png": png.getvalue(), "svg": b"<?xml?>", "pdf": b"%PDF"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_to_pictures", lambda _: (3.25, empty))
        yield drawn


@pytest.fixture
def drawn_figures(draw: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the figures for papers in this test."""
    from bench.report import build

    monkeypatch.setattr(build, "_to_pictures", draw)


@pytest.fixture(autouse=True)
def one_test_at_a_time_on_the_gpu(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Run tests that need a GPU one at a time, in any process."""
    if not request.node.get_closest_marker("gpu"):
        yield
        return
    with FileLock(tmp_path_factory.getbasetemp().parent / "gpu.lock"):
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `teacher`, `tcd-lora`, `lcm-lora` and `evaluator`."""
    import torch
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    from bench.mini import world
    from bench.mini.training import autoencoder, distillation, evaluator, teacher, vocabulary

    directory = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    tokenizer = vocabulary.build_tokenizer(world.caption(world.scene(seed)) for seed in range(200))
    vae = autoencoder.build_vae()
    model = teacher.Teacher(tokenizer)
    pipeline = teacher.assemble_pipeline(model.text_encoder, model.unet, vae, tokenizer)
    pipeline.save_pretrained(directory / "teacher")
    for name in ("tcd", "lcm"):
        config = LoraConfig(r=2, lora_alpha=2, target_modules=distillation.TARGETS, init_lora_weights=False)
        pipeline.unet.add_adapter(config, adapter_name=name)
        weights = {
            key: 0.5 * value for key, value in get_peft_model_state_dict(pipeline.unet, adapter_name=name).items()
        }
        StableDiffusionPipeline.save_lora_weights(directory / f"{name}-lora", unet_lora_layers=weights)
        pipeline.unet.delete_adapters(name)
    evaluator.save_evaluator(evaluator.build_evaluator(tokenizer), tokenizer, directory / "evaluator")
    return directory


@pytest.fixture
def own(models: Path, tmp_path: Path) -> Path:
    """Return a directory with copies of `teacher`, `tcd-lora` and `evaluator`."""
    for name in ("teacher", "tcd-lora", "evaluator"):
        shutil.copytree(models / name, tmp_path / "own" / name)
    return tmp_path / "own"


@pytest.fixture
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory for modules of a user, whose imports are undone afterwards."""
    directory = tmp_path / "cwd"
    directory.mkdir()
    monkeypatch.chdir(directory)
    before = set(sys.modules)
    yield directory
    for name in set(sys.modules) - before:
        if str(directory) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def other_extractor(models: Path, tmp_path: Path) -> Path:
    """The directory of the same extractor with another hash."""
    shutil.copytree(models / "evaluator", tmp_path / "other")
    (tmp_path / "other" / "note.txt").write_text("so that it has another hash")
    return tmp_path / "other"


@pytest.fixture
def overrides(models: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Return overrides for the small experiment on the small models; further ones take precedence."""

    def make(*more: str) -> list[str]:
        return [
            "experiment=smoke",
            f"models.mini.source={models}/teacher",
            f"models.mini.adapters.tcd.source={models}/tcd-lora",
            f"models.mini.adapters.lcm.source={models}/lcm-lora",
            f"extractors.mini.source={models}/evaluator",
            f"results={tmp_path}/run",
            *("device=cpu", "prompts.count=6", "batch_size=4", "reference.count=16", "measure.repeats=1"),
            *more,
        ]

    return make


@pytest.fixture(scope="session")
def flow_hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub cache with substitutes of the flow-matching repositories; all processes of the session share it."""
    from standins_flow import build_flow_hub

    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "flow-hub"
    with FileLock(f"{shared}.lock"):
        return build_flow_hub(shared)


class Ended(NamedTuple):
    """How verbs ended: the largest exit code, and what they wrote."""

    returncode: int
    stdout: str
    stderr: str


def run_offline(hub: Path, directory: Path, *commands: list[str]) -> Ended:
    """Run verbs one after another in a directory, with a hub cache and without the network."""
    import huggingface_hub.constants as constants

    from bench.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(directory)
        patch.setattr(constants, "HF_HUB_CACHE", str(hub))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        code = max(main(command) for command in commands)
    return Ended(code, out.getvalue(), err.getvalue())
