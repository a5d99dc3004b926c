"""Diversity within prompts: its definitions, intervals, differences, and a sampler that has too little of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray

from bench.__main__ import main
from bench.analysis.claims import judge_run
from bench.analysis.scoring import ScoredRun
from bench.features import tasks
from bench.features.tasks import TaskFeatures
from bench.generate.task_inputs import Inputs, canny_edges
from bench.records.cell import Task
from bench.records.errors import BenchError
from bench.score.diversity import mean_of_prompts, pairwise_distance_estimate, vendi_estimate
from bench.score.estimate import Estimate, paired_difference
from bench.score.groups import Groups
from bench.store.store import Store

Floats = NDArray[np.float64]
Measure = Callable[[NDArray[Any], Groups | None], Estimate]
MEASURES = [pairwise_distance_estimate, vendi_estimate]


def groups_of(prompts: int, images: int) -> Groups | None:
    return Groups.of(np.arange(prompts * images) // images, prompts * images)


def draw(rng: np.random.Generator, prompts: int, images: int, d: int = 6, spread: float = 0.8) -> tuple[Floats, Floats]:
    """Features of two samplers (prompts × images, d): a prompt's own centre and spread, the noise shared in part."""
    centre = np.repeat(rng.standard_normal((prompts, d)), images, axis=0)
    own = spread * np.repeat(rng.lognormal(0.0, 0.4, (prompts, 1)), images, axis=0)
    noise = rng.standard_normal((2, prompts * images, d))
    return centre + own * noise[0], centre + own * (0.8 * noise[0] + 0.6 * noise[1])


def test_the_distance_is_the_mean_over_the_pairs_of_each_prompt() -> None:
    features, groups = draw(np.random.default_rng(0), 3, 4)[0], groups_of(3, 4)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    own = [np.mean([1 - units[4 * p + i] @ units[4 * p + j] for i in range(4) for j in range(i)]) for p in range(3)]
    found = pairwise_distance_estimate(features, groups)
    assert found.value == pytest.approx(np.mean(own), rel=1e-12)
    assert found.value + found.influence == pytest.approx(np.repeat(own, 4), rel=1e-12)
    order = np.random.default_rng(1).permutation(12)
    assert groups is not None
    mixed = pairwise_distance_estimate(features[order], Groups.of(groups.labels[order], 12))
    assert mixed.value == pytest.approx(found.value, rel=1e-12)
    assert mixed.influence == pytest.approx(found.influence[order], rel=1e-9)


def test_vendi_scores_are_those_of_the_reference_package() -> None:
    """Numbers of vendi-score 0.0.3, `vendi.score_X` of each prompt's features; the last by 64 images of one prompt."""
    rng = np.random.default_rng(0)
    prompts = rng.standard_normal((3, 5, 16)) + np.array([0, 1, 4.0])[:, None, None]
    many = rng.standard_normal((64, 4))
    published = [4.619831689525294, 3.2475008727741215, 1.2997239141367949]
    found = vendi_estimate(prompts.reshape(15, 16), groups_of(3, 5))
    assert found.value + found.influence == pytest.approx(np.repeat(published, 5), rel=1e-12)
    assert vendi_estimate(many, Groups.of(np.zeros(64), 64)).value == pytest.approx(3.975316264904382, rel=1e-12)
    units = prompts / np.linalg.norm(prompts, axis=2, keepdims=True)  # by the eigenvalues of the other Gram matrix
    shares = np.linalg.eigvalsh(units.swapaxes(1, 2) @ units / 5)
    entropy = -np.sum(shares * np.log(np.where(shares > 1e-12, shares, 1.0)), axis=1)
    assert found.value == pytest.approx(np.exp(entropy).mean(), rel=1e-10)


