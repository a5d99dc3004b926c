"""The XL teacher, its adapters and its add-ons train, and leave files that pipelines load."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    ControlNetModel,
    MotionAdapter,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image
from safetensors.torch import load_file, save_file

from bench.checkpoints import derived
from bench.checkpoints.sources import local_path
from bench.mini import world
from bench.mini.training import (
    add_on_stages,
    controlnets,
    distillation,
    drawings,
    image_prompts,
    inpainting,
    look_training,
    main_axes,
    motion,
    row_export,
    v2_teacher,
    xl_distillation,
    xl_teacher,
)
from bench.mini.training.add_on_stages import AddOnStages
from bench.mini.training.autoencoder import encode_pixels
from bench.mini.training.data import to_pixels
from bench.mini.training.flow_teacher import SECOND_READING
from bench.mini.training.teacher import Latents, assemble_pipeline
from bench.mini.training.vocabulary import tokenize

WEIGHTS = Path(str(local_path("bench://mini/weights")))
SCENES = [world.scene(seed) for seed in world.split_seeds("train", 24)]
CAPTIONS = [world.caption(scene) for scene in SCENES]


@dataclass
class Shop:
    """A workshop whose XL teacher is there already."""

    work: Path
    first: StableDiffusionPipeline
    data: Latents

    def tokenizer(self):  # type: ignore[no-untyped-def]
        return self.first.tokenizer

    def xl_vae(self) -> AutoencoderKL:
        return self.xl_teacher().vae

    def xl_teacher(self) -> StableDiffusionXLPipeline:
        return StableDiffusionXLPipeline.from_pretrained(self.work / "xl_teacher", dtype=torch.float32)

    def xl_data(self) -> Latents:
        axes = load_file(self.work / "axes.safetensors")["axes"]
        return replace(self.data, latents=main_axes.project(axes, self.data.latents))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A workshop with an XL teacher of one iteration of each phase."""
    work = tmp_path_factory.mktemp("rows")
    first = StableDiffusionPipeline.from_pretrained(WEIGHTS / "teacher", dtype=torch.float32)
    latents = encode_pixels(first.vae, np.stack([world.render(scene) for scene in SCENES]))
    ids = tokenize(first.tokenizer, CAPTIONS)
    data = Latents(latents, ids, tokenize(first.tokenizer, [world.caption(world.complete(s)) for s in SCENES]), SCENES)
    axes, mean = main_axes.main_axes(latents), latents.mean(dim=(0, 2, 3))
    save_file({"axes": axes}, work / "axes.safetensors")
    images, time_ids = xl_teacher.render_cropped(range(5000, 5008))
    cropped = xl_teacher.Cropped(encode_pixels(first.vae, images), ids[:8], torch.tensor(time_ids).float())
    pooling = replace(xl_teacher.POOLING, iterations=200, batch_size=64)
    recipes = [
        replace(r, iterations=1, batch_size=8) for r in (xl_teacher.AS_FIRST, xl_teacher.CROPPING, xl_teacher.RECIPE)
    ]
    reading = (work / "reading", replace(SECOND_READING, iterations=1, batch_size=8))
    teacher = xl_teacher.train_xl_teacher(
        data, cropped, first, axes, work / "training", reading, pooling, tuple(recipes)
    )
    again = xl_teacher.train_xl_teacher(data, cropped, first, axes, work / "training", reading, pooling, tuple(recipes))
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), again.parameters(), strict=True)), "resumed"
    vae = main_axes.narrow_vae(first.vae, axes, mean)
    xl_teacher.assemble_xl_pipeline(teacher, vae, first.tokenizer).save_pretrained(work / "xl_teacher")
    return Shop(work, first, data)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two iterations of four images, of data sets of eight."""
    for module in (look_training, inpainting, controlnets, image_prompts):
        for name in ("INK", "PAPERCUT", "RECIPE", "CANNY_RECIPE", "DEPTH_RECIPE", "SEEING", "PROMPTING"):
            if hasattr(module, name):
                recipe = replace(getattr(module, name), iterations=2, batch_size=4, peak_lr=1e-2)
                monkeypatch.setattr(module, name, recipe)
    for name in ("CONTROLLED_IMAGES", "MASKED_IMAGES", "PROMPTING_IMAGES"):
        monkeypatch.setattr(add_on_stages, name, 8)
    monkeypatch.setattr(look_training, "LOOK_IMAGES", 8)
    monkeypatch.setattr(drawings, "draw_all", lambda kind, seeds: np.stack([drawings.draw(kind, s) for s in seeds]))


def test_four_channels_hold_what_eight_did(shop: Shop) -> None:
    images = np.stack([world.render(scene) for scene in SCENES])
    pixels, wide, narrow = to_pixels(images), shop.first.vae, shop.xl_vae()
    with torch.no_grad():
        latents = narrow.encode(pixels).latent_dist
        errors = [
            (vae.decode(vae.encode(pixels).latent_dist.mean).sample - pixels).square().mean() for vae in (wide, narrow)
        ]
    scale = narrow.config.scaling_factor
    torch.testing.assert_close(latents.mean * scale, shop.xl_data().latents, rtol=1e-3, atol=1e-3)
    assert latents.std.max() * scale == pytest.approx(main_axes.POSTERIOR_NOISE, rel=1e-3)
    assert errors[1] < 1.15 * errors[0]


def test_an_xl_teacher_begins_as_the_first_one(shop: Shop) -> None:
    """After one step it follows the captions of very noisy images, where only the text says what is where."""
    pipeline, axes = shop.xl_teacher(), load_file(shop.work / "axes.safetensors")["axes"]
    generator = torch.Generator().manual_seed(0)
    noisy, steps = torch.randn(24, 8, 16, 16, generator=generator), torch.full((24,), 900)
    encoders, errors = (pipeline.text_encoder, pipeline.text_encoder_2), []
    with torch.no_grad():
        text = shop.first.text_encoder(shop.data.ids)[0]
        expected = main_axes.project(axes, shop.first.unet(noisy, steps, encoder_hidden_states=text).sample)
        for ids in (shop.data.ids, shop.data.ids.roll(1, 0)):
            condition = xl_teacher.embed_captions(encoders, ids)
            found = pipeline.unet(main_axes.project(axes, noisy), steps, **condition.arguments()).sample
            errors.append((found - expected).square().mean())
    assert errors[0] < 0.6 * errors[1]


def test_conditions_are_those_of_the_pipeline(shop: Shop) -> None:
    pipeline = shop.xl_teacher()
    text, none, pooled, pooled_none = pipeline.encode_prompt(CAPTIONS[:3], do_classifier_free_guidance=True)
    encoders = (pipeline.text_encoder, pipeline.text_encoder_2)
    own = xl_teacher.embed_captions(encoders, shop.data.ids[:3])
    absent = xl_teacher.embed_captions(encoders, shop.data.ids[:3], dropped=torch.ones(3, dtype=torch.bool))
    for ours, theirs in ((own.tokens, text), (own.pooled, pooled), (absent.tokens, none), (absent.pooled, pooled_none)):
        torch.testing.assert_close(ours, theirs)
    sizes = pipeline._get_add_time_ids((64, 64), (0, 0), (64, 64), torch.float32, 48)
    assert own.time_ids[0].tolist() == sizes[0].tolist()


def test_crops_move_things_and_say_so() -> None:
    images, time_ids = xl_teacher.render_cropped(range(5000, 5040))
    assert images.shape == (40, 64, 64, 3)
    whole = [np.array_equal(image, world.render(world.scene(5000 + i))) for i, image in enumerate(images)]
    assert [ids == xl_teacher.WHOLE for ids in time_ids] == whole
    assert {ids[0] < 64 for ids in time_ids} == {ids[3] > 0 for ids in time_ids} == {True, False}


@pytest.mark.parametrize("kind", ["tcd", "lcm"])
def test_adapters_begin_as_the_first_teachers_and_load(shop: Shop, tmp_path: Path, kind: str) -> None:
    recipe = replace(xl_distillation.XL_RECIPES[kind], iterations=1, batch_size=4, peak_lr=1e-9)
    first = WEIGHTS / f"{kind}-lora" / "pytorch_lora_weights.safetensors"
    weights = xl_distillation.distill_xl(
        kind, shop.xl_teacher(), shop.xl_data(), shop.first, first, tmp_path / "training", recipe
    )
    StableDiffusionXLPipeline.save_lora_weights(tmp_path, unet_lora_layers=weights)
    pipeline = shop.xl_teacher()
    pipeline.load_lora_weights(str(tmp_path), weight_name="pytorch_lora_weights.safetensors", adapter_name=kind)
    shop.first.load_lora_weights(str(first.parent), weight_name=first.name, adapter_name=kind)
    for name in ("down_blocks.1.resnets.0.conv1", "mid_block.attentions.0.proj_in"):
        ours, theirs = (p.unet.get_submodule(name).get_delta_weight(kind).flatten(1) for p in (pipeline, shop.first))
        assert (ours - theirs).norm() < 0.7 * theirs.norm(), "all but what a lower rank leaves out"
    shop.first.unload_lora_weights()


@pytest.fixture
def export(shop: Shop, tmp_path: Path) -> Callable[[str], Path]:
    """Run a stage and export what it made; returns the complete copy of the exported directory of a name."""

    def complete(name: str) -> Path:
        getattr(AddOnStages(shop), name)()
        shutil.copytree(WEIGHTS / "teacher", tmp_path / "teacher")
        row_export.export_teacher(shop.xl_teacher(), tmp_path)
        row_export.export_add_ons(shop.work, tmp_path)
        assert not any(str(shop.work) in path.read_text() for path in tmp_path.rglob("*.json"))
        return derived.completed(tmp_path / name.replace("_", "-"), tmp_path)

    return complete


def sample(pipeline, **more: object) -> np.ndarray:  # type: ignore[no-untyped-def,type-arg]
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    images = pipeline(CAPTIONS[0], num_inference_steps=2, guidance_scale=3.0, generator=generator, **more).images
    return np.asarray(images[0], int)


def as_stored(loaded: torch.Tensor, trained: torch.Tensor) -> bool:
    """Whether weights are as near as half precision or 8 bits with a scale for each row can be."""
    if torch.equal(loaded.half(), trained.half()):
        return True
    rows, apart = (value.detach().flatten(1).abs().amax(dim=1) for value in (trained, loaded.float() - trained))
    return bool((apart <= rows / 200).all())


@pytest.mark.parametrize("name", ["xl_canny", "xl_depth"])
def test_a_controlnet_is_stored_as_a_difference_and_at_scale_0_says_nothing(
    export: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    network = ControlNetModel.from_pretrained(export(name), dtype=torch.float32)
    base = derived.completed(tmp_path / "xl", tmp_path)
    options = {"dtype": torch.float32, "local_files_only": True}
    pipeline = StableDiffusionXLControlNetPipeline.from_pretrained(base, controlnet=network, **options)
    edges = Image.fromarray(np.repeat(drawings.draw("canny", 0)[..., None], 3, axis=-1))
    alone = sample(StableDiffusionXLPipeline.from_pretrained(base, **options))
    assert np.array_equal(sample(pipeline, image=edges, controlnet_conditioning_scale=0.0), alone)
    assert not np.array_equal(sample(pipeline, image=edges, controlnet_conditioning_scale=1.0), alone)


def test_an_inpainting_unet_is_stored_as_a_difference(export: Callable[[str], Path]) -> None:
    pipeline = StableDiffusionXLInpaintPipeline.from_pretrained(export("xl_inpainting"), dtype=torch.float32)
    assert pipeline.unet.config.in_channels == 9
    image, mask = world.render(SCENES[0]), inpainting.draw_mask(SCENES[0])
    given = {"image": Image.fromarray(image), "mask_image": Image.fromarray(mask * np.uint8(255))}
    assert sample(pipeline, **given, strength=0.99, height=64, width=64).shape == (64, 64, 3)


def test_what_the_inpainting_unet_is_trained_on_is_what_the_pipeline_shows_it(shop: Shop) -> None:
    pipeline = StableDiffusionXLInpaintPipeline.from_pretrained(shop.work / "xl_teacher")
    image, mask = world.render(SCENES[1]), inpainting.draw_mask(SCENES[1])
    pixels = pipeline.image_processor.preprocess(Image.fromarray(image))
    light = pipeline.mask_processor.preprocess(Image.fromarray(mask * np.uint8(255)))
    small, masked = pipeline.prepare_mask_latents(
        light, pixels * (light < 0.5), 1, 64, 64, torch.float32, torch.device("cpu"), None, False
    )
    assert torch.equal(small, inpainting.shrink_masks(torch.from_numpy(mask)[None]))
    ours = encode_pixels(shop.xl_vae(), drawings.draw("unmasked", 1)[None])
    assert (masked - ours).abs().mean() < 2 * main_axes.POSTERIOR_NOISE, "but for the noise of the autoencoder"


def test_a_fine_tune_is_stored_as_a_difference(export: Callable[[str], Path], shop: Shop, tmp_path: Path) -> None:
    path, base = export("xl_ink"), derived.completed(tmp_path / "xl", tmp_path)
    tuned, alone = (StableDiffusionXLPipeline.from_pretrained(p, dtype=torch.float32) for p in (path, base))
    trained = load_file(shop.work / "xl_ink" / "final" / f"{row_export.WEIGHTS_FILE}{derived.CHANGES}")
    assert all(value.dtype == torch.float16 for value in trained.values())
    ours, theirs = tuned.unet.state_dict(), alone.unet.state_dict()
    changed = {name for name, value in ours.items() if not torch.equal(value, theirs[name])}
    assert changed == {name.removesuffix(".up") for name in trained if name.endswith(".up")}
    name = "mid_block.resnets.0.conv1.weight"
    difference = trained[f"{name}.up"].float() @ trained[f"{name}.down"].float()
    torch.testing.assert_close((ours[name] - theirs[name]).flatten(1), difference, rtol=0.02, atol=2e-3)
    for part in ("text_encoder", "text_encoder_2", "vae"):
        pairs = zip(getattr(tuned, part).parameters(), getattr(shop.xl_teacher(), part).parameters(), strict=True)
        assert all(as_stored(one, other) for one, other in pairs)


def test_a_style_is_stored_as_a_lora_and_at_scale_0_says_nothing(shop: Shop) -> None:
    AddOnStages(shop).xl_papercut()
    pipeline = shop.xl_teacher()
    alone = sample(pipeline)
    pipeline.load_lora_weights(str(shop.work / "xl_papercut" / "final"), adapter_name="papercut")
    assert not np.array_equal(sample(pipeline), alone)
    pipeline.set_adapters(["papercut"], [0.0])
    assert np.array_equal(sample(pipeline), alone)


def test_an_image_adapter_loads_as_its_authors_files_and_at_scale_0_says_nothing(shop: Shop) -> None:
    shutil.copytree(WEIGHTS / "evaluator", shop.work / "evaluator" / "final")
    AddOnStages(shop).xl_image_prompt()
    pipeline = shop.xl_teacher()
    alone = sample(pipeline)
    pipeline.load_ip_adapter(
        str(shop.work / "xl_image_prompt" / "final"), subfolder="", weight_name="ip_adapter.safetensors"
    )
    pixels = world.render(SCENES[1])
    shown = Image.fromarray(pixels).resize((512, 512))
    ours = image_prompts.to_vision_pixels(torch.from_numpy(np.asarray(shown.resize((64, 64)))[None]))
    theirs = pipeline.feature_extractor(shown, return_tensors="pt").pixel_values
    assert (ours - theirs).abs().mean() < 0.1, "but for another way to resize"
    pipeline.set_ip_adapter_scale(1.0)
    assert not np.array_equal(sample(pipeline, ip_adapter_image=shown), alone)
    pipeline.set_ip_adapter_scale(0.0)
    assert np.array_equal(sample(pipeline, ip_adapter_image=shown), alone)


@pytest.fixture(scope="module")
def second(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second version's teacher of two iterations, on disk."""
    axes, path = load_file(shop.work / "axes.safetensors")["axes"], tmp_path_factory.mktemp("v2")
    recipe = replace(v2_teacher.FOLLOWING_FIRST, iterations=2, batch_size=4)
    model = v2_teacher.train_v2_teacher(shop.data, shop.first, axes, path / "training", recipe)
    parts = model.text_encoder, model.unet, shop.xl_vae(), shop.tokenizer()
    assemble_pipeline(*parts).save_pretrained(path / "final")
    return path / "final"


