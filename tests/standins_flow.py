"""Substitutes for the hub's repositories of flow-matching transformers: small random checkpoints under the real ids.

Each holds the files that its repository holds, by name: sharded weights with their index, variants, tokenizers in the
form in which they are published, and files that a pipeline does not read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SanaTransformer2DModel,
    SCMScheduler,
    SD3Transformer2DModel,
    ZImageTransformer2DModel,
)
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from standins import REPOSITORIES, build_clip_tokenizer, build_hub, text_config
from standins_text import (
    CHAT_TEMPLATE,
    gemma,
    gemma_tokenizer,
    qwen3,
    qwen_tokenizer,
    qwen_vl,
    t5_encoder,
    t5_tokenizer,
)

DTYPE = torch.bfloat16
"""Of published weights."""
CLIP_FILES = ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")
T5_FILES = ("special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer_config.json")
GEMMA_FILES = ("special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json")
QWEN_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "vocab.json",
)
FAST_CLASSES = {"CLIPTokenizer": "CLIPTokenizer", "T5Tokenizer": "T5TokenizerFast", "GemmaTokenizer":
                "GemmaTokenizerFast", "Qwen2Tokenizer": "Qwen2Tokenizer"}  # fmt: skip
"""Names of tokenizer classes in published model_index.json files."""


@dataclass(frozen=True)
class Published:
    """How a repository publishes its weights and tokenizers.

    `shards` is the number of files by folder and variant; `tokenizers` holds the file names by folder. `variants` are
    those in which each folder's weights are there, None for the plain files; `further` are files that are not read.
    """

    shards: Mapping[tuple[str, str | None], int] = field(default_factory=dict)
    tokenizers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    variants: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    further: Sequence[str] = ()

    def save(self, pipeline: Any, directory: Path) -> None:
        """Save a pipeline in half precision in this form."""
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.to(DTYPE)
        pipeline.save_pretrained(directory)
        for folder in (path for path in directory.iterdir() if path.is_dir()):
            for stem in ("model", "diffusion_pytorch_model"):
                if (whole := folder / f"{stem}.safetensors").is_file():
                    self._spread(whole, folder.name)
            if folder.name in self.tokenizers:
                _publish_tokenizer(folder, getattr(pipeline, folder.name), self.tokenizers[folder.name])
        index = json.loads((directory / "model_index.json").read_text())
        for value in index.values():
            if isinstance(value, list) and value[1] in FAST_CLASSES:
                value[1] = FAST_CLASSES[value[1]]
        (directory / "model_index.json").write_text(json.dumps(index, indent=2))
        for name in self.further:
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_text("{}")

    def _spread(self, whole: Path, folder: str) -> None:
        """Replace a weights file by those of its variants and shards."""
        tensors = load_file(whole)
        whole.unlink()
        for variant in self.variants.get(folder, (None,)):
            infix, count = f".{variant}" if variant else "", self.shards.get((folder, variant), 1)
            if count == 1:
                save_file(tensors, whole.with_name(f"{whole.stem}{infix}.safetensors"), {"format": "pt"})
                continue
            names = [f"{whole.stem}{infix}-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
            where = {key: names[i * count // len(tensors)] for i, key in enumerate(tensors)}
            for name in names:
                own = {key: value for key, value in tensors.items() if where[key] == name}
                save_file(own, whole.with_name(name), {"format": "pt"})
            index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": where}
            whole.with_name(f"{whole.stem}.safetensors.index{infix}.json").write_text(json.dumps(index))


def _publish_tokenizer(folder: Path, tokenizer: Any, wanted: Sequence[str]) -> None:
    """Leave just the wanted files in a tokenizer's folder; the vocabulary as vocab.json and merges.txt where wanted."""
    said = json.loads((folder / "tokenizer.json").read_text())
    model, added = said["model"], {entry["id"]: entry for entry in said["added_tokens"]}
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {str(i): {k: v for k, v in e.items() if k != "id"} for i, e in added.items()}
    specials = {key: value for key, value in config.items() if key.endswith("_token") and value}
    if "chat_template.jinja" not in wanted and tokenizer.chat_template:
        config["chat_template"] = tokenizer.chat_template
    contents = {
        "vocab.json": lambda: json.dumps(model["vocab"]),
        "merges.txt": lambda: "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]) + "\n",
        "special_tokens_map.json": lambda: json.dumps(specials),
        "added_tokens.json": lambda: json.dumps({entry["content"]: i for i, entry in added.items()}),
        "tokenizer_config.json": lambda: json.dumps(config),
        "tokenizer.json": lambda: json.dumps(said),
        "chat_template.jinja": lambda: CHAT_TEMPLATE,
    }
    for path in folder.iterdir():
        path.unlink()
    for name in wanted:
        (folder / name).write_text(contents.get(name, lambda: "not read, tokenizer.json is")())


