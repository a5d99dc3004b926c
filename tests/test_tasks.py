"""Inputs are the package's own or a folder's, and a task's scores say what they are meant to say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from bench.cell import Task
from bench.generate.inputs import Inputs, canny_edges, draw_scene, name_inputs
from bench.records import BenchError
from bench.score.features import Evaluator, encode_captions, images_to_features
from bench.score.features_of_tasks import TaskFeatures, edge_agreement, flicker, psnr

INPAINTING = Task("inpainting", {"strength": 0.99})


def still_lifes(task: Task = INPAINTING, source: str = "world", count: int = 3, **more: Any) -> Inputs:
    return Inputs(task, source, count, 96, 128, **more)


def test_the_own_inputs_are_the_same_whenever_they_are_drawn_and_look_the_same_at_any_size() -> None:
    small, mask = draw_scene(1, 64, 64)
    large, _ = draw_scene(1, 256, 256)
    assert np.array_equal(small, draw_scene(1, 64, 64)[0])
    shrunk = np.asarray(Image.fromarray(large).resize((64, 64), Image.Resampling.BOX), np.int16)
    assert np.abs(shrunk - small).mean() < 1.5
    assert 0.02 < mask.mean() < 0.5
    assert draw_scene(2, 96, 128)[0].shape == (96, 128, 3)


def test_inputs_are_named_by_what_they_show() -> None:
    names = [
        name_inputs(still_lifes(), None),
        name_inputs(still_lifes(count=2), None),
        name_inputs(still_lifes(Task("canny")), None),
        name_inputs(still_lifes(Task("depth")), "weights"),
        name_inputs(still_lifes(Task("depth")), "other weights"),
    ]
    assert len(set(names)) == len(names)
    assert name_inputs(still_lifes(), None) == names[0]
    assert name_inputs(still_lifes(Task()), None) is None


def test_a_folder_of_images_with_masks(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for i in range(2):
        Image.new("RGB", (50, 40), (i * 100, 0, 0)).save(tmp_path / f"{i}.png")
        Image.new("L", (50, 40), 255 * i).save(tmp_path / "masks" / f"{i}.png")
    inputs = still_lifes(source=str(tmp_path), count=2)
    assert inputs.images.shape == (2, 96, 128, 3)
    assert [bool(mask.all()) for mask in inputs.masks] == [False, True]
    with pytest.raises(BenchError, match="holds 2 images and 3 are needed"):
        _ = still_lifes(source=str(tmp_path), count=3).images
    (tmp_path / "masks" / "1.png").write_text("no image")
    with pytest.raises(BenchError, match=r"1.png is no image"):
        _ = still_lifes(source=str(tmp_path), count=2).masks
    with pytest.raises(BenchError, match="is no folder"):
        _ = still_lifes(source=str(tmp_path / "nowhere")).images


def test_what_a_call_gets_is_that_of_its_rows() -> None:
    inputs = still_lifes()
    given = inputs.arguments([2, 0])
    assert given["strength"] == 0.99
    assert np.array_equal(np.asarray(given["image"][0]), inputs.images[2])
    assert np.array_equal(np.asarray(given["mask_image"][1]) > 0, inputs.masks[0])
    edges = still_lifes(Task("canny", {"conditioning_scale": 0.5}))
    assert np.array_equal(np.asarray(edges.arguments([1])["image"][0])[..., 0] > 0, canny_edges(edges.images[1]))
    assert still_lifes(Task()).arguments([0]) == {}
    assert still_lifes(Task("animation", {"frames": 8})).arguments([0]) == {"num_frames": 8}


def test_depth_is_near_white() -> None:
    ramp = np.linspace(0, 1, 96 * 128, dtype=np.float32).reshape(1, 96, 128)
    inputs = still_lifes(Task("depth"), count=1, estimate_depth=lambda images: ramp[: len(images)])
    assert inputs.conditions[0, -1, -1].tolist() == [255] * 3
    assert inputs.conditions[0, 0, 0].tolist() == [0] * 3


class Tower:
    """Embeds an image as its mean colour, a text as red."""

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean(dim=(2, 3))

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0, 0.0]]).repeat(len(tokens), 1)


@pytest.fixture
def evaluator() -> Evaluator:
    def to_pixels(images: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255

    def tokenize(texts: list[str], context_length: int = 1) -> torch.Tensor:
        return torch.zeros(len(texts), context_length)

    return Evaluator("mean", Tower(), to_pixels, tokenize, torch.device("cpu"))


def features(
    evaluator: Evaluator, kind: str, given: Any, images: NDArray[np.uint8], start: int = 0, **more: Any
) -> Any:
    return TaskFeatures(kind, (), evaluator, given, canny_edges, **more).of(images, start)


def test_inpainting_is_judged_inside_and_outside_its_mask(evaluator: Evaluator) -> None:
    inputs = still_lifes()
    inside = np.where(inputs.masks[..., None], np.uint8(255) - inputs.images, inputs.images)[1:]
    found = features(evaluator, "inpainting", inputs, inside, start=1)
    assert found["background_psnr"] == pytest.approx([58.92] * 2, abs=0.01)
    assert np.abs(found["image_masked"] - found["real_masked"]).max() > 0.01
    outside = np.where(inputs.masks[..., None], inputs.images, inputs.images // 2)
    found = features(evaluator, "inpainting", inputs, outside)
    assert np.array_equal(found["image_masked"], found["real_masked"])
    assert (found["background_psnr"] < 20).all()


def test_psnr_is_that_of_its_definition() -> None:
    ours = np.full((4, 4, 3), 100, np.uint8)
    assert psnr(ours, ours + 10) == pytest.approx(20 * np.log10(255 / 10))


def test_edges_agree_within_a_tolerance(evaluator: Evaluator) -> None:
    wanted = np.zeros((400, 400), bool)
    wanted[100, 50:350] = True
    assert edge_agreement(wanted, wanted) == 1
    assert edge_agreement(np.roll(wanted, 2, axis=0), wanted) == 1
    assert edge_agreement(np.roll(wanted, 9, axis=0), wanted) == 0
    half = wanted.copy()
    half[:, :200] = False
    assert edge_agreement(half, wanted) == pytest.approx(2 / 3, abs=0.01)
    assert edge_agreement(~wanted & False, wanted) == 0
    inputs = still_lifes(Task("canny"))
    found = features(evaluator, "canny", inputs, np.stack([inputs.images[0], inputs.images[2]]))
    assert found["edge_agreement"][0] == 1
    assert found["edge_agreement"][1] < 0.7


def test_depth_is_compared_with_that_of_the_input(evaluator: Evaluator) -> None:
    def estimate(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return images[..., 0].astype(np.float32) / 255

    inputs = still_lifes(Task("depth"), estimate_depth=estimate)
    found = features(evaluator, "depth", inputs, inputs.images // 2, estimate_depth=estimate)
    expected = np.abs(inputs.images[..., 0] // 2 - inputs.images[..., 0].astype(float)).mean(axis=(1, 2)) / 255
    assert found["depth_error"] == pytest.approx(expected, abs=1e-6)


def test_similarities_are_cosines(evaluator: Evaluator) -> None:
    red, grey = np.zeros((1, 96, 128, 3), np.uint8), np.full((1, 96, 128, 3), 80, np.uint8)
    red[..., 0] = 200
    inputs = still_lifes(Task("image_prompt", {"scale": 0.5}), count=1)
    same = features(evaluator, "image_prompt", inputs, inputs.images)
    assert same["image_similarity"] == pytest.approx([100])
    style = features(evaluator, "text_to_image", inputs, np.concatenate([red, grey]), style="red")
    assert style["style_similarity"] == pytest.approx([100, 100 / np.sqrt(3)], rel=1e-4)
    assert features(evaluator, "text_to_image", inputs, red) == {}


def test_a_film_is_judged_frame_by_frame(evaluator: Evaluator) -> None:
    red = np.zeros((4, 5, 3), np.uint8)
    red[..., 0] = 200
    grey = np.full((4, 5, 3), 80, np.uint8)
    film = np.concatenate([red, grey, grey, red])[None]
    captions = encode_captions(evaluator, ["red"], None)
    found = images_to_features(evaluator, film, captions, 0, frames=4)
    assert found["clip_score"] == pytest.approx([(100 + 100 / np.sqrt(3)) / 2], rel=1e-4)
    assert found["image"].shape == (1, 3)
    own = features(evaluator, "animation", None, film, frames=4)
    assert own["temporal_consistency"] == pytest.approx([100 * (2 / np.sqrt(3) + 1) / 3], rel=1e-4)
    assert own["flicker"] > 0


def test_flicker_is_blind_to_an_even_fade_and_sees_a_jump() -> None:
    fade = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.full((1, 2, 2, 3), 10, np.uint8)
    assert flicker(fade) == 0
    jumping = np.array([50, 57, 50, 57, 50], np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    assert flicker(jumping) == 7
    assert flicker(fade[:2]) == 0