@pytest.mark.parametrize(("measure", "alike", "apart"), [(MEASURES[0], 0.0, 1.0), (MEASURES[1], 1.0, 4.0)])
def test_equal_images_have_none_and_orthogonal_ones_all_of_it(measure: Measure, alike: float, apart: float) -> None:
    same = np.repeat(np.random.default_rng(2).standard_normal((3, 8)), 4, axis=0).astype(np.float32)
    assert measure(same, groups_of(3, 4)).value == pytest.approx(alike, abs=1e-6)
    assert measure(same, groups_of(3, 4)).is_constant
    assert measure(np.tile(np.eye(4), (3, 1)), groups_of(3, 4)).value == pytest.approx(apart, rel=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_prompts_are_the_units_and_count_equally(measure: Measure) -> None:
    rng = np.random.default_rng(3)
    features = draw(rng, 40, 5)[0]
    labels = np.repeat(np.arange(40), 5)
    keep = np.arange(200) % 5 < np.where(labels % 2, 5, 2)  # prompts of five images, and of two
    groups = Groups.of(labels[keep], int(keep.sum()))
    found = measure(features[keep], groups)
    own = [
        measure(features[keep & (labels == p)], Groups.of(np.zeros(m), m)).value
        for p in range(40)
        for m in [int((keep & (labels == p)).sum())]
    ]
    assert found.value == pytest.approx(np.mean(own), rel=1e-12)
    assert found.standard_error == pytest.approx(np.std(own, ddof=1) / np.sqrt(40), rel=1e-12)
    assert found.sample.startswith("140 images of 40 prompts")
    score = found.to_score()
    assert score.interval is not None
    assert score.interval[0] < score.value < score.interval[1]


@pytest.mark.parametrize("measure", MEASURES)
def test_intervals_of_values_and_of_differences_cover(measure: Measure) -> None:
    rng, groups = np.random.default_rng(4), groups_of(32, 4)
    drawn = [[measure(features, groups) for features in draw(rng, 32, 4)] for _ in range(400)]
    values = [ours for ours, _ in drawn]
    differences = [paired_difference(*pair) for pair in drawn]
    for found, truth in ((values, np.mean([e.value for e in values])), (differences, 0.0)):
        spread = np.std([estimate.value for estimate in found])
        assert np.mean([estimate.standard_error for estimate in found]) == pytest.approx(spread, rel=0.1)
        intervals = [estimate.interval() for estimate in found]
        assert 0.925 < np.mean([low < truth < high for low, high in intervals]) < 0.98
    apart = np.hypot(*(np.mean([pair[i].standard_error for pair in drawn]) for i in (0, 1)))
    assert np.mean([d.standard_error for d in differences]) < 0.6 * apart, "pairs are narrower"


@pytest.mark.parametrize("measure", [*MEASURES, lambda features, groups: mean_of_prompts(features[:, 0], groups)])
def test_a_prompt_with_a_single_image_is_refused(measure: Measure) -> None:
    features = draw(np.random.default_rng(5), 4, 2)[0]
    advice = r"sample two or more of each \(prompts.images_per_prompt\)"
    with pytest.raises(ValueError, match=rf"8 of 8 prompts have a single image, .*{advice}"):
        measure(features, None)
    with pytest.raises(ValueError, match=rf"1 of 4 prompts have a single image, .*{advice}"):
        measure(features[:7], Groups.of(np.arange(7) // 2, 7))


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_features_without_a_direction_are_refused(bad: float) -> None:
    features = draw(np.random.default_rng(6), 4, 2)[0]
    features[3] = bad
    for measure in MEASURES:
        with pytest.raises(ValueError, match="no direction"):
            measure(features, groups_of(4, 2))


def test_few_prompts_have_a_value_without_an_interval() -> None:
    found = pairwise_distance_estimate(draw(np.random.default_rng(7), 19, 8)[0], groups_of(19, 8))
    assert found.caveat == "152 images of 19 prompts are too few for an interval: it takes 20 prompts or more"


def test_lpips_refuses_images_that_are_too_small_for_its_network() -> None:
    layers = torchvision.models.alexnet(weights=None).features[:12]
    layers(torch.zeros(1, 3, tasks.LPIPS_SIZE, tasks.LPIPS_SIZE))
    with pytest.raises(RuntimeError):
        layers(torch.zeros(1, 3, tasks.LPIPS_SIZE, tasks.LPIPS_SIZE - 1))
    images = np.zeros((2, tasks.LPIPS_SIZE, tasks.LPIPS_SIZE - 1, 3), np.uint8)
    with pytest.raises(BenchError, match="at least 31 × 31 pixels; these have 30 × 31"):
        tasks.lpips(images, images)


def test_lpips_is_between_the_images_of_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    def grey(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> Floats:
        apart = np.abs(ours.astype(float) - theirs).mean(axis=(1, 2, 3))
        assert len(apart) % 2 == 0, "pairs of both prompts at once"
        return apart

    monkeypatch.setattr(tasks, "lpips", grey)
    levels = np.array([0, 10, 40, 200, 200, 203], np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (6, 8, 8, 3))
    inputs = Inputs(Task(), "world", 2, 8, 8, images_per_prompt=3)
    own = TaskFeatures("text_to_image", inputs, canny_edges, images_per_prompt=3)
    found = own.pairwise_lpips(images)["pairwise_lpips"]
    assert found == pytest.approx([25, 20, 35, 1.5, 1.5, 3])
    estimate = mean_of_prompts(found, groups_of(2, 3))
    assert estimate.value == pytest.approx((np.mean([10, 40, 30]) + np.mean([0, 3, 3])) / 2)


OWN = """
import diffusers


class Half(diffusers.TCDScheduler):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.init_noise_sigma = 0.5


class Mirrored(diffusers.TCDScheduler):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.init_noise_sigma = -1.0
"""
"""Initial noise of half the size, and of the same distribution with the other sign."""


def test_less_noise_is_found_less_diverse_and_other_noise_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_noise.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    for name in ("Half", "Mirrored"):
        method = (
            f"label: {name}\nscheduler: {{_target_: own_noise.{name}, original_inference_steps: 50}}\nadapter: tcd\n"
        )
        place = tmp_path / "conf" / "method" / f"{name.lower()}.yaml"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{method}steps: [2]\neta: [0.0]\nguidance_scale: [0.0]\n")
    claims = [
        f"+claims.{name}={{text: {name}, subject: {{method: tcd, steps: 2}}, object: {{method: {name}, steps: 2}}, "
        "metrics: [pairwise_distance,vendi_score]}"
        for name in ("half", "mirrored")
    ]
    few = ("prompts.count=24", "prompts.images_per_prompt=3", "methods.tcd.steps=[2]", "methods.tcd.eta=[0]")
    quiet = ("measure.latency=false", "device=cpu", "claim=[]", "scores=[pairwise_distance,vendi_score,clip_score]")
    asked = ("experiment=smoke", "method=[tcd,half,mirrored]", *few, *quiet, f"results={tmp_path}/run", *claims)
    assert main(["run", *asked]) == 0
    store = Store(tmp_path / "run", writable=False)
    found = {judgement.claim.name: judgement for judgement in judge_run(ScoredRun.load(store))}
    assert found["half"].verdict == "supported"
    assert found["mirrored"].verdict == "undecided"
    assert [c.prompts for c in found["half"].comparisons] == [24, 24]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "72 images of 24 prompts" in page
    own = page.split('<span class="text">half</span>')[1].split("</details>")[0]
    assert own.count('<figure class="pair">') == 6
    assert own.count("<img") == 6 * 2 * 3, "each prompt with all of its images"
    captions = [figure.split("</figcaption>")[0] for figure in own.split("<figcaption>")[1:]]
    assert len({caption.split(": ")[-1] for caption in captions}) == 6
