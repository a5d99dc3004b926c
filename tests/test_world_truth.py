"""Other looks, pixel truths and films of the world match its images."""

import numpy as np
import pytest

from bench.mini import films, looks, truth, world

SEEDS = range(50_000_000, 50_000_060)


def scenes() -> list[world.Scene]:
    return [world.scene(seed) for seed in SEEDS]


def test_a_scene_looks_different_where_its_things_are_and_on_their_rims_alone() -> None:
    for scene in scenes():
        plain = looks.render(scene, "plain").astype(int)
        assert np.array_equal(plain, world.render(scene))
        changed = np.abs(looks.render(scene, "papercut").astype(int) - plain).max(axis=-1) > 0
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
    image = looks.render(scene, "ink").astype(int).sum(axis=-1)
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


def test_only_things_change_from_frame_to_frame() -> None:
    frames = films.render(films.film(SEEDS[3]).scenes).astype(int)
    assert np.abs(frames[0] - frames[-1]).max() > 50
    still = [distance > 2 for scene in films.film(SEEDS[3]).scenes for distance, _ in world.layers(scene).things]
    assert np.ptp(frames[:, np.all(still, axis=0)], axis=0).max() == 0


def test_a_zoom_enlarges_things_about_the_centre() -> None:
    first, *_, last = films.zoom(SEEDS[0])
    for near, far in zip(last.things, first.things, strict=True):
        assert near.radius / far.radius == pytest.approx(films.ZOOM)
        assert near.x - 32 == pytest.approx(films.ZOOM * (far.x - 32))
