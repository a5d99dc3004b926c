"""No code that comes with a model is executed: each hostile file would write a marker, and none appears."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.__main__ import main

Overrides = Callable[..., list[str]]
Run = Callable[..., tuple[int, str]]
Hostile = Callable[[str], Path]


class Payload:
    """An object whose pickle touches a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


@pytest.fixture
def hostile(models: Path, tmp_path: Path, marker: Path) -> Hostile:
    """A copy of a model with `evil.py` in it, which touches the marker when it is imported."""

    def copy(name: str) -> Path:
        directory = tmp_path / name
        shutil.copytree(models / name, directory)
        for folder in (directory, *(path for path in directory.iterdir() if path.is_dir())):
            (folder / "evil.py").write_text(
                f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
                "from transformers import CLIPTokenizerFast as Evil, CLIPTextConfig as EvilConfig\n"
                "from transformers import CLIPTextModel as EvilModel\n"
            )
        return directory

    return copy


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def run(overrides: Overrides, marker: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run with more overrides, for a user who consents to everything; returns the exit code and what was printed."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")

    def run(*more: str) -> tuple[int, str]:
        code, said = main(["run", *overrides("measure.latency=false", *more)]), capsys.readouterr().err
        assert "Traceback" not in said
        assert not marker.exists()
        return code, said

    return run


AUTO_MAP = {
    "tokenizer_class": "Evil",
    "auto_map": {
        "AutoTokenizer": ["evil.Evil", "evil.Evil"],
        "AutoConfig": "evil.EvilConfig",
        "AutoModel": "evil.EvilModel",
    },
}


def ask_for_own_tokenizer(config: dict[str, Any]) -> None:
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}


def test_an_evaluator_that_requires_trust_remote_code_is_refused(hostile: Hostile, run: Run) -> None:
    directory = hostile("evaluator")
    edit(directory / "open_clip_config.json", ask_for_own_tokenizer)
    edit(directory / "tokenizer_config.json", lambda config: config.update(AUTO_MAP))
    code, said = run(f"extractors.mini.source={directory}")
    assert code in (1, 2)
    assert "trust_remote_code" in said
    assert "evaluator" in said


def test_no_code_that_an_evaluator_s_tokenizer_names_is_run(hostile: Hostile, run: Run) -> None:
    directory = hostile("evaluator")
    edit(directory / "tokenizer_config.json", lambda config: config.update(AUTO_MAP))
    run(f"extractors.mini.source={directory}")


def test_an_evaluator_with_a_foreign_text_tower_is_refused(hostile: Hostile, run: Run) -> None:
    directory = hostile("evaluator")
    (directory / "config.json").write_text(json.dumps({"model_type": "evil", **AUTO_MAP}))
    edit(
        directory / "open_clip_config.json",
        lambda config: config["model_cfg"]["text_cfg"].update(hf_model_name=str(directory)),
    )
    assert run(f"extractors.mini.source={directory}")[0] in (1, 2)


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.update(_class_name=["evil", "Evil"]),
        lambda index: index.update(unet=["evil", "EvilModel"]),
        lambda index: index.update(tokenizer=["evil", "Evil"]),
        lambda index: index.update(scheduler=["os", "system"]),
        lambda index: index.update(scheduler=["evil", "Evil"]),
    ],
)
def test_a_checkpoint_with_custom_code_is_refused(
    hostile: Hostile, run: Run, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], None]
) -> None:
    directory = hostile("teacher")
    edit(directory / "model_index.json", change)
    monkeypatch.chdir(directory)
    assert run(f"models.mini.source={directory}")[0] in (1, 2)


def test_a_checkpoint_whose_tokenizer_names_code_runs_none(hostile: Hostile, run: Run) -> None:
    directory = hostile("teacher")
    edit(directory / "tokenizer" / "tokenizer_config.json", lambda config: config.update(auto_map=AUTO_MAP["auto_map"]))
    run(f"models.mini.source={directory}", "method=[dpmpp_2s]")


PICKLES = {
    "evaluator": ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "extractors.mini.source={0}"),
    "teacher": (
        *("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.bin"),
        "models.mini.source={0}",
    ),
    "tcd-lora": (
        *("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin"),
        "models.mini.adapters.tcd.source={0} models.mini.adapters.tcd.file={1}",
    ),
}
"""A file of a model, the name that it would have as a pickle, and the settings that choose it."""


@pytest.mark.parametrize("renamed", [True, False])
@pytest.mark.parametrize("model", PICKLES)
def test_a_model_of_pickles_is_refused(hostile: Hostile, run: Run, marker: Path, model: str, renamed: bool) -> None:
    directory, (whole, pickled, settings) = hostile(model), PICKLES[model]
    (directory / whole).unlink()
    name = pickled if renamed else whole
    torch.save({"x": Payload(marker)}, directory / name)
    assert run(*settings.format(directory, name).split())[0] in (1, 2)