def vae(latents: int = 16, **more: Any) -> AutoencoderKL:
    """SD3's, FLUX.1's and Z-Image's kind of VAE: a shift, and no convolutions around the latents."""
    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=latents,
        norm_num_groups=2,
        sample_size=1024,
        use_quant_conv=False,
        use_post_quant_conv=False,
        **more,
    )


FLUX_LATENTS = {"scaling_factor": 0.3611, "shift_factor": 0.1159}


def sd3_pipeline(two_attentions: bool) -> diffusers.StableDiffusion3Pipeline:
    """Stable Diffusion 3.5's layout; medium has a second attention in its first blocks."""
    clip = build_clip_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        out_channels=16,
        pos_embed_max_size=96,
        qk_norm="rms_norm",
        dual_attention_layers=(0,) if two_attentions else (),
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=transformers.CLIPTextModelWithProjection(text_config(clip, 16)),
        tokenizer=clip,
        text_encoder_2=transformers.CLIPTextModelWithProjection(text_config(clip, 16)),
        tokenizer_2=clip,
        text_encoder_3=t5_encoder(),
        tokenizer_3=t5_tokenizer(),
    )


def flux_pipeline(embeds_guidance: bool) -> diffusers.FluxPipeline:
    """FLUX.1's layout: dev embeds its guidance scale and shifts by the size, schnell does neither."""
    clip = build_clip_tokenizer()
    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=embeds_guidance,
        axes_dims_rope=(4, 4, 8),
    )
    shift = {"shift": 3.0, "use_dynamic_shifting": True} if embeds_guidance else {"shift": 1.0}
    return diffusers.FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(
            base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096, **shift
        ),
        vae=vae(**FLUX_LATENTS),
        text_encoder=transformers.CLIPTextModel(text_config(clip, 16)),
        tokenizer=clip,
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(),
    )


def klein_pipeline(distilled: bool = True) -> diffusers.Flux2KleinPipeline:
    """FLUX.2-klein's layout: a language model of 28 layers, latents in patches with running statistics."""
    transformer = Flux2Transformer2DModel(
        in_channels=128,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    latents = AutoencoderKLFlux2(
        block_out_channels=(4, 4, 4, 4), layers_per_block=1, latent_channels=32, norm_num_groups=2, sample_size=1024
    )
    return diffusers.Flux2KleinPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, max_image_seq_len=4096
        ),
        vae=latents,
        text_encoder=qwen3(28, "Qwen3ForCausalLM"),
        tokenizer=qwen_tokenizer(),
        is_distilled=distilled,
    )


def _dc_ae() -> AutoencoderDC:
    """SANA's deep-compression autoencoder: factor 32, 32 channels."""
    kinds = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    widths, multiscales = (4, 8, 8, 8, 8, 32), ((), (), (), (5,), (5,), (5,))
    return AutoencoderDC(
        latent_channels=32,
        attention_head_dim=4,
        encoder_block_types=kinds,
        decoder_block_types=kinds,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        encoder_qkv_multiscales=multiscales,
        decoder_qkv_multiscales=multiscales,
        upsample_block_type="interpolate",
        downsample_block_type="Conv",
        scaling_factor=0.41407,
    )