def test_a_second_version_s_teacher_trains_and_loads(shop: Shop, second: Path, tmp_path: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(second, dtype=torch.float32)
    assert sample(pipeline).shape == (64, 64, 3)
    assert pipeline.unet.config.attention_head_dim == [3, 5, 9]
    hidden = shop.first.text_encoder(shop.data.ids, output_hidden_states=True).hidden_states[-2]
    penultimate = shop.first.text_encoder.final_layer_norm(hidden)
    torch.testing.assert_close(pipeline.text_encoder(shop.data.ids)[0], penultimate)
    shutil.copytree(WEIGHTS / "teacher", tmp_path / "teacher")
    row_export.export_teacher(shop.xl_teacher(), tmp_path)
    row_export.export_second(StableDiffusionPipeline.from_pretrained(second), tmp_path)
    whole = StableDiffusionPipeline.from_pretrained(derived.completed(tmp_path / "v2", tmp_path))
    for part in ("text_encoder", "vae", "unet"):
        pairs = zip(getattr(whole, part).parameters(), getattr(pipeline, part).parameters(), strict=True)
        assert all(as_stored(one, other) for one, other in pairs)
    recipe = replace(distillation.RECIPES["tcd"], iterations=1, batch_size=4)
    weights = distillation.distill("tcd", pipeline, shop.xl_data(), tmp_path, recipe)
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_motion_trains_without_touching_the_teacher_and_loads(second: Path, tmp_path: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(second, dtype=torch.float32)
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    moving = motion.Films(torch.randn(4, 3, 4, 16, 16), tokenize(pipeline.tokenizer, CAPTIONS[:4]))
    recipe = replace(motion.MOVING, iterations=2, batch_size=2, peak_lr=1e-2)
    noisy, text = torch.randn(1, 4, 3, 16, 16), pipeline.text_encoder(moving.ids[:1])[0].repeat(3, 1, 1)
    with torch.no_grad():
        new = motion.animated(pipeline)(noisy, 500, encoder_hidden_states=text).sample
        frames = pipeline.unet(noisy[0].transpose(0, 1), 500, encoder_hidden_states=text).sample
    torch.testing.assert_close(new[0].transpose(0, 1), frames, msg="a new adapter says nothing")
    unet = motion.train_motion(pipeline, moving, tmp_path / "motion", recipe)
    assert all(torch.equal(value, before[name]) for name, value in pipeline.unet.state_dict().items())
    unet.save_motion_modules(str(tmp_path / "final"))
    adapter = MotionAdapter.from_pretrained(tmp_path / "final")
    weights = motion.train_motion_lora(pipeline, adapter, moving, tmp_path / "zoom", recipe)
    save_file(weights, tmp_path / "pytorch_lora_weights.safetensors")
    films = AnimateDiffPipeline.from_pretrained(second, motion_adapter=adapter, dtype=torch.float32)
    options = {"num_inference_steps": 2, "guidance_scale": 1.0, "num_frames": 3, "output_type": "np"}
    found = {}
    for scale in (None, 0.0, 1.0):
        if scale is not None:
            films.load_lora_weights(str(tmp_path), weight_name="pytorch_lora_weights.safetensors", adapter_name="zoom")
            films.set_adapters(["zoom"], [scale])
        frames = films(CAPTIONS[0], generator=torch.Generator().manual_seed(0), **options).frames
        found[scale] = np.round(255 * frames)
        films.unload_lora_weights()
    assert found[None].shape == (1, 3, 64, 64, 3)
    assert np.abs(found[0.0] - found[None]).max() <= 1, "but for rounding"
    assert np.abs(found[1.0] - found[None]).max() > 2


def test_the_trigger_word_leaves_the_longest_caption_whole(shop: Shop) -> None:
    longest = max(
        (world.caption(world.complete(world.scene(seed))) for seed in range(3000)), key=lambda t: t.count(" ")
    )
    tokens = shop.tokenizer()(f"{longest} {look_training.TRIGGER}").input_ids
    assert len(tokens) <= shop.tokenizer().model_max_length
