"""Real images come in order and in batches of one size, and are named by their content."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.generate.real_images import load_real_images, name_real_images
from bench.mini import world
from bench.records import BenchError


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


@pytest.mark.parametrize(("count", "said"), [(6, "holds 5 images"), (9, "at most what it holds")])
def test_too_few_images_are_refused(folder: Path, count: int, said: str) -> None:
    with pytest.raises(BenchError, match=said):
        name_real_images(str(folder), count)


def test_a_folder_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BenchError, match="no such folder"):
        name_real_images("/nowhere", 1)


def test_a_broken_image_is_named(folder: Path) -> None:
    (folder / "2.PNG").write_bytes(b"\x89PNG broken")
    with pytest.raises(BenchError, match=r"2\.PNG is no image"):
        list(load_real_images(str(folder), 3))
