"""Inputs are the package's or a folder's, and a task's scores measure what they claim."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import load_image
from numpy.typing import NDArray
from PIL import Image
from transformers import DPTForDepthEstimation, DPTImageProcessor

from bench.features.extractor import Extractor, encode_captions, images_to_features
from bench.features.tasks import FURTHEST, TaskFeatures, edge_agreement, flicker, psnr, straight_path
from bench.generate.depth import load_depth_estimator
from bench.generate.task_inputs import Inputs, canny_edges, draw_scene, name_inputs
from bench.records.cell import Task
from bench.records.errors import BenchError

INPAINTING = Task("inpainting", {"strength": 0.99})


def still_lifes(task: Task = INPAINTING, source: str = "world", count: int = 3, **more: Any) -> Inputs:
    return Inputs(task, source, count, 96, 128, **more)


def test_the_packaged_inputs_are_reproducible_and_look_the_same_at_any_size() -> None:
    small, mask = draw_scene(1, 64, 64)
    large, _ = draw_scene(1, 256, 256)
    assert np.array_equal(small, draw_scene(1, 64, 64)[0])
    shrunk = np.asarray(Image.fromarray(large).resize((64, 64), Image.Resampling.BOX), np.int16)
    assert np.abs(shrunk - small).mean() < 1.5
    assert 0.02 < mask.mean() < 0.5
    assert draw_scene(2, 96, 128)[0].shape == (96, 128, 3)


def test_inputs_are_identified_by_their_pixels() -> None:
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


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Three images of 64×48 pixels, left halves masked, right halves in the last."""
    (tmp_path / "masks").mkdir()
    for i, name in enumerate(["2.png", "10.jpg", "b/1.png"]):
        for place in (tmp_path / name, tmp_path / "masks" / name):
            place.parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 48), (i * 100, 0, 0)).save(tmp_path / name)
        mask = np.zeros((48, 64), np.uint8)
        mask[:, slice(0, 32) if i < 2 else slice(32, 64)] = 255
        Image.fromarray(mask).save((tmp_path / "masks" / name).with_suffix(".png"))
    return tmp_path


def test_a_folder_of_images_with_masks(pairs: Path) -> None:
    inputs = still_lifes(source=str(pairs))
    assert inputs.images.shape == (3, 96, 128, 3)
    assert [int(image[0, 0, 0]) for image in inputs.images] == pytest.approx([0, 100, 200], abs=2)
    assert [bool(mask[:, 0].all()) for mask in inputs.masks] == [True, True, False]
    assert inputs.masks.mean(axis=(1, 2)) == pytest.approx([0.5] * 3, abs=0.01)
    with pytest.raises(BenchError, match=r"holds 3 images.* but 4 are needed"):
        name_inputs(still_lifes(source=str(pairs), count=4), None)
    (pairs / "masks" / "2.png").write_text("no image")
    (pairs / "10.jpg").write_bytes(b"")
    with pytest.raises(BenchError, match=r"masks/2.png cannot be read .*1 more of the 3 inputs"):
        name_inputs(still_lifes(source=str(pairs)), None)
    with pytest.raises(BenchError, match=r"task\.inputs=.*/nowhere does not exist; give 'world', 'scenes', or a"):
        name_inputs(still_lifes(source=str(pairs / "nowhere")), None)


def test_files_of_inputs_go_with_the_rows_of_their_prompts(pairs: Path) -> None:
    in_order = still_lifes(source=str(pairs), count=3)
    turned = still_lifes(source=str(pairs), count=3, rows=(2, 1, 0))
    np.testing.assert_array_equal(turned.images, in_order.images[::-1])
    np.testing.assert_array_equal(turned.masks, in_order.masks[::-1])
    assert name_inputs(turned, None) != name_inputs(in_order, None)
    with pytest.raises(BenchError, match="10 are needed"):
        _ = still_lifes(source=str(pairs), count=1, rows=(9,)).images