def sana_pipeline(sprint: bool) -> Any:
    """SANA's layout; Sprint embeds its guidance scale and samples with SCM."""
    transformer = SanaTransformer2DModel(
        in_channels=32,
        out_channels=32,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=32,
        guidance_embeds=sprint,
        qk_norm="rms_norm_across_heads" if sprint else None,
    )
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, algorithm_type="dpmsolver++"
    )
    kind = diffusers.SanaSprintPipeline if sprint else diffusers.SanaPipeline
    return kind(
        tokenizer=gemma_tokenizer(),
        text_encoder=gemma(),
        vae=_dc_ae(),
        transformer=transformer,
        scheduler=SCMScheduler(prediction_type="trigflow", sigma_data=0.5) if sprint else scheduler,
    )


def z_image_pipeline(shift: float = 3.0) -> diffusers.ZImagePipeline:
    """Z-Image's layout: one stream of text and image tokens."""
    transformer = ZImageTransformer2DModel(
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 6, 6],
        axes_lens=[1536, 512, 512],
    )
    return diffusers.ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=vae(**FLUX_LATENTS),
        text_encoder=qwen3(3, "Qwen3Model"),
        tokenizer=qwen_tokenizer(),
        transformer=transformer,
    )


def qwen_pipeline() -> diffusers.QwenImagePipeline:
    """Qwen-Image's layout: a vision language model reads the prompt, the VAE is one for videos."""
    transformer = QwenImageTransformer2DModel(
        in_channels=64,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    return diffusers.QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=0.9,
            base_image_seq_len=256,
            max_image_seq_len=8192,
            shift=1.0,
            shift_terminal=0.02,
            time_shift_type="exponential",
        ),
        vae=AutoencoderKLQwenImage(base_dim=4, num_res_blocks=1),
        text_encoder=qwen_vl(),
        tokenizer=qwen_tokenizer(),
        transformer=transformer,
    )


def lightning_lora(directory: Path, *names: str) -> None:
    """Qwen-Image-Lightning's files: layers without a prefix, lora_down and lora_up, an alpha of half the rank."""
    transformer = qwen_pipeline().transformer
    targets = ["to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out"]
    for i, name in enumerate(names):
        own = LoraConfig(r=4, lora_alpha=4, target_modules=targets, init_lora_weights=False)
        transformer.add_adapter(own, f"number_{i}")
        state: dict[str, torch.Tensor] = {}
        for key, value in get_peft_model_state_dict(transformer, adapter_name=f"number_{i}").items():
            module = key.removesuffix(".weight").rpartition(".")[0]
            side = "lora_down" if "lora_A" in key else "lora_up"
            state[f"{module}.{side}.weight"] = value.contiguous().to(DTYPE)
            state[f"{module}.alpha"] = torch.tensor(2.0, dtype=DTYPE)
        save_file(state, directory / name)
        transformer.delete_adapters(f"number_{i}")


_SD3_TOKENIZERS = {"tokenizer": CLIP_FILES, "tokenizer_2": CLIP_FILES, "tokenizer_3": T5_FILES}
_SD3_VARIANTS = dict.fromkeys(("text_encoder", "text_encoder_2", "text_encoder_3"), (None, "fp16"))
_SD3_ENCODERS = {("text_encoder_3", None): 2, ("text_encoder_3", "fp16"): 2}
_FLUX = Published(
    {("text_encoder_2", None): 2, ("transformer", None): 3}, {"tokenizer": CLIP_FILES, "tokenizer_2": T5_FILES}
)
_KLEIN = Published({("text_encoder", None): 2}, {"tokenizer": (*QWEN_FILES, "tokenizer.json")})
_Z_IMAGE = Published(
    {("text_encoder", None): 3, ("transformer", None): 3},
    {"tokenizer": ("merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json")},
)


def _further(published: Published, *names: str) -> Published:
    return Published(published.shards, published.tokenizers, published.variants, names)


