"""`fetch` names what is missing of prompts, reference images and weights, and says how to get it; no host is asked."""

import json
import shlex
import socket
import sys
import zipfile
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

from bench.__main__ import main
from bench.checkpoints.data_sets import ARCHIVES, advice
from bench.execute.fetch import is_unreachable

COCO = ["experiment=paper_coco5k", "prompts.count=2", "reference.count=3"]


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Work in an empty directory with empty caches, where every connection fails; returns the hosts that were asked."""
    monkeypatch.chdir(tmp_path)
    asked: list[Any] = []

    def refuse(_: object, address: Any, *more: object) -> NoReturn:
        asked.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    def unknown(host: str, *more: object, **named: object) -> NoReturn:
        asked.append(host)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    for name in ("HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr("time.sleep", lambda _: None)
    return asked


def fetched(capsys: pytest.CaptureFixture[str], *overrides: str) -> tuple[int, dict[str, tuple[bool, str]]]:
    """Return the exit code of fetch and, by subject, whether it is there and what is said of it."""
    capsys.readouterr()
    code = main(["fetch", *overrides])
    lines = capsys.readouterr().out.splitlines()
    return code, {line[9:37].strip(): (line.startswith("ok"), line[38:].strip()) for line in lines}


def put_coco(place: Path, images: int) -> None:
    (place / "annotations").mkdir(parents=True)
    notes = [{"image_id": i, "id": i, "caption": f"a cat {i}"} for i in range(2)]
    (place / "annotations" / "captions_val2014.json").write_text(json.dumps({"annotations": notes}))
    (place / "val2014").mkdir()
    for i in range(images):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(place / "val2014" / f"{i}.jpg")


def test_missing_data_of_coco_is_named_with_the_commands_that_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = fetched(capsys, *COCO)
    assert code == 1
    for subject, parts in {
        "prompts": (
            "annotations/annotations_trainval2014.zip",
            "241 MB",
            "'annotations/captions_val2014.json' -d 'coco'",
        ),
        "reference images": ("zips/val2014.zip", "6 GB", "'val2014/*' -d 'coco'"),
    }.items():
        fine, state = said[subject]
        assert not fine
        assert "does not exist" in state
        assert f"http://images.cocodataset.org/{parts[0]}" in state
        assert all(part in state for part in parts[1:])


def test_what_is_there_afterwards_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    put_coco(tmp_path / "coco", 3)
    _, said = fetched(capsys, *COCO)
    assert said["prompts"] == (True, "2 of coco/annotations/captions_val2014.json")
    assert said["reference images"] == (True, "3 images of coco/val2014")
    (tmp_path / "coco" / "val2014" / "0.jpg").unlink()
    _, said = fetched(capsys, *COCO)
    fine, state = said["reference images"]
    assert not fine
    assert "holds 2 images but 3" in state
    assert "val2014.zip" in state


def test_without_a_network_each_checkpoint_has_one_clear_sentence(
    capsys: pytest.CaptureFixture[str], no_network: list[Any]
) -> None:
    code, said = fetched(capsys, *COCO)
    assert code == 1
    assert {"model sdxl", "adapter sdxl tcd", "extractor vit-b-32", "extractor inception"} <= said.keys()
    for subject in ("model sdxl", "adapter sdxl tcd", "extractor vit-b-32"):
        assert "no connection to the hub; run the same command again" in said[subject][1], said[subject]
    assert "no connection to github.com" in said["extractor inception"][1]
    assert all("Traceback" not in state and "Errno" not in state for _, state in said.values())
    hub = [host for host in no_network if "github" not in str(host)]
    assert len(hub) <= 8, "the hub is tried for one checkpoint alone"


def test_data_of_the_package_and_other_files_need_no_words_about_coco(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert fetched(capsys, "experiment=smoke") == (0, {})
    code, said = fetched(capsys, "experiment=smoke", "prompts.source=mine.txt", "reference.source=photos")
    assert code == 1
    assert {subject: fine for subject, (fine, _) in said.items()} == {"prompts": False, "reference images": False}
    assert not any("curl" in state for _, state in said.values())


@pytest.mark.skipif(sys.platform == "win32", reason="unzip is not there")
def test_the_commands_unpack_what_the_settings_name(tmp_path: Path) -> None:
    for archive, place in zip(ARCHIVES, ("data/annotations/captions_val2014.json", "data/val2014"), strict=True):
        words = shlex.split(str(archive.command(place)))
        assert words[words.index("-O") + 1] == archive.url
        _, _, file, member, _, folder = words[words.index("unzip") :]
        assert file == archive.url.rpartition("/")[2]
        with zipfile.ZipFile(tmp_path / file, "w") as written:
            written.writestr("annotations/captions_val2014.json", "{}")
            written.writestr("val2014/1.jpg", "")
        inner = [name for name in zipfile.ZipFile(tmp_path / file).namelist() if Path(name).match(member)]
        assert inner
        assert all(f"{folder}/{name}".startswith(place) for name in inner)
    assert advice("photos/val2014") is not None
    assert advice("captions_val2014.json") is None, "the archive holds it in a folder"
    assert advice("photos") is None


def test_errors_of_a_missing_connection_are_known() -> None:
    class ConnectTimeout(Exception):  # noqa: N818
        """As of the hub's client."""

    outer = RuntimeError("it failed")
    outer.__cause__ = ConnectTimeout()
    for error in (ConnectionResetError(), TimeoutError(), URLError(socket.gaierror(-3, "no")), ConnectTimeout(), outer):
        assert is_unreachable(error), error
    for other in (RuntimeError("x"), ValueError(), FileNotFoundError()):
        assert not is_unreachable(other)


def test_a_gated_repository_is_named_with_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError

    def refuse(*_: object, **__: object) -> NoReturn:
        raise GatedRepoError.__new__(GatedRepoError)

    monkeypatch.setattr(HfApi, "list_repo_files", refuse)
    _, said = fetched(capsys, "experiment=few_step_flow", "model=[flux1_dev]", "method=[flow_euler]", "claim=[]")
    assert "accept its conditions on https://huggingface.co/black-forest-labs/FLUX.1-dev" in said["model flux1_dev"][1]