def test_masks_belong_only_to_images_of_their_name(pairs: Path) -> None:
    whole = name_inputs(still_lifes(source=str(pairs)), None)
    (pairs / "masks" / "2.png").rename(pairs / "masks" / "2_mask.png")
    assert name_inputs(still_lifes(source=str(pairs)), None) == whole
    Image.new("L", (64, 48), 255).save(pairs / "masks" / "0.png")
    with pytest.raises(BenchError, match=r"^task.inputs: masks/0.png has no picture; [^(]*$"):
        name_inputs(still_lifes(source=str(pairs)), None)
    (pairs / "masks" / "0.png").rename(pairs / "0.png")
    with pytest.raises(BenchError, match=r"0.png has no mask masks/0"):
        name_inputs(still_lifes(source=str(pairs)), None)
    (pairs / "0.png").rename(pairs / "10.png")
    with pytest.raises(BenchError, match=r"2 pictures are called 10"):
        name_inputs(still_lifes(source=str(pairs)), None)
    assert name_inputs(still_lifes(Task("canny"), source=str(pairs), count=4), None)


@pytest.mark.parametrize(("level", "said"), [(0, "light nowhere"), (127, "light nowhere"), (255, "light everywhere")])
def test_an_empty_or_full_mask_is_refused(pairs: Path, level: int, said: str) -> None:
    Image.new("L", (64, 48), level).save(pairs / "masks" / "2.png")
    with pytest.raises(BenchError, match=rf"masks/2.png is {said}"):
        name_inputs(still_lifes(source=str(pairs)), None)


def test_a_mask_is_as_large_as_its_image_and_turns_with_it(pairs: Path) -> None:
    upright = still_lifes(source=str(pairs)).masks
    note = Image.Exif()
    note[274] = 8
    for place in (pairs / "2.png", pairs / "masks" / "2.png"):
        Image.open(place).transpose(Image.Transpose.ROTATE_270).save(place, exif=note)
    assert np.array_equal(still_lifes(source=str(pairs)).masks, upright)
    Image.open(pairs / "masks" / "2.png").save(pairs / "masks" / "2.png")
    with pytest.raises(BenchError, match=r"2.png and its mask masks/2.png have 64×48 and 48×64 pixels"):
        name_inputs(still_lifes(source=str(pairs)), None)


def test_a_mask_of_0_and_1_is_one_of_black_and_white(pairs: Path) -> None:
    wanted = still_lifes(source=str(pairs)).masks
    for place in (pairs / "masks").rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(place)) // 255).save(place)
    assert np.array_equal(still_lifes(source=str(pairs)).masks, wanted)


def test_another_aspect_ratio_is_refused_cut_or_distorted(tmp_path: Path) -> None:
    columns = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 3, axis=-1)
    Image.fromarray(np.repeat(columns, 96, axis=0)).save(tmp_path / "wide.png")
    shown = {}
    for fit in ("crop", "stretch"):
        task = Task("image_prompt", {"scale": 0.5, "fit": fit})
        shown[fit] = still_lifes(task, str(tmp_path), 1).images[0, 50, :, 0]
    assert np.array_equal(shown["crop"], np.arange(36, 164))
    assert shown["stretch"][[0, -1]] == pytest.approx([0, 199], abs=1)
    with pytest.raises(BenchError, match=r"wide.png has 200×96 pixels, not the required aspect ratio 128×96"):
        name_inputs(still_lifes(Task("canny"), str(tmp_path), 1), None)
    Image.new("RGB", (1281, 960)).save(tmp_path / "wide.png")  # less than a pixel off
    assert name_inputs(still_lifes(Task("canny"), str(tmp_path), 1), None)


