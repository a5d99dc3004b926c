"""No code that comes with a model is executed: each hostile file would write a marker, and none appears."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.__main__ import main as tcd_bench

Overrides = Callable[..., list[str]]


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
def hostile(models: Path, tmp_path: Path, marker: Path) -> Callable[[str], Path]:
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


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the output of a command that must fail without a traceback."""
    code = tcd_bench([*arguments])
    said = capsys.readouterr().err
    assert code in (1, 2), said
    assert "Traceback" not in said
    return said


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


def test_an_evaluator_that_requires_trust_remote_code_is_refused(
    hostile: Callable[[str], Path], overrides: Overrides, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = hostile("evaluator")
    edit(directory / "open_clip_config.json", ask_for_own_tokenizer)
    edit(directory / "tokenizer_config.json", lambda config: config.update(AUTO_MAP))
    said = refused(capsys, "run", *overrides(f"evaluator.source={directory}"))
    assert "trust_remote_code" in said
    assert "evaluator" in said
    assert not marker.exists()


def test_no_code_that_an_evaluator_s_tokenizer_names_is_run(
    hostile: Callable[[str], Path],
    overrides: Overrides,
    marker: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = hostile("evaluator")
    edit(directory / "tokenizer_config.json", lambda config: config.update(AUTO_MAP))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    tcd_bench(["run", *overrides(f"evaluator.source={directory}")])
    assert "Traceback" not in capsys.readouterr().err
    assert not marker.exists()


def test_an_evaluator_with_a_foreign_text_tower_is_refused(
    hostile: Callable[[str], Path],
    overrides: Overrides,
    marker: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = hostile("evaluator")
    (directory / "config.json").write_text(json.dumps({"model_type": "evil", **AUTO_MAP}))
    edit(
        directory / "open_clip_config.json",
        lambda config: config["model_cfg"]["text_cfg"].update(hf_model_name=str(directory)),
    )
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    refused(capsys, "run", *overrides(f"evaluator.source={directory}"))
    assert not marker.exists()


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors"])
def test_an_evaluator_of_pickles_is_refused(
    hostile: Callable[[str], Path], overrides: Overrides, marker: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    directory = hostile("evaluator")
    (directory / "open_clip_model.safetensors").unlink()
    torch.save({"x": Payload(marker)}, directory / name)
    refused(capsys, "run", *overrides(f"evaluator.source={directory}"))
    assert not marker.exists()


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
    hostile: Callable[[str], Path],
    overrides: Overrides,
    marker: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, Any]], None],
) -> None:
    directory = hostile("teacher")
    edit(directory / "model_index.json", change)
    monkeypatch.chdir(directory)
    refused(capsys, "run", *overrides(f"models.mini.source={directory}"))
    assert not marker.exists()


def test_a_checkpoint_whose_tokenizer_names_code_runs_none(
    hostile: Callable[[str], Path], overrides: Overrides, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = hostile("teacher")
    edit(directory / "tokenizer" / "tokenizer_config.json", lambda config: config.update(auto_map=AUTO_MAP["auto_map"]))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    tcd_bench(["run", *overrides(f"models.mini.source={directory}", "measure.latency=false", "method=[dpmpp_2s]")])
    assert not marker.exists()


def test_a_checkpoint_of_pickles_is_refused(
    hostile: Callable[[str], Path], overrides: Overrides, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = hostile("teacher")
    (directory / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"x": Payload(marker)}, directory / "unet" / "diffusion_pytorch_model.bin")
    refused(capsys, "run", *overrides(f"models.mini.source={directory}"))
    assert not marker.exists()


@pytest.mark.parametrize("name", ["pytorch_lora_weights.bin", "pytorch_lora_weights.safetensors"])
def test_a_lora_of_pickles_is_refused(
    hostile: Callable[[str], Path], overrides: Overrides, marker: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    directory = hostile("tcd-lora")
    (directory / "pytorch_lora_weights.safetensors").unlink()
    torch.save({"x": Payload(marker)}, directory / name)
    where = [f"models.mini.adapters.tcd.source={directory}", f"models.mini.adapters.tcd.file={name}"]
    refused(capsys, "run", *overrides(*where))
    assert not marker.exists()
