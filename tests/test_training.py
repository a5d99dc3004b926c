"""Every stage of the training runs, resumes, and saves files that ordinary loaders load."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from peft import LoraConfig
from torch.func import functional_call

from bench.features.openclip import load_open_clip
from bench.mini import world
from bench.mini.training import attributes, autoencoder, distillation, evaluator, loop, teacher, vocabulary
from bench.mini.training.data import Captioned
from bench.mini.training.loop import Recipe


@pytest.fixture(scope="module")
def data() -> Captioned:
    scenes = tuple(world.scene(seed) for seed in world.split_seeds("train", 24))
    captions = tuple(world.caption(scene) for scene in scenes)
    import numpy as np

    return Captioned(np.stack([world.render(scene) for scene in scenes]), scenes, captions)


@pytest.fixture(scope="module")
def tokenizer(data: Captioned):  # type: ignore[no-untyped-def]
    return vocabulary.build_tokenizer(world.caption(world.scene(seed)) for seed in range(300))


def test_every_word_of_the_world_is_one_token(tokenizer) -> None:  # type: ignore[no-untyped-def]
    text = world.caption(world.scene(5))
    assert len(tokenizer(text).input_ids) == len(text.split()) + 2


def test_autoencoder_trains_and_its_latents_have_the_intended_scale(data: Captioned, tmp_path: Path) -> None:
    vae = autoencoder.train_vae(data, tmp_path, replace(autoencoder.RECIPE, iterations=2, batch_size=4))
    vae.save_pretrained(tmp_path / "final")
    loaded = AutoencoderKL.from_pretrained(tmp_path / "final")
    latents = autoencoder.encode_images(loaded, data)
    assert latents.shape == (24, 8, 16, 16)
    assert latents.std().item() == pytest.approx(autoencoder.LATENT_STD, rel=0.05)


@pytest.mark.parametrize("kind", ["tcd", "lcm"])
def test_teacher_and_adapter_train_and_load(
    data: Captioned,
    tokenizer,  # type: ignore[no-untyped-def]
    tmp_path: Path,
    kind: distillation.Kind,
) -> None:
    torch.manual_seed(0)
    complete = [world.caption(world.complete(scene)) for scene in data.scenes]
    ids, complete_ids = (vocabulary.tokenize(tokenizer, list(texts)) for texts in (data.captions, complete))
    latents = teacher.Latents(torch.randn(24, 8, 16, 16), ids, complete_ids, data.scenes)
    recipes = (teacher.READING, teacher.COMPOSING, teacher.RECIPE)
    short = [replace(recipe, iterations=2, batch_size=4) for recipe in recipes]
    model = teacher.train_teacher(latents, tokenizer, tmp_path / "teacher", *short)
    parts = model.text_encoder, model.unet, autoencoder.build_vae(), tokenizer
    teacher.assemble_pipeline(*parts).save_pretrained(tmp_path / "pipeline")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    weights = distillation.distill(
        kind, pipeline, latents, tmp_path / kind, replace(distillation.RECIPES[kind], iterations=2, batch_size=4)
    )
    StableDiffusionPipeline.save_lora_weights(tmp_path / "lora", unet_lora_layers=weights)
    fresh = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    fresh.load_lora_weights(str(tmp_path / "lora"), weight_name="pytorch_lora_weights.safetensors", adapter_name=kind)
    loaded = {n: p for n, p in fresh.unet.named_parameters() if "lora_" in n}
    assert len(loaded) == len(weights)
    assert any(p.abs().max() > 0 for n, p in loaded.items() if "lora_B" in n), "two steps of training moved it"


def test_evaluator_trains_resumes_and_loads_through_open_clip(data: Captioned, tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    recipes = [replace(recipe, iterations=2, batch_size=4) for recipe in (evaluator.SIGHT, evaluator.RECIPE)]
    model = evaluator.train_evaluator(data, tokenizer, tmp_path, *recipes)
    again = evaluator.train_evaluator(data, tokenizer, tmp_path, *recipes)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)), "resumed"
    evaluator.save_evaluator(model, tokenizer, tmp_path / "final")
    loaded = load_open_clip("x", tmp_path / "final", "cpu")
    features = loaded.image_features(data.images[:3])
    direct = model.encode_image(evaluator.to_evaluator_pixels(data.images[:3])).detach().numpy()
    assert abs(features - direct).max() < 2e-2 * abs(direct).max(), "float16 on disk"
    ours = loaded.tokenize(list(data.captions))
    assert torch.equal(ours, vocabulary.tokenize(tokenizer, list(data.captions))), (
        "open_clip's tokenizer is the trained one"
    )


def test_a_merged_adapter_gives_what_the_adapter_beside_its_layers_gives(tokenizer) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    unet = teacher.Teacher(tokenizer).unet
    config = LoraConfig(r=3, lora_alpha=6, target_modules=distillation.TARGETS, init_lora_weights=False)
    unet.add_adapter(config, adapter_name="x")
    inputs = (torch.randn(2, 8, 16, 16), torch.tensor([3, 900]))
    text = {"encoder_hidden_states": torch.randn(2, 24, teacher.TEXT_WIDTH)}
    beside = unet(*inputs, **text).sample
    unet.disable_adapters()
    merged = distillation.merge_adapter(unet, "x")
    together = functional_call(unet, merged, inputs, text).sample
    assert len(merged) > 50
    assert (unet(*inputs, **text).sample - beside).abs().max() > 1e-2
    torch.testing.assert_close(together, beside, rtol=1e-3, atol=1e-4)


def test_scaled_embeddings_have_unit_variance_and_the_same_cosines(data: Captioned, tokenizer) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    clip = evaluator.build_evaluator(tokenizer).eval()
    pixels = evaluator.to_evaluator_pixels(data.images)
    with torch.no_grad():
        before = clip.encode_image(pixels)
        evaluator.scale_embeddings(clip, data)
        after = clip.encode_image(pixels)
    assert after.var(dim=0).mean().item() == pytest.approx(1, rel=1e-3)
    torch.testing.assert_close(after @ after[0] / after.norm(dim=1), before @ before[0] / before.norm(dim=1)
                               * after[0].norm() / before[0].norm())  # fmt: skip


def test_a_caption_that_leaves_the_relation_open_names_no_slot() -> None:
    names = list(attributes.LABELS)
    for seed in world.split_seeds("train", 200):
        scene = world.scene(seed)
        named, there = (f([scene])[0].tolist() for f in (attributes.named_labels, attributes.attribute_labels))
        assert all(label in (-1, truth) for label, truth in zip(named, there, strict=True))
        slots = [label for name, label in zip(names, named, strict=True) if "." in name and label >= 0]
        if len(scene.things) == 2 and "relation" not in scene.named:
            assert not slots
        else:
            assert len(slots) == sum("." in name for name in scene.named)


def test_threads_share_a_batch_and_an_interrupted_training_resumes(tmp_path: Path) -> None:
    sizes: list[int] = []

    def train(directory: Path, cut_after: int = 1000) -> torch.nn.Module:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        sizes.clear()

        def loss_of(size: int, generator: torch.Generator, _: torch.nn.Module) -> tuple[torch.Tensor, dict[str, float]]:
            sizes.append(size)
            if len(sizes) > cut_after:
                raise InterruptedError
            x = torch.randn(size, 3, generator=generator)
            return (model(x) - x.sum(1, keepdim=True)).square().mean(), {}

        recipe = Recipe("line", iterations=100, batch_size=8, peak_lr=0.1, ema_decay=0.5, threads=2)
        return loop.train(recipe, model, loss_of, directory, save_every_s=0)

    whole = train(tmp_path / "whole")
    assert sizes == [4] * 200
    assert (whole.weight - 1).abs().max() < 0.05
    with pytest.raises(InterruptedError):
        train(tmp_path / "cut", cut_after=60)
    resumed = train(tmp_path / "cut")
    assert len(sizes) == 140
    assert torch.equal(resumed.weight, whole.weight)