def test_finished_control_images_are_used_as_they_are(tmp_path: Path, extractor: Extractor) -> None:
    edges = canny_edges(draw_scene(0, 96, 128)[0]).astype(np.uint8) * 255
    Image.fromarray(edges).save(tmp_path / "0.png")
    settings = {"conditioning_scale": 0.5, "inputs_are": "control_images"}
    inputs = still_lifes(Task("canny", settings), str(tmp_path), 1)
    assert np.array_equal(np.asarray(inputs.arguments([0])["image"][0]), np.repeat(edges[..., None], 3, axis=-1))
    found = features(extractor, "canny", inputs, draw_scene(0, 96, 128)[0][None])
    assert found["edge_agreement"] == [1]
    photos = still_lifes(Task("canny", {**settings, "inputs_are": "photos"}), str(tmp_path), 1)
    assert not np.array_equal(photos.conditions, inputs.conditions)
    depth = np.arange(96 * 128, dtype=np.uint16).reshape(96, 128) * 5
    Image.fromarray(depth).save(tmp_path / "0.png")
    inputs = still_lifes(Task("depth", settings), str(tmp_path), 1)
    assert inputs.depths[0] == pytest.approx(depth / 65535, abs=0.5 / 255 + 1e-6)
    assert inputs.conditions[0, -1, -1].tolist() == [round(depth[-1, -1] / 257)] * 3


def test_inputs_are_made_as_the_guide_makes_them(tmp_path: Path) -> None:
    """Its `load_image(…).resize(…)`, and what an inpainting pipeline makes of the mask."""
    rng = np.random.default_rng(0)
    (tmp_path / "masks").mkdir()
    image, mask = (Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)) for _ in range(2))
    image.save(tmp_path / "park.png")
    mask.resize((25, 19)).resize((400, 300)).save(tmp_path / "masks" / "park_mask.png")
    inputs = still_lifes(source=str(tmp_path), count=1)
    guide, guide_mask = (
        load_image(str(tmp_path / name)).resize((128, 96)) for name in ("park.png", "masks/park_mask.png")
    )
    assert np.array_equal(inputs.images[0], np.asarray(guide))
    processor = VaeImageProcessor(do_normalize=False, do_binarize=True, do_convert_grayscale=True)
    assert np.array_equal(inputs.masks[0], processor.preprocess(guide_mask)[0, 0].numpy() == 1)
    given = inputs.arguments([0])
    assert np.array_equal(processor.preprocess(given["mask_image"]), processor.preprocess(guide_mask))


def test_a_call_gets_the_inputs_of_its_rows() -> None:
    inputs = still_lifes()
    given = inputs.arguments([2, 0])
    assert given["strength"] == 0.99
    assert np.array_equal(np.asarray(given["image"][0]), inputs.images[2])
    assert np.array_equal(np.asarray(given["mask_image"][1]) > 0, inputs.masks[0])
    edges = still_lifes(Task("canny", {"conditioning_scale": 0.5}))
    assert np.array_equal(np.asarray(edges.arguments([1])["image"][0])[..., 0] > 0, canny_edges(edges.images[1]))
    assert still_lifes(Task()).arguments([0]) == {}
    assert still_lifes(Task("animation", {"frames": 8})).arguments([0]) == {"num_frames": 8}


def test_the_inputs_shown_are_those_of_the_calls() -> None:
    ramp = np.linspace(0, 1, 96 * 128, dtype=np.float32).reshape(1, 96, 128)
    for kind, more in (("inpainting", {}), ("canny", {}), ("depth", {"estimate_depth": lambda *_: ramp})):
        inputs = still_lifes(Task(kind, {"strength": 0.9, "conditioning_scale": 0.5}), count=1, **more)
        shown, given = inputs.shown(0), inputs.arguments([0])
        if kind == "inpainting":
            assert {name: picture.tolist() for name, picture in shown.items()} == {
                "image": np.asarray(given["image"][0]).tolist(),
                "mask": np.asarray(given["mask_image"][0].convert("RGB")).tolist(),
            }
        else:
            assert np.array_equal(shown["control"], np.asarray(given["image"][0]))
            assert np.array_equal(shown["image"], inputs.images[0])