def _sd3(directory: Path, two_attentions: bool, shards: int, *names: str) -> None:
    encoders = {**_SD3_ENCODERS, ("transformer", None): shards}
    form = Published(encoders, _SD3_TOKENIZERS, _SD3_VARIANTS, ("README.md", *names))
    form.save(sd3_pipeline(two_attentions), directory)


def _sana(directory: Path) -> None:
    """The BF16 repository: float32 in shards, and the variant."""
    folders = ("text_encoder", "transformer", "vae")
    shards = {("text_encoder", None): 2, ("text_encoder", "bf16"): 2, ("transformer", None): 2}
    Published(
        shards,
        {"tokenizer": GEMMA_FILES},
        dict.fromkeys(folders, (None, "bf16")),
        ("README.md", "transformer/diffusion_pytorch_model.int4.safetensors"),
    ).save(sana_pipeline(sprint=False), directory)


FLOW_REPOSITORIES: dict[str, Callable[[Path], object]] = {
    "stabilityai/stable-diffusion-3.5-medium": lambda path: _sd3(
        path, True, 1, "sd3.5_medium.safetensors", "vae copy/config.json", "SD3.5M_example_workflow.json"
    ),
    "stabilityai/stable-diffusion-3.5-large": lambda path: _sd3(
        path, False, 2, "sd3.5_large.safetensors", "text_encoders/t5xxl_fp16.safetensors"
    ),
    "stabilityai/stable-diffusion-3.5-large-turbo": lambda path: _sd3(
        path, False, 2, "sd3.5_large_turbo.safetensors", "text_encoders/t5xxl_fp16.safetensors"
    ),
    "black-forest-labs/FLUX.1-schnell": lambda path: _further(
        _FLUX, "README.md", "flux1-schnell.safetensors", "ae.safetensors"
    ).save(flux_pipeline(False), path),
    "black-forest-labs/FLUX.1-dev": lambda path: _further(
        _FLUX, "README.md", "flux1-dev.safetensors", "ae.safetensors"
    ).save(flux_pipeline(True), path),
    "black-forest-labs/FLUX.2-klein-4B": lambda path: _further(_KLEIN, "README.md", "flux-2-klein-4b.safetensors").save(
        klein_pipeline(), path
    ),
    "black-forest-labs/FLUX.2-klein-base-4B": lambda path: _further(
        _KLEIN, "README.md", "flux-2-klein-base-4b.safetensors"
    ).save(klein_pipeline(distilled=False), path),
    "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers": _sana,
    "Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers": lambda path: Published(
        {("text_encoder", None): 2}, {"tokenizer": GEMMA_FILES}, further=("README.md",)
    ).save(sana_pipeline(sprint=True), path),
    "Tongyi-MAI/Z-Image-Turbo": lambda path: _further(_Z_IMAGE, "README.md").save(z_image_pipeline(), path),
    "Tongyi-MAI/Z-Image": lambda path: _further(_Z_IMAGE, "README.md").save(z_image_pipeline(shift=6.0), path),
    "Qwen/Qwen-Image": lambda path: Published(
        {("text_encoder", None): 4, ("transformer", None): 9}, {"tokenizer": QWEN_FILES}, further=("README.md",)
    ).save(qwen_pipeline(), path),
    "lightx2v/Qwen-Image-Lightning": lambda path: lightning_lora(
        path, "Qwen-Image-Lightning-4steps-V1.0.safetensors", "Qwen-Image-Lightning-8steps-V1.0.safetensors"
    ),
}
"""What builds a substitute, by the hub's id."""

SHIFT_OF_LIGHTNING = math.log(3)
"""Qwen-Image-Lightning was distilled at shift 3."""


def build_flow_hub(directory: Path, *ids: str) -> Path:
    """Fill a hub cache with substitutes of these repositories, by default all of flow matching; returns it."""
    return build_hub(directory, ids or FLOW_REPOSITORIES, {**REPOSITORIES, **FLOW_REPOSITORIES})
