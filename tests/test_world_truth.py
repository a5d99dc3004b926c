"""Other looks, pixel truths and films of the world match its images."""

import numpy as np
import pytest

from bench.execute.feature_extraction import name_task_inputs
from bench.experiment.compose import compose_settings
from bench.experiment.config import check_experiment
from bench.features.tasks import edge_agreement, straight_path
from bench.generate.reference_images import load_real_images, name_real_images
from bench.generate.task_inputs import Inputs, name_inputs
from bench.mini import films, looks, reading, truth, world
from bench.records.cell import Task
from bench.records.errors import BenchError
from bench.records.reference import LOOKS

SEEDS = range(50_000_000, 50_000_060)


def scenes() -> list[world.Scene]:
    return [world.scene(seed) for seed in SEEDS]


def test_a_scene_looks_different_where_its_things_are_and_on_their_rims_alone() -> None:
    for scene in scenes():
        plain = looks.render_look(scene, "plain").astype(int)
        assert np.array_equal(plain, world.render(scene))
        changed = np.abs(looks.render_look(scene, "papercut").astype(int) - plain).max(axis=-1) > 0
        nearest = np.min([distance for distance, _ in world.layers(scene).things], axis=0)
        assert not changed[nearest > 8].any()
        assert not changed[nearest < -1].any()
        assert changed[(nearest > 0) & (nearest < 1)].mean() > 0.8


def test_ink_colours_keep_their_names() -> None:
    names = list(world.COLOURS)
    plain, ink = (np.asarray([palette[name] for name in names]) for palette in (world.COLOURS, looks.INK_COLOURS))
    nearest = np.linalg.norm(ink[:, None] - plain[None], axis=-1).argmin(axis=1)
    assert nearest.tolist() == list(range(len(names)))
    assert np.abs(ink - plain).max(axis=1).min() > 0.08


def test_ink_draws_a_dark_outline() -> None:
    thing = world.Thing("circle", "yellow", "large", "plain", 32.0, 32.0, 13.0)
    scene = world.Scene(1, (thing,), "in the centre", None, "white", "plain", ("shape.0",))
    image = looks.render_look(scene, "ink").astype(int).sum(axis=-1)
    line = truth.outlines(scene)
    assert image[line].mean() < 150
    assert image[~line].mean() > 400


@pytest.mark.parametrize("shape", world.SHAPES)
def test_outlines_are_where_plain_things_end(shape: str) -> None:
    thing = world.Thing(shape, "red", "large", "plain", 30.0, 33.0, 14.0)
    scene = world.Scene(1, (thing,), "in the centre", None, "blue", "plain", ("shape.0",))
    found, image = truth.outlines(scene), world.render(scene).astype(int)
    redness = image[..., 0] - image[..., 2]
    inside = truth.depth(scene) > 0
    assert (redness[inside & ~found] > 60).all()
    assert (redness[~inside & ~found] < -60).all()
    assert 0.02 < found.mean() < 0.15


def test_larger_things_are_nearer_and_the_ground_is_far() -> None:
    for scene in scenes():
        depth = truth.depth(scene)
        assert depth.dtype == np.float32
        assert depth.min() == 0
        levels = {truth.depth_of_radius(thing.radius) for thing in scene.things}
        assert set(np.unique(depth)) == {np.float32(0), *map(np.float32, levels)}
        assert all(truth.FAR <= level <= truth.NEAR for level in levels)


def test_a_mask_covers_its_thing_and_no_other() -> None:
    for scene in scenes():
        for index in range(len(scene.things)):
            mask = truth.mask(scene, index)
            inside = [distance < 0 for distance, _ in world.layers(scene).things]
            assert mask[inside[index]].all()
            assert all(not mask[other].all() for i, other in enumerate(inside) if i != index)


def test_things_of_a_film_move_alike_by_the_motion_and_stay_inside() -> None:
    moving = 0
    for seed in SEEDS:
        film = films.film(seed)
        assert len(film.scenes) == films.FRAMES
        for before, after in zip(film.scenes, film.scenes[1:], strict=False):
            for one, other in zip(before.things, after.things, strict=True):
                assert (other.x - one.x, other.y - one.y) == pytest.approx(film.motion, abs=1e-9)
        for scene in film.scenes:
            for thing in scene.things:
                for place in (thing.x, thing.y):
                    assert thing.radius - 1e-9 <= place <= world.IMAGE_SIZE - thing.radius + 1e-9
        moving += np.hypot(*film.motion) > 0.3
    assert moving > 50, "of 60"