def test_depth_is_near_white() -> None:
    ramp = np.linspace(0, 1, 96 * 128, dtype=np.float32).reshape(1, 96, 128)
    inputs = still_lifes(Task("depth"), count=1, estimate_depth=lambda images, *_: ramp[: len(images)])
    assert inputs.conditions[0, -1, -1].tolist() == [255] * 3
    assert inputs.conditions[0, 0, 0].tolist() == [0] * 3


def test_depth_maps_are_those_of_the_guide(tmp_path: Path) -> None:
    from standins import build_hub

    hub = build_hub(tmp_path / "hub", ["Intel/dpt-hybrid-midas"])
    (model,) = hub.glob("models--Intel--dpt-hybrid-midas/snapshots/*")
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    small.resize((400, 300), Image.Resampling.BICUBIC).save(tmp_path / "room.png")
    processor, estimator = DPTImageProcessor.from_pretrained(model), DPTForDepthEstimation.from_pretrained(model)
    pixels = processor(images=load_image(str(tmp_path / "room.png")), return_tensors="pt").pixel_values
    with torch.no_grad():
        depth = estimator(pixels).predicted_depth
    depth = torch.nn.functional.interpolate(depth[None], size=(96, 128), mode="bicubic", align_corners=False)[0, 0]
    guide = ((depth - depth.min()) / (depth.max() - depth.min()) * 255.0).numpy().clip(0, 255).astype(np.uint8)
    inputs = still_lifes(Task("depth"), str(tmp_path), 1, estimate_depth=load_depth_estimator(str(model), "cpu"))
    assert np.array_equal(inputs.conditions[0], np.repeat(guide[..., None], 3, axis=-1))
    assert len(np.unique(guide)) > 20


class Tower:
    """Embeds an image as its mean colour, a text as red."""

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean(dim=(2, 3))

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0, 0.0]]).repeat(len(tokens), 1)


