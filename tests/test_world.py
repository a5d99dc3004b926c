"""The procedural world: seeds, captions and images match their docstrings."""

import hashlib
import itertools

import numpy as np
import pytest

from bench.mini import world

SEEDS = range(50_000_000, 50_000_400)


def test_a_seed_determines_scene_caption_and_image() -> None:
    first, again = world.scene(7), world.scene(7)
    assert first == again
    assert world.caption(first) == world.caption(again)
    assert np.array_equal(world.render(first), world.render(again))
    assert not np.array_equal(world.render(first), world.render(world.scene(8)))


def test_images_are_those_that_the_models_were_trained_on() -> None:
    images = np.stack([world.render(world.scene(seed)) for seed in world.split_seeds("reference", 32)])
    assert (images.shape, images.dtype) == ((32, 64, 64, 3), np.uint8)
    assert hashlib.sha256(images.tobytes()).hexdigest().startswith("eea751a874b17022")


def test_seed_ranges_are_disjoint() -> None:
    ranges = sorted(world.SEEDS.values(), key=lambda seeds: seeds.start)
    assert all(left.stop <= right.start for left, right in itertools.pairwise(ranges))


def test_a_caption_states_the_named_attributes_and_no_other() -> None:
    for seed in SEEDS:
        truth = world.scene(seed)
        text = world.caption(truth)
        for name in ("ground", "relation", "position", "ground_colour"):
            value = getattr(truth, name)
            if name in truth.named:
                assert value in text
        for index, thing in enumerate(truth.things):
            for kind in ("shape", "colour", "size", "fill"):
                if f"{kind}.{index}" in truth.named:
                    assert getattr(thing, kind) in text
        assert ("background" in text) == bool({"ground", "ground_colour"} & set(truth.named))


def test_a_complete_caption_leaves_nothing_open() -> None:
    for seed in SEEDS:
        truth = world.complete(world.scene(seed))
        assert len(truth.named) == (7 if len(truth.things) == 1 else 11)
        assert set(world.scene(seed).named) <= set(truth.named)


def test_counterfactual_captions_differ_from_the_true_one_and_each_other() -> None:
    for seed in SEEDS:
        truth = world.scene(seed)
        for name, captions in world.counterfactuals(truth):
            kind = name.partition(".")[0]
            assert len(captions) == len(world.ATTRIBUTE_VALUES[kind]) - 1
            assert len({*captions, world.caption(truth)}) == len(captions) + 1


def test_things_stay_inside_and_relations_are_unambiguous() -> None:
    for seed in SEEDS:
        truth = world.scene(seed)
        for thing in truth.things:
            assert thing.x - thing.radius >= 0
            assert thing.x + thing.radius <= world.IMAGE_SIZE
            assert thing.y - thing.radius >= 0
            assert thing.y + thing.radius <= world.IMAGE_SIZE
        if truth.relation is not None:
            first, second = truth.things
            along = np.asarray(world.RELATIONS[truth.relation])
            offset = np.asarray([first.x - second.x, first.y - second.y])
            assert offset @ along > 2 * abs(offset @ along[::-1])
            assert np.hypot(*offset) >= first.radius + second.radius


@pytest.mark.parametrize("shape", world.SHAPES)
def test_every_shape_is_drawn_in_its_colour_with_soft_edges(shape: str) -> None:
    thing = world.Thing(shape, "red", "large", "plain", 32.0, 32.0, 13.0)
    truth = world.Scene(1, (thing,), "in the centre", None, "blue", "plain", ("shape.0",))
    image = world.render(truth).astype(int)
    redness = image[..., 0] - image[..., 2]
    assert (redness > 100).sum() > 80, "the shape has an inside"
    assert ((redness > -60) & (redness < 60)).sum() > 10, "its edge is anti-aliased"


def test_too_many_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="choose between 1 and"):
        world.split_seeds("prompts", 10_000_001)