def test_the_motion_of_a_film_is_read_from_its_frames() -> None:
    errors, apart = [], []
    for seed in SEEDS[:30]:
        film = films.film(seed)
        places = reading.read_places(films.render_film(film.scenes))
        error, speed = straight_path(places)
        errors.append(error)
        apart.append(abs(speed - np.hypot(*film.motion)))
    assert np.median(errors) < 0.2
    assert np.median(apart) < 0.05
    large = np.kron(films.render_film(film.scenes), np.ones((1, 2, 2, 1), np.uint8))
    np.testing.assert_allclose(reading.read_places(large), places, atol=1)
    assert np.isnan(reading.read_places(np.zeros((1, 64, 64, 3), np.uint8))).all()


def test_only_things_change_from_frame_to_frame() -> None:
    frames = films.render_film(films.film(SEEDS[3]).scenes).astype(int)
    assert np.abs(frames[0] - frames[-1]).max() > 50
    still = [distance > 2 for scene in films.film(SEEDS[3]).scenes for distance, _ in world.layers(scene).things]
    assert np.ptp(frames[:, np.all(still, axis=0)], axis=0).max() == 0


def test_a_zoom_enlarges_things_about_the_centre() -> None:
    first, *_, last = films.zoom(SEEDS[0])
    for near, far in zip(last.things, first.things, strict=True):
        assert near.radius / far.radius == pytest.approx(films.ZOOM)
        assert near.x - 32 == pytest.approx(films.ZOOM * (far.x - 32))


def test_reference_images_can_have_another_look() -> None:
    scene = world.scene(world.split_seeds("reference", 2)[1])
    names = set()
    for source, look in LOOKS.items():
        (images,) = load_real_images(source, 2)
        assert np.array_equal(images[1], looks.render_look(scene, look))
        names.add(name_real_images(source, 2))
    assert len(names) == 3
    assert name_real_images("world", 2).startswith("world-range(")


def test_depth_and_outlines_are_read_from_an_image_s_colours() -> None:
    """They are far nearer to those of the image's own scene than to another's."""
    images = np.stack([world.render(scene) for scene in scenes()])
    depths = np.stack([truth.depth(scene) for scene in scenes()])
    found = reading.read_depth(images)
    assert found.dtype == np.float32
    assert np.abs(found - depths).mean() < 0.02
    assert np.abs(np.roll(found, 1, axis=0) - depths).mean() > 0.12
    edges, outlines = [reading.read_outlines(image) for image in images], [truth.outlines(scene) for scene in scenes()]
    assert np.mean([edge_agreement(*pair) for pair in zip(edges, outlines, strict=True)]) > 0.95
    assert np.mean([edge_agreement(*pair) for pair in zip(edges, outlines[1:], strict=False)]) < 0.25


def test_scenes_as_inputs_are_the_prompts_own_images_with_their_truths() -> None:
    for kind in ("inpainting", "canny", "depth"):
        settings = {"strength": 0.99, "conditioning_scale": 0.5}
        inputs = Inputs(Task(kind, settings), "scenes", 3, 64, 64)
        scene = world.scene(world.split_seeds("prompts", 3)[2])
        assert np.array_equal(inputs.images[2], world.render(scene))
        if kind == "inpainting":
            assert np.array_equal(inputs.masks[2], truth.mask(scene))
            assert set(inputs.shown(2)) == {"image", "mask"}
            continue
        control = truth.outlines(scene) * 255 if kind == "canny" else truth.depth(scene) * 255
        assert np.array_equal(inputs.conditions[2, ..., 1], control.astype(np.uint8))
        assert np.array_equal(inputs.shown(2)["control"], inputs.conditions[2])
        assert inputs.find_edges is reading.read_outlines
        assert name_inputs(inputs, None) != name_inputs(Inputs(Task(kind, settings), "world", 3, 64, 64, flat), None)
        assert inputs.hash_files() == {}


def flat(images: np.ndarray, size: object = None) -> np.ndarray:
    """A depth estimator that sees nothing."""
    return np.zeros(images.shape[:3], np.float32)


def refuse(*overrides: str) -> str:
    """Return what a plan of an experiment with scenes as inputs is refused with."""
    experiment = check_experiment(compose_settings(["experiment=guide_canny", "task.inputs=scenes", *overrides]))
    with pytest.raises(BenchError) as caught:
        name_task_inputs(experiment, ())
    return str(caught.value)


def test_scenes_need_the_prompts_and_the_size_of_the_world() -> None:
    assert "give prompts.source=world" in refuse()
    message = refuse("prompts.source=world")
    assert "scenes are 64×64, but the model's size is 1024×1024" in message
