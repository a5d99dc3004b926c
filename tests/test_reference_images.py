"""Reference images are in order and in batches of one size, and identified by their content."""

import io
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from factories import make_run
from PIL import Image

from bench.__main__ import main
from bench.execute.job import make_references
from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.generate import image_folders, reference_images
from bench.generate.image_files import READER
from bench.generate.image_folders import list_images
from bench.generate.reference_images import check_real_images, load_real_images, name_real_images
from bench.mini import world
from bench.pictures import load_pictures
from bench.records.errors import BenchError
from bench.store.store import Store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, size in enumerate([(8, 6), (8, 6), (8, 6), (4, 4), (8, 6)]):
        mode = "L" if i == 1 else "RGB"
        Image.new(mode, size, 10 * i if mode == "L" else (10 * i, 0, 0)).save(tmp_path / f"{i}.PNG")
    (tmp_path / "readme.txt").write_text("no image")
    return tmp_path


def test_the_world_gives_its_reference_seeds() -> None:
    batches = list(load_real_images("world", 5, batch_size=2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert np.array_equal(batches[1][0], world.render(world.scene(world.split_seeds("reference", 3)[2])))


def test_a_folder_gives_its_images_by_name_in_rgb_and_batches_of_one_size(folder: Path) -> None:
    batches = list(load_real_images(str(folder), 5, batch_size=2))
    assert [batch.shape for batch in batches] == [(2, 6, 8, 3), (1, 6, 8, 3), (1, 4, 4, 3), (1, 6, 8, 3)]
    assert [int(image[0, 0, 0]) for batch in batches for image in batch] == [0, 10, 20, 30, 40]
    assert batches[0][1][0, 0].tolist() == [10, 10, 10]


def test_a_folder_is_named_by_the_content_of_the_images_that_are_used(folder: Path) -> None:
    whole, fewer = name_real_images(str(folder), 5), name_real_images(str(folder), 4)
    assert whole != fewer
    Image.new("RGB", (8, 6), (1, 2, 3)).save(folder / "4.PNG")
    assert name_real_images(str(folder), 5) != whole
    assert name_real_images(str(folder), 4) == fewer
    assert len({name_real_images("world", 4), name_real_images("world", 5)}) == 2


@pytest.mark.parametrize(("count", "said"), [(6, "holds 5 images"), (9, "at most that number")])
def test_too_few_images_are_refused(folder: Path, count: int, said: str) -> None:
    with pytest.raises(BenchError, match=said):
        name_real_images(str(folder), count)


def test_a_folder_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BenchError, match=r"reference\.source=/nowhere does not exist; give world, .*or a folder"):
        name_real_images("/nowhere", 1)


def test_a_damaged_image_is_named(folder: Path) -> None:
    (folder / "2.PNG").write_bytes(b"\x89PNG broken")
    with pytest.raises(BenchError, match=r"2\.PNG cannot be read as a picture"):
        list(load_real_images(str(folder), 3))


def test_pictures_stored_on_their_side_are_the_same_reference(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder in ("upright", "turned"):
        (tmp_path / folder).mkdir()
    for i in range(4):
        image = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        image.save(tmp_path / "upright" / f"{i}.png")
        note = Image.Exif()
        note[274] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned" / f"{i}.png", exif=note)
    (upright,), (turned,) = (load_real_images(str(tmp_path / folder), 4) for folder in ("upright", "turned"))
    assert upright.shape == (4, 6, 8, 3)
    assert np.array_equal(upright, turned)


def test_folders_are_searched_in_natural_order_and_skipped_files_are_reported_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, name in enumerate(["10.png", "2.bmp", "b/1.tif", "b/c/1.webp", "._2.png", ".git/1.png", "x.png/1.png"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / name)
    for name in ("Thumbs.db", "notes.txt", "b/photo.heic"):
        (tmp_path / name).write_text("x")
    (tmp_path / "results" / "images").mkdir(parents=True)
    (tmp_path / "results" / "run.json").write_text("{}")
    shutil.copy(tmp_path / "10.png", tmp_path / "results" / "images")
    (tmp_path / "b" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "linked").symlink_to(tmp_path / "b" / "c", target_is_directory=True)
    found = list_images(tmp_path)
    assert found.files == ("2.bmp", "10.png", "b/1.tif", "b/c/1.webp", "x.png/1.png")
    batches = list(load_real_images(str(tmp_path), 5))
    assert [int(image[0, 0, 0]) for batch in batches for image in batch] == [1, 0, 2, 3, 6]
    name_real_images(str(tmp_path), 5)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    for part in (
        "5 images",
        "3 hidden (",
        "Thumbs.db",
        "._2.png",
        ".git/",
        "2 of other kinds (b/photo.heic, notes.txt)",
    ):
        assert part in said[0]


def test_copies_are_mentioned_and_all_broken_files_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = name_real_images(str(folder), 5)
    check_real_images(str(folder), 5, name)
    for i in (3, 4):
        shutil.copy(folder / "2.PNG", folder / f"{i}.PNG")
    assert name_real_images(str(folder), 5) != name
    assert "2 of the 5 images are duplicates" in capsys.readouterr().err
    (folder / "1.PNG").write_bytes(b"")
    (folder / "3.PNG").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(BenchError, match=r"1\.PNG cannot .*; .*3\.PNG cannot .* git lfs pull; replace or remove them"):
        check_real_images(str(folder), 5, name_real_images(str(folder), 5))
    (folder / "5.PNG").symlink_to(folder / "nothing")
    with pytest.raises(BenchError, match=r"5\.PNG cannot be read"):
        name_real_images(str(folder), 6)


def test_a_picture_that_cannot_be_read_is_refused_before_anything_runs(
    overrides: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(15):
        Image.new("RGB", (64, 64), (i, 9 * i, 90)).save(photos / f"{i}.png")
    (photos / "cut.png").write_bytes((photos / "0.png").read_bytes()[:60])
    command = overrides("method=[tcd]", "claim=[]", "measure.latency=false", f"reference.source={photos}")
    for verb in ("plan", "run"):
        assert main([verb, *command]) == 2
        said = capsys.readouterr().err
        assert "cut.png cannot be read as a picture" in said
        assert "Traceback" not in said
    assert not (tmp_path / "run").exists()
    assert main(["doctor", *command]) == 1
    assert "MISSING  reference images" in capsys.readouterr().out
    Image.new("RGB", (64, 64)).save(photos / "cut.png")
    assert main(["run", *command, "methods.tcd.steps=[1]", "methods.tcd.eta=[0]"]) == 0
    assert Store(tmp_path / "run").run().protocols["mini"]["pictures"] == READER


@pytest.fixture
def decoded(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return names of files that were decoded, with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    names: list[str] = []

    def check(folder: Path, found: Sequence[str]) -> None:
        names.extend(found)
        image_folders.check_readable(folder, found)

    monkeypatch.setattr(reference_images, "check_readable", check)
    return names


def check(folder: Path, count: int = 5) -> None:
    check_real_images(str(folder), count, name_real_images(str(folder), count))


def test_pictures_are_decoded_once_for_a_content(
    folder: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(folder)
    assert len(decoded) == 5
    for file in folder.glob("*.PNG"):
        file.touch()  # other times, the same content
    check(folder)
    assert len(decoded) == 5
    Image.new("RGB", (8, 6), (1, 2, 3)).save(folder / "4.PNG")
    check(folder)
    assert len(decoded) == 10
    monkeypatch.setattr("PIL.__version__", "0")
    check(folder)
    assert len(decoded) == 15


def test_different_bytes_of_the_same_size_and_time_are_read_again(folder: Path, decoded: list[str]) -> None:
    check(folder)
    path = folder / "4.PNG"
    state, content = path.stat(), bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    for _ in range(2):  # what was refused is not remembered as whole
        with pytest.raises(BenchError, match=r"4\.PNG cannot be read as a picture"):
            check(folder)
    assert len(decoded) == 15


def test_nothing_is_cached_without_a_cache_directory(
    folder: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "readme.txt"))
    for _ in range(2):
        check(folder)
    assert len(decoded) == 10


def test_some_reference_images_are_kept_with_their_features(
    folder: Path, overrides: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    Image.new("RGB", (1024, 512), (0, 0, 200)).save(folder / "0.PNG")
    experiment = check_experiment(compose_settings(overrides(f"reference.source={folder}", "reference.count=5")))
    store = Store(tmp_path_factory.mktemp("run"))
    blind: Any = SimpleNamespace(image_features=lambda images, _: np.zeros((len(images), 4)))
    make_references(experiment, make_run(), store, {"mini": blind})
    kept = {name: Image.open(io.BytesIO(content)) for name, content in load_pictures(store.files, "reference", "r")}
    assert {name: image.size for name, image in kept.items()} == {
        **{"0.PNG": (512, 256), "1.PNG": (8, 6), "2.PNG": (8, 6), "3.PNG": (4, 4), "4.PNG": (8, 6)}
    }
    assert kept["4.PNG"].getpixel((0, 0)) == (40, 0, 0)
    assert not load_pictures(store.files, "reference", "another")