@pytest.fixture
def extractor() -> Extractor:
    def to_pixels(images: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255

    def tokenize(texts: list[str], context_length: int = 1) -> torch.Tensor:
        return torch.zeros(len(texts), context_length)

    tower = Tower()
    return Extractor(
        "mean", tower.encode_image, to_pixels, torch.device("cpu"), tokenize=tokenize, encode_text=tower.encode_text
    )


def features(
    extractor: Extractor, kind: str, given: Any, images: NDArray[np.uint8], start: int = 0, **more: Any
) -> Any:
    own = TaskFeatures(kind, given, canny_edges, **more)
    return {**own.of_pixels(images, start), **own.of_extractor(extractor, images, start)}


def test_inpainting_is_judged_inside_and_outside_its_mask(extractor: Extractor) -> None:
    inputs = still_lifes()
    inside = np.where(inputs.masks[..., None], np.uint8(255) - inputs.images, inputs.images)[1:]
    found = features(extractor, "inpainting", inputs, inside, start=1)
    assert found["background_psnr"] == pytest.approx([58.92] * 2, abs=0.01)
    assert np.abs(found["image_masked"] - found["real_masked"]).max() > 0.01
    outside = np.where(inputs.masks[..., None], inputs.images, inputs.images // 2)
    found = features(extractor, "inpainting", inputs, outside)
    assert np.array_equal(found["image_masked"], found["real_masked"])
    assert (found["background_psnr"] < 20).all()


def test_psnr_is_that_of_its_definition() -> None:
    ours = np.full((4, 4, 3), 100, np.uint8)
    assert psnr(ours, ours + 10) == pytest.approx(20 * np.log10(255 / 10))


def test_edges_agree_within_a_tolerance(extractor: Extractor) -> None:
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
    found = features(extractor, "canny", inputs, np.stack([inputs.images[0], inputs.images[2]]))
    assert found["edge_agreement"][0] == 1
    assert found["edge_agreement"][1] < 0.7


def test_depth_is_compared_with_that_of_the_input(extractor: Extractor) -> None:
    def estimate(images: NDArray[np.uint8], size: tuple[int, int] | None = None) -> NDArray[np.float32]:
        return images[..., 0].astype(np.float32) / 255

    inputs = still_lifes(Task("depth"), estimate_depth=estimate)
    found = features(extractor, "depth", inputs, inputs.images // 2, estimate_depth=estimate)
    expected = np.abs(inputs.images[..., 0] // 2 - inputs.images[..., 0].astype(float)).mean(axis=(1, 2)) / 255
    assert found["depth_error"] == pytest.approx(expected, abs=1e-6)


def test_similarities_are_cosines(extractor: Extractor) -> None:
    red, grey = np.zeros((1, 96, 128, 3), np.uint8), np.full((1, 96, 128, 3), 80, np.uint8)
    red[..., 0] = 200
    inputs = still_lifes(Task("image_prompt", {"scale": 0.5}), count=1)
    same = features(extractor, "image_prompt", inputs, inputs.images)
    assert same["image_similarity"] == pytest.approx([100])
    style = features(extractor, "text_to_image", inputs, np.concatenate([red, grey]), style="red")
    assert style["style_similarity"] == pytest.approx([100, 100 / np.sqrt(3)], rel=1e-4)
    style = features(extractor, "text_to_image", inputs, np.concatenate([red, grey]), style="x", style_images=red)
    assert style["style_similarity"] == pytest.approx([100, 100 / np.sqrt(3)], rel=1e-4)
    assert features(extractor, "text_to_image", inputs, red) == {}


def test_a_video_is_scored_frame_by_frame(extractor: Extractor) -> None:
    red = np.zeros((4, 5, 3), np.uint8)
    red[..., 0] = 200
    grey = np.full((4, 5, 3), 80, np.uint8)
    film = np.concatenate([red, grey, grey, red])[None]
    captions = encode_captions(extractor, ["red"], None)
    found = images_to_features(extractor, film, captions, 0, frames=4)
    assert found["clip_score"] == pytest.approx([(100 + 100 / np.sqrt(3)) / 2], rel=1e-4)
    assert found["image"].shape == (1, 3)
    own = features(extractor, "animation", None, film, frames=4)
    assert own["temporal_consistency"] == pytest.approx([100 * (2 / np.sqrt(3) + 1) / 3], rel=1e-4)
    assert own["flicker"] > 0


def test_a_film_of_the_world_moves_on_straight_paths(extractor: Extractor) -> None:
    film = np.zeros((1, 4 * 5, 6, 3), np.uint8)
    assert "path_error" not in features(extractor, "animation", None, film, frames=4), "no one can say where things are"
    seen: list[NDArray[np.uint8]] = []

    def find(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        seen.append(images)
        return np.array([[0, 1], [2, 1], [4, 1], [6, 1.0]])

    found = features(extractor, "animation", None, film, frames=4, find_places=find)
    assert seen[0].shape == (4, 5, 6, 3)
    assert (found["path_error"], found["speed"]) == (pytest.approx([0]), pytest.approx([2]))


def test_what_leaves_its_path_or_is_not_found_is_apart_from_it() -> None:
    uniform = np.array([[3.0 * i, 4.0 * i] for i in range(8)])
    assert straight_path(uniform) == pytest.approx((0, 5))
    bent = uniform + np.array([[1, 0], [-1, 0]] * 4)
    error, speed = straight_path(bent)
    assert 0.9 < error < 1
    assert speed == pytest.approx(5, abs=0.2)
    lost = uniform.copy()
    lost[2] = np.nan
    assert straight_path(lost) == pytest.approx((FURTHEST / 8, 5))
    assert straight_path(np.where(np.arange(8)[:, None] < 2, uniform, np.nan)) == (FURTHEST, 0)
    far = uniform.copy()
    far[::2] += 100
    assert straight_path(far)[0] == FURTHEST


def test_flicker_ignores_a_uniform_fade_and_detects_a_jump() -> None:
    fade = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.full((1, 2, 2, 3), 10, np.uint8)
    assert flicker(fade) == 0
    jumping = np.array([50, 57, 50, 57, 50], np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    assert flicker(jumping) == 7
    assert flicker(fade[:2]) == 0
