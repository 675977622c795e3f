"""Trains the tiny SD3 from scratch: the autoencoder, then text encoders and transformer together.

Owns the model's architecture, its training recipe and the export to a diffusers folder. Nothing
that serves images imports it. Run ``python -m edge_node.worker.tiny_sd3.train --work-dir FOLDER
--out FOLDER --minutes N``; see README.md beside this file.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import os
import pathlib
import shutil
import time

import numpy as np
import numpy.typing as npt
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from diffusers.models.attention_processor import Attention, JointAttnProcessor2_0
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from edge_node.worker.tiny_sd3 import scenes, vocabulary

STAGES = ("vae", "text", "denoiser", "guided", "decoder", "export")
LATENT_CHANNELS = 8
BLOCKS = 6
HEADS = 4
HEAD_WIDTH = 32
TEXT_WIDTHS = (64, 96)
TEXT_LAYERS = (2, 3)
# Both text widths together are padded with zeros to this, as SD3-medium's 2048 are to 4096.
CONTEXT_WIDTH = 192
POSITIONS_MAX = 32
IMAGE_TOKENS = 64
ZERO_ROWS = 256
SHIFT = 3.0
GUIDANCE_SCALE = 5.0
# Position embeddings are shared from here on: no caption of the training set is as long.
TIED_POSITION = 32
# Tokens that hold every word of a caption, for one and for two objects.
WORDS_KEPT = (14, 22)
ZONE_WEIGHT = 3.0
ADAMW_SHARE = 0.5
READING_WEIGHT = 0.03
SAVE_EVERY_S = 240.0
# The autoencoder sees pieces around objects until here, whole images from here on.
CROPS_UNTIL = 0.72
DECODER_NOISE_MAX = 0.25


class Clock:
    """Wall-clock progress of one stage; learning rates follow it so that decay ends with time."""

    def __init__(self, duration_s: float) -> None:
        """Starts the stage now."""
        self.start_s = time.monotonic()
        self.duration_s = duration_s

    def progress(self) -> float:
        """Returns the share of the stage that has passed, 0 to 1."""
        return min(1.0, (time.monotonic() - self.start_s) / self.duration_s)

    def rate(self, *, warm_up: float, floor: float) -> float:
        """Returns the learning rate's factor: linear warm-up, then a cosine down to ``floor``."""
        done = self.progress()
        if done < warm_up:
            return max(0.02, done / warm_up)
        fall = (done - warm_up) / (1 - warm_up)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fall))


class SpareCores:
    """Threads to use, so that training gives way to other work on the machine.

    At low priority two threads that wait for each other run at the speed of the starved one; so
    a core that others use (time that /proc/stat books as not niced) is left to them at once.
    """

    def __init__(self, threads_max: int) -> None:
        """Starts with all threads."""
        self.threads_max = threads_max
        self.looked_s, self.ticks = time.monotonic(), self._ticks()

    @staticmethod
    def _ticks() -> int:
        user, _, system = pathlib.Path("/proc/stat").read_text().split()[1:4]
        return int(user) + int(system)

    def adapt(self) -> None:
        """Looks at the last seconds and sets torch's thread count."""
        now_s = time.monotonic()
        if now_s - self.looked_s < 1.5:
            return
        ticks = self._ticks()
        busy = (ticks - self.ticks) / os.sysconf("SC_CLK_TCK") / (now_s - self.looked_s)
        self.looked_s, self.ticks = now_s, ticks
        threads = max(1, self.threads_max - round(busy + 0.15))
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)


class AverageWeights:
    """Exponential moving average of parameters, warmed up so that early steps are forgotten."""

    def __init__(self, modules: nn.Module, decay: float) -> None:
        """Copies the parameters as they stand."""
        self.decay = decay
        self.steps = 0
        self.live = list(modules.parameters())
        self.shadow = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self) -> None:
        """Takes one step towards the live parameters."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.live], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the average with the live parameters."""
        for average, live in zip(self.shadow, self.live, strict=True):
            kept = live.detach().clone()
            live.copy_(average)
            average.copy_(kept)


# ---------------------------------------------------------------- autoencoder


def build_vae() -> AutoencoderKL:
    """Returns an untrained autoencoder: 64x64x3 to 16x16x8."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 24, 48),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
        sample_size=scenes.IMAGE_PX,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    # Start with little latent noise, or the decoder first learns to ignore the latent.
    with torch.no_grad():
        vae.encoder.conv_out.weight[LATENT_CHANNELS:] *= 0.1
        vae.encoder.conv_out.bias[LATENT_CHANNELS:] = -5.0
    return vae


def sample_images(rng: np.random.Generator, count: int, *, recoloured: float) -> torch.Tensor:
    """Draws training scenes for the autoencoder, mostly of two objects.

    Args:
        rng: Source of randomness.
        count: Number of images, B.
        recoloured: Share whose colours are mixed at random, so that the autoencoder also
            reproduces colours that no scene has.

    Returns:
        ``images_BCHW`` in -1..1.
    """
    ones = count // 4
    codes_BA = np.concatenate(
        [
            scenes.sample_codes(rng, ones, objects=1),
            scenes.sample_codes(rng, count - ones, objects=2),
        ]
    )
    images_BHW3 = scenes.draw(codes_BA, rng).astype(np.float32) / 127.5 - 1
    for i in np.flatnonzero(rng.random(count) < recoloured):
        mix_33 = rng.uniform(-1, 1, size=(3, 3)).astype(np.float32)
        tilt_3 = rng.uniform(-0.3, 0.3, size=3).astype(np.float32)
        ramp_W = np.linspace(-1, 1, scenes.IMAGE_PX, dtype=np.float32)
        images_BHW3[i] = images_BHW3[i] @ mix_33 + ramp_W[None, :, None] * tilt_3
    images_BHW3 = np.clip(images_BHW3, -1, 1)
    return torch.from_numpy(images_BHW3).permute(0, 3, 1, 2)


def sample_crops(rng: np.random.Generator, count: int) -> torch.Tensor:
    """Cuts a 32x32 piece around an object out of each of ``count`` scenes.

    Flat ground teaches the autoencoder nothing; the pieces cost a quarter and show the edges.

    Returns:
        ``crops_BCHW`` in -1..1.
    """
    images_BCHW = sample_images(rng, count, recoloured=0.1)
    is_object_BHW = (images_BCHW - images_BCHW[:, :, :1, :1]).abs().sum(dim=1) > 0.3
    crops = []
    for image_CHW, is_object_HW in zip(images_BCHW, is_object_BHW.numpy(), strict=True):
        points_N2 = np.argwhere(is_object_HW)
        point_2 = points_N2[rng.integers(len(points_N2))] if len(points_N2) else np.array([32, 32])
        y, x = np.clip(point_2 - rng.integers(4, 29, size=2), 0, scenes.IMAGE_PX - 32)
        crops.append(image_CHW[:, y : y + 32, x : x + 32])
    return torch.stack(crops)


def vae_loss(
    vae: AutoencoderKL, images_BCHW: torch.Tensor, *, decoder_only: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the loss of one batch and, for the log, its mean absolute error.

    Trained alone, the decoder sees latents with some noise and learns to draw the clean shape all
    the same: what the transformer leaves in a latent is never quite clean.
    """
    with torch.set_grad_enabled(not decoder_only):
        mean, log_var = vae.encoder(images_BCHW).chunk(2, dim=1)
    if decoder_only:
        spread_B111 = DECODER_NOISE_MAX * torch.rand(len(mean), 1, 1, 1)
        latent = mean + spread_B111 * torch.randn_like(mean)
        kl = torch.zeros(())
    else:
        log_var = log_var.clamp(-14, 6)
        latent = mean + torch.randn_like(mean) * torch.exp(0.5 * log_var)
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean()
    error = vae.decoder(latent) - images_BCHW
    flat = error.abs().mean()
    return flat + 4 * error.square().mean() + 5e-4 * kl, flat.detach()


def train_vae(
    work_dir: pathlib.Path,
    *,
    minutes: float,
    seed: int,
    threads: int,
    peak_lr: float,
    decoder_only: bool,
) -> None:
    """Trains the autoencoder and saves it, with measured scaling and shift, as ``work_dir/vae``.

    If there is one already it is trained further; with ``decoder_only`` what latents mean stays,
    so that a transformer trained on them still fits.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    vae = build_vae()
    if (work_dir / "vae").exists():
        vae = AutoencoderKL.from_pretrained(work_dir / "vae").train()
    vae = vae.to(memory_format=torch.channels_last)
    print("vae parameters", sum(p.numel() for p in vae.parameters()), flush=True)
    trained = vae.decoder if decoder_only else vae
    optimiser = torch.optim.AdamW(trained.parameters(), lr=0, betas=(0.9, 0.99), weight_decay=1e-4)
    average = AverageWeights(trained, 0.995)
    cores = SpareCores(threads)
    clock = Clock(minutes * 60)
    steps = 0
    while clock.progress() < 1:
        cores.adapt()
        for group in optimiser.param_groups:
            group["lr"] = peak_lr * clock.rate(warm_up=0.04, floor=0.01)
        if clock.progress() < CROPS_UNTIL:
            images_BCHW = sample_crops(rng, 32)
        else:
            images_BCHW = sample_images(rng, 8, recoloured=0.1)
        images_BCHW = images_BCHW.to(memory_format=torch.channels_last)
        loss, flat = vae_loss(vae, images_BCHW, decoder_only=decoder_only)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimiser.step()
        average.update()
        steps += 1
        if steps % 50 == 0:
            spent_s = clock.progress() * clock.duration_s
            print(
                f"vae {steps} {spent_s:.0f}s loss {loss.item():.4f} l1 {flat.item():.4f}",
                flush=True,
            )
        if steps % 400 == 0 or clock.progress() >= 1:
            average.swap()
            save_vae(vae, rng, work_dir / "vae", keep_scale=decoder_only)
            average.swap()


@torch.no_grad()
def save_vae(
    vae: AutoencoderKL, rng: np.random.Generator, folder: pathlib.Path, *, keep_scale: bool
) -> None:
    """Measures the latents' mean and spread, writes them into the config and saves."""
    latents = [vae.encode(sample_images(rng, 32, recoloured=0)).latent_dist.mode() for _ in "1234"]
    latent_BCHW = torch.cat(latents)
    shift = float(latent_BCHW.mean())
    scale = 1 / float((latent_BCHW - shift).std())
    if not keep_scale:
        vae.register_to_config(shift_factor=round(shift, 4), scaling_factor=round(scale, 4))
    images_BCHW = sample_images(rng, 32, recoloured=0)
    error = vae(images_BCHW).sample.clamp(-1, 1) - images_BCHW
    channel_std = latent_BCHW.std(dim=(0, 2, 3)).tolist()
    print(
        f"vae saved: rms error {float(error.square().mean().sqrt()):.4f}"
        f" shift {shift:.3f} scale {scale:.3f} channel std {channel_std}",
        flush=True,
    )
    vae.save_pretrained(folder)


# ---------------------------------------------------------------- text encoders and transformer


def build_text_encoder(
    *, width: int, layers: int, activation: str, tokenizer: CLIPTokenizer
) -> CLIPTextModelWithProjection:
    """Returns an untrained causal CLIP text encoder whose projection is as wide as itself."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        max_position_embeddings=vocabulary.TOKENS_MAX,
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = CLIPTextModelWithProjection(config)
    embeddings = encoder.text_model.embeddings
    nn.init.normal_(embeddings.token_embedding.weight, std=0.4)
    nn.init.normal_(embeddings.position_embedding.weight, std=0.2)
    return encoder


def build_transformer() -> SD3Transformer2DModel:
    """Returns an untrained MMDiT: 64 image tokens at 64x64, adaLN and output start at zero."""
    width = HEADS * HEAD_WIDTH
    transformer = SD3Transformer2DModel(
        sample_size=scenes.IMAGE_PX // 4,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=BLOCKS,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        joint_attention_dim=CONTEXT_WIDTH,
        caption_projection_dim=width,
        pooled_projection_dim=sum(TEXT_WIDTHS),
        pos_embed_max_size=POSITIONS_MAX,
    )
    # diffusers would space the 8x8 reference grid by a quarter; whole steps are told apart sooner.
    grid_ND = get_2d_sincos_pos_embed(
        width, POSITIONS_MAX, base_size=POSITIONS_MAX, output_type="pt"
    )
    transformer.pos_embed.pos_embed.copy_(grid_ND[None].float())
    for block in transformer.transformer_blocks:
        for norm in (block.norm1, block.norm1_context):
            nn.init.zeros_(norm.linear.weight)
            nn.init.zeros_(norm.linear.bias)
    for linear in (transformer.norm_out.linear, transformer.proj_out):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    transformer.set_attn_processor(BiasedJointAttention())
    return transformer


class BiasedJointAttention:
    """SD3's joint attention with a bias per context key, so that equal keys can be folded.

    A key that stands for n equal keys gets the bias log(n): its weight in the softmax is then
    exactly the sum of theirs.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attends over image and context tokens; ``attention_mask`` is a bias per key (N,)."""
        batch, image_tokens, _ = hidden_states.shape

        def heads(x_BTC: torch.Tensor) -> torch.Tensor:
            return x_BTC.reshape(*x_BTC.shape[:2], attn.heads, -1).transpose(1, 2)

        context = encoder_hidden_states
        query = torch.cat([heads(attn.to_q(hidden_states)), heads(attn.add_q_proj(context))], 2)
        key = torch.cat([heads(attn.to_k(hidden_states)), heads(attn.add_k_proj(context))], 2)
        value = torch.cat([heads(attn.to_v(hidden_states)), heads(attn.add_v_proj(context))], 2)
        bias = attention_mask[None, None, None].expand(batch, 1, query.shape[2], -1)
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        out_BTC = out.transpose(1, 2).flatten(2)
        image, context = out_BTC[:, :image_tokens], out_BTC[:, image_tokens:]
        if not attn.context_pre_only:
            context = attn.to_add_out(context)
        return attn.to_out[0](image), context


class SceneReader(nn.Module):
    """Reads the scene back from the text encoders' outputs; trains them, ships with nothing.

    Real SD3 starts from text encoders that know language. These learn what belongs to which place
    from being asked what is at each of the five positions: once by attention over the context,
    once linearly from the pooled vector, so that both carry the scene.
    """

    def __init__(self) -> None:
        """Builds the two readers."""
        super().__init__()
        width = sum(TEXT_WIDTHS)
        self.answers = (len(scenes.COLOURS) + 1, len(scenes.SHAPES) + 1, len(scenes.SIZES) + 1)
        places = len(scenes.POSITIONS)
        self.queries_PC = nn.Parameter(torch.randn(places + 1, width))
        self.key_value = nn.Linear(width, 2 * width)
        self.answer = nn.Linear(width, sum(self.answers))
        self.pooled_answer = nn.Linear(width, (places + 1) * sum(self.answers))

    def loss(
        self, context_BTC: torch.Tensor, pooled_BP: torch.Tensor, codes_BA: scenes.Codes
    ) -> torch.Tensor:
        """Returns the cross-entropy of both readings against the scenes."""
        width = self.queries_PC.shape[1]
        key_BTC, value_BTC = self.key_value(context_BTC[:, :-1, :width]).chunk(2, dim=-1)
        queries_BPC = self.queries_PC.expand(len(codes_BA), -1, -1)
        read_BPC = functional.scaled_dot_product_attention(queries_BPC, key_BTC, value_BTC)
        targets_BP3 = torch.from_numpy(places_of(codes_BA))
        total = torch.zeros(())
        for logits_BPA in (
            self.answer(read_BPC),
            self.pooled_answer(pooled_BP).reshape(*targets_BP3.shape[:2], -1),
        ):
            for i, logits in enumerate(logits_BPA.split(self.answers, dim=-1)):
                total = total + functional.cross_entropy(
                    logits.flatten(0, 1), targets_BP3[..., i].flatten()
                )
        return total


def places_of(codes_BA: scenes.Codes) -> npt.NDArray[np.int64]:
    """Returns ``targets_BP3``: colour, shape and size at each position, then of the background.

    The last answer of each kind is "none".
    """
    places = len(scenes.POSITIONS)
    targets_BP3 = np.empty((len(codes_BA), places + 1, 3), dtype=np.int64)
    targets_BP3[:] = len(scenes.COLOURS), len(scenes.SHAPES), len(scenes.SIZES)
    targets_BP3[:, places, 0] = codes_BA[:, 1]
    for i in range(2):
        rows = np.flatnonzero(codes_BA[:, 0] > i)
        size, colour, shape, position = codes_BA[rows, 2 + 4 * i : 6 + 4 * i].T
        targets_BP3[rows, position] = np.stack([colour, shape, size], axis=-1)
    return targets_BP3


class TinySd3(nn.Module):
    """Text encoders, tokenizers and transformer as they are trained together."""

    def __init__(self) -> None:
        """Builds everything untrained."""
        super().__init__()
        words = scenes.scene_words()
        self.tokenizers = [
            vocabulary.build_tokenizer(words, pad_token=pad) for pad in (vocabulary.EOS, "!")
        ]
        self.encoders = [
            build_text_encoder(width=width, layers=layers, activation=act, tokenizer=tokenizer)
            for width, layers, act, tokenizer in zip(
                TEXT_WIDTHS, TEXT_LAYERS, ("quick_gelu", "gelu"), self.tokenizers, strict=True
            )
        ]
        self.text_encoder, self.text_encoder_2 = self.encoders
        self.transformer = build_transformer()
        self.reader = SceneReader()

    def text_layout(
        self, rng: np.random.Generator, *, kept: int, with_zeros: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Lays out a shortened context in place of 77 tokens and 256 zero rows.

        The first ``kept`` tokens hold every word. What follows is padding and differs by position
        only, and from position ``TIED_POSITION`` on not even by that; two random positions stand
        for all of it, each counted half as often as there are such tokens. With ``kept`` 77
        nothing is shortened.

        Args:
            rng: Chooses the positions.
            kept: Tokens kept whole, K.
            with_zeros: Whether the 256 zero rows follow (mode sd3) or not (mode paper).

        Returns:
            ``positions_T``; ``causal_bias_TT`` for the encoders; ``key_bias_N`` for image and
            context keys, N = 64 + T + 1, whose last is the zero row.
        """
        left = vocabulary.TOKENS_MAX - kept
        chosen = sorted(rng.choice(left, size=2, replace=False).tolist()) if left else []
        positions_T = torch.tensor([*range(kept), *(kept + place for place in chosen)])
        length = len(positions_T)
        causal_bias_TT = torch.full((length, length), -1e4).triu(1)
        for i in range(kept, length):
            stands_for = int(positions_T[i]) - kept + 1
            causal_bias_TT[i, kept : i + 1] = math.log(stands_for / (i - kept + 1))
        key_bias_N = torch.zeros(IMAGE_TOKENS + length + 1)
        if left:
            key_bias_N[IMAGE_TOKENS + kept : -1] = math.log(left / 2)
        key_bias_N[-1] = math.log(ZERO_ROWS) if with_zeros else -1e4
        return positions_T, causal_bias_TT, key_bias_N

    def encode(
        self, captions: list[str], positions_T: torch.Tensor, causal_bias_TT: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns ``context_BTC``, one zero row last, and ``pooled_BP``."""
        contexts, pools = [], []
        for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
            ids = tokenizer(captions, truncation=True, max_length=vocabulary.TOKENS_MAX).input_ids
            ids_BT = torch.full((len(ids), len(positions_T)), tokenizer.pad_token_id)
            for row, tokens in zip(ids_BT, ids, strict=True):
                row[: len(tokens)] = torch.tensor(tokens)
            embeddings = encoder.text_model.embeddings
            tied_T = positions_T.clamp(max=TIED_POSITION)
            x_BTC = embeddings.token_embedding(ids_BT) + embeddings.position_embedding(tied_T)
            layers = encoder.text_model.encoder.layers
            for layer in layers[:-1]:
                x_BTC = layer(x_BTC, attention_mask=causal_bias_TT[None, None])
            contexts.append(x_BTC)
            x_BTC = layers[-1](x_BTC, attention_mask=causal_bias_TT[None, None])
            ends_B = (ids_BT == tokenizer.eos_token_id).int().argmax(dim=1)
            pooled_BC = x_BTC[torch.arange(len(ids)), ends_B]
            pools.append(encoder.text_projection(encoder.text_model.final_layer_norm(pooled_BC)))
        context_BTC = torch.cat(contexts, dim=-1)
        context_BTC = functional.pad(context_BTC, (0, CONTEXT_WIDTH - context_BTC.shape[-1], 0, 1))
        return context_BTC, torch.cat(pools, dim=-1)

    @torch.no_grad()
    def tie_positions(self) -> None:
        """Writes the shared position embedding into every row that shares it."""
        for encoder in self.encoders:
            weight = encoder.text_model.embeddings.position_embedding.weight
            weight[TIED_POSITION:] = weight[TIED_POSITION].clone()


class Muon:
    """Momentum orthogonalised by Newton-Schulz, for the hidden matrices (Jordan et al., 2024).

    Matrices of one shape are stepped as one batch. Each update has the root mean square
    ``0.2 * lr``, as in Liu et al. (arXiv 2502.16982).
    """

    def __init__(self, matrices: list[nn.Parameter], *, weight_decay: float) -> None:
        """Groups the matrices by shape."""
        self.weight_decay = weight_decay
        self.groups: dict[torch.Size, list[nn.Parameter]] = {}
        for matrix in matrices:
            self.groups.setdefault(matrix.shape, []).append(matrix)
        self.momentum = {
            shape: torch.zeros(len(group), *shape) for shape, group in self.groups.items()
        }

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Steps every matrix along its orthogonalised Nesterov momentum."""
        for shape, group in self.groups.items():
            gradient_GMN = torch.stack([p.grad for p in group if p.grad is not None])
            momentum_GMN = self.momentum[shape]
            momentum_GMN.lerp_(gradient_GMN, 0.05)
            x_GMN = gradient_GMN.lerp_(momentum_GMN, 0.95)
            tall = shape[0] > shape[1]
            x_GMN = x_GMN.mT if tall else x_GMN
            x_GMN = x_GMN / (x_GMN.norm(dim=(1, 2), keepdim=True) + 1e-7)
            for _ in range(5):
                square_GMM = x_GMN @ x_GMN.mT
                poly_GMM = torch.baddbmm(
                    square_GMM, square_GMM, square_GMM, beta=-4.7750, alpha=2.0315
                )
                x_GMN = torch.baddbmm(x_GMN, poly_GMM, x_GMN, beta=3.4445)
            x_GMN = x_GMN.mT if tall else x_GMN
            scale = -lr * 0.2 * math.sqrt(max(shape))
            for matrix, x_MN in zip(group, x_GMN, strict=True):
                matrix.mul_(1 - lr * self.weight_decay).add_(x_MN, alpha=scale)


class LatentPool:
    """Encoded training scenes, drawn once, used a few times and then replaced by fresh ones."""

    def __init__(
        self, vae: AutoencoderKL, rng: np.random.Generator, *, size: int, objects: int
    ) -> None:
        """Fills the pool."""
        self.vae, self.rng, self.objects = vae, rng, objects
        side = scenes.IMAGE_PX // 4
        self.codes_PA = np.empty((size, scenes.CODE_COLUMNS), dtype=np.int64)
        self.latents_PCHW = torch.empty(size, LATENT_CHANNELS, side, side)
        self.next = 0
        for _ in range(0, size, 50):
            self.refresh(50)

    @torch.no_grad()
    def refresh(self, count: int) -> None:
        """Replaces the oldest ``count`` scenes; the pool's size is a multiple of it."""
        codes_BA = scenes.sample_codes(self.rng, count, objects=self.objects)
        images_BHW3 = torch.from_numpy(scenes.draw(codes_BA, self.rng))
        images_BCHW = images_BHW3.permute(0, 3, 1, 2).float() / 127.5 - 1
        latents_BCHW = self.vae.encode(images_BCHW).latent_dist.mode()
        config = self.vae.config
        rows = (np.arange(count) + self.next) % len(self.codes_PA)
        self.codes_PA[rows] = codes_BA
        self.latents_PCHW[rows] = (latents_BCHW - config.shift_factor) * config.scaling_factor
        self.next = int(rows[-1] + 1) % len(self.codes_PA)

    def sample(self, count: int) -> tuple[scenes.Codes, torch.Tensor]:
        """Returns ``codes_BA`` and ``latents_BCHW`` of scenes chosen at random."""
        rows = self.rng.integers(len(self.codes_PA), size=count)
        return self.codes_PA[rows], self.latents_PCHW[rows]


def object_zones() -> torch.Tensor:
    """Returns ``zones_PHW``: per position the 24x24 pixels around its centre, on the latent grid.

    The zone follows from the caption alone, so that weighting the loss by it biases nothing.
    """
    cell_px = torch.arange(scenes.IMAGE_PX // 4) * 4 + 2
    zones = []
    for x_px, y_px in scenes.CENTRE_XY_PX:
        near_x, near_y = (cell_px - x_px).abs() <= 12, (cell_px - y_px).abs() <= 12
        zones.append((near_y[:, None] & near_x[None, :]).float())
    return torch.stack(zones)


def loss_weights(
    codes_BA: scenes.Codes, dropped_B: npt.NDArray[np.bool_], zones_PHW: torch.Tensor
) -> torch.Tensor:
    """Returns ``weights_B1HW`` of mean one: more where the caption says an object is."""
    zone_BHW = zones_PHW[codes_BA[:, 5]].clone()
    if codes_BA[0, 0] == 2:
        zone_BHW = torch.maximum(zone_BHW, zones_PHW[codes_BA[:, 9]])
    zone_BHW[torch.from_numpy(dropped_B)] = 0
    weights_BHW = 1 + ZONE_WEIGHT * zone_BHW
    return (weights_BHW / weights_BHW.mean(dim=(1, 2), keepdim=True))[:, None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a batch is put together.

    Attributes:
        batch: Scenes per step.
        one_object: Share of batches with one object only.
        dropout: Share of captions replaced by the empty prompt.
        omit: Chance of each attribute to go unsaid.
        paper: Share of batches without the 256 zero rows.
        whole: Share of batches with all 77 tokens.
        whole_at_end: From this progress on every batch has all 77 tokens.
        guided_weight: Weight of the guided error. Above 0, half the batch is the empty prompt on
            the same noisy latents as the other half.
        average_decay: Decay of the weights' average.
    """

    batch: int = 48
    one_object: float = 0.3
    dropout: float = 0.1
    omit: float = 0.03
    paper: float = 0.18
    whole: float = 0.05
    whole_at_end: float = 0.9
    guided_weight: float = 0.0
    average_decay: float = 0.9985


def batch_loss(
    model: TinySd3,
    pools: tuple[LatentPool, LatentPool],
    zones_PHW: torch.Tensor,
    rng: np.random.Generator,
    recipe: Recipe,
    progress: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws one batch; returns its weighted velocity error (rectified flow) and reading loss."""
    objects = 1 if rng.random() < recipe.one_object else 2
    paired = recipe.guided_weight > 0
    count = recipe.batch // 2 if paired else recipe.batch
    codes_BA, clean_BCHW = pools[objects - 1].sample(count)
    dropped_B = rng.random(count) < recipe.dropout
    # The sampler's sigmas: evenly spaced times, shifted. One time per equal share of the range.
    time_B = (torch.arange(count) + torch.rand(count)) / count
    sigma_B111 = (SHIFT * time_B / (1 + (SHIFT - 1) * time_B))[:, None, None, None]
    noise_BCHW = torch.randn_like(clean_BCHW)
    if paired:
        codes_BA, dropped_B = np.tile(codes_BA, (2, 1)), np.arange(2 * count) >= count
        clean_BCHW, noise_BCHW, sigma_B111 = (
            torch.cat([x, x]) for x in (clean_BCHW, noise_BCHW, sigma_B111)
        )
    captions = [
        "" if gone else scenes.caption(scenes.scene_of(code_A), rng, omit_probability=recipe.omit)
        for code_A, gone in zip(codes_BA, dropped_B, strict=True)
    ]
    whole = progress >= recipe.whole_at_end or rng.random() < recipe.whole
    positions_T, causal_bias_TT, key_bias_N = model.text_layout(
        rng,
        kept=vocabulary.TOKENS_MAX if whole else WORDS_KEPT[objects - 1],
        with_zeros=rng.random() >= recipe.paper,
    )
    context_BTC, pooled_BP = model.encode(captions, positions_T, causal_bias_TT)
    velocity_BCHW = model.transformer(
        hidden_states=torch.lerp(clean_BCHW, noise_BCHW, sigma_B111),
        encoder_hidden_states=context_BTC,
        pooled_projections=pooled_BP,
        timestep=sigma_B111.flatten() * 1000,
        joint_attention_kwargs={"attention_mask": key_bias_N},
        return_dict=False,
    )[0]
    error_BCHW = velocity_BCHW - (noise_BCHW - clean_BCHW)
    weights_B1HW = loss_weights(codes_BA, dropped_B, zones_PHW)
    loss = torch.mean(error_BCHW.square() * weights_B1HW)
    if paired:
        guided = guided_error(error_BCHW, sigma_B111[:count], weights_B1HW[:count])
        loss = loss + recipe.guided_weight * guided
    said = np.flatnonzero(~dropped_B)
    reading = model.reader.loss(context_BTC[said], pooled_BP[said], codes_BA[said])
    return loss, reading


def guided_error(
    error_BCHW: torch.Tensor, sigma_B111: torch.Tensor, weights_B1HW: torch.Tensor
) -> torch.Tensor:
    """Returns the mean squared error of what the sampler uses: empty + 5 (prompt - empty).

    Guidance multiplies the difference of the two predictions. Where the noise still hides the
    scene it must differ; where the scene shows through, what differs is error, and five times of it
    bends every edge. So only times below sigma 0.8 count, fully below 0.6.

    Args:
        error_BCHW: Velocity errors, first of the prompts, then of the empty prompt.
        sigma_B111: Sigma of each pair.
        weights_B1HW: Weight of each place.
    """
    prompt_BCHW, empty_BCHW = error_BCHW.chunk(2)
    guided_BCHW = empty_BCHW + GUIDANCE_SCALE * (prompt_BCHW - empty_BCHW)
    shown_B111 = ((0.8 - sigma_B111) / 0.2).clamp(0, 1)
    return torch.mean(guided_BCHW.square() * weights_B1HW * shown_B111)


def split_parameters(model: TinySd3) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Returns the hidden matrices, for Muon, and all other parameters, for AdamW."""
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        in_layer = ".attn." in name or ".ff" in name or ".layers." in name
        (hidden if in_layer and parameter.ndim == 2 else rest).append(parameter)
    return hidden, rest


def train_text(
    work_dir: pathlib.Path,
    *,
    minutes: float,
    seed: int,
    threads: int,
    init_from: pathlib.Path | None,
) -> None:
    """Trains the text encoders alone to say what is where; writes ``work_dir/text.pt``."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model = TinySd3()
    if init_from is not None:
        model.load_state_dict(torch.load(init_from, weights_only=True), strict=False)
    hidden, rest = split_parameters(model)
    in_text = {id(p) for encoder in model.encoders for p in encoder.parameters()}
    muon = Muon([p for p in hidden if id(p) in in_text], weight_decay=0.0)
    adamw = torch.optim.AdamW(rest, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    cores, clock, steps = SpareCores(threads), Clock(minutes * 60), 0
    recipe = Recipe()
    while clock.progress() < 1:
        cores.adapt()
        codes_BA = np.concatenate(
            [scenes.sample_codes(rng, n, objects=k) for k, n in ((1, 32), (2, 96))]
        )
        captions = [
            scenes.caption(scenes.scene_of(code_A), rng, omit_probability=recipe.omit)
            for code_A in codes_BA
        ]
        positions_T, bias_TT, _ = model.text_layout(rng, kept=WORDS_KEPT[1], with_zeros=True)
        loss = model.reader.loss(*model.encode(captions, positions_T, bias_TT), codes_BA)
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        rate = clock.rate(warm_up=0.05, floor=0.05)
        for group in adamw.param_groups:
            group["lr"] = 2e-3 * rate
        adamw.step()
        muon.step(3e-3 * rate)
        steps += 1
        if steps % 50 == 0:
            spent_s = clock.progress() * clock.duration_s
            print(f"text {steps} {spent_s:.0f}s loss {loss.item():.4f}", flush=True)
    torch.save(model.state_dict(), work_dir / "text.pt")


def train_denoiser(
    work_dir: pathlib.Path,
    *,
    minutes: float,
    seed: int,
    threads: int,
    recipe: Recipe,
    peak_lr: float,
    init_from: pathlib.Path | None,
) -> None:
    """Trains text encoders and transformer against the frozen autoencoder of ``work_dir/vae``.

    Every few minutes the averaged weights go to ``work_dir/export`` and everything needed to go
    on from there to ``work_dir/denoiser.pt``.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(work_dir / "vae").eval().requires_grad_(False)
    model = TinySd3()
    if init_from is not None:
        model.load_state_dict(torch.load(init_from, weights_only=True), strict=False)
    for part in (model.transformer, *model.encoders):
        print(type(part).__name__, sum(p.numel() for p in part.parameters()), flush=True)
    hidden, rest = split_parameters(model)
    muon = Muon(hidden, weight_decay=0.03)
    adamw = torch.optim.AdamW(rest, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    average = AverageWeights(model, recipe.average_decay)
    pools = (
        LatentPool(vae, rng, size=1600, objects=1),
        LatentPool(vae, rng, size=4000, objects=2),
    )
    zones_PHW = object_zones()
    cores = SpareCores(threads)
    clock = Clock(minutes * 60)
    steps, recent, saved_s = 0, [], 0.0
    while clock.progress() < 1:
        cores.adapt()
        loss, reading = batch_loss(model, pools, zones_PHW, rng, recipe, clock.progress())
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss + READING_WEIGHT * reading)
        nn.utils.clip_grad_norm_(rest, 1.0)
        rate = peak_lr * clock.rate(warm_up=0.02, floor=0.01)
        for group in adamw.param_groups:
            group["lr"] = rate * ADAMW_SHARE
        adamw.step()
        muon.step(rate)
        average.update()
        steps += 1
        recent.append(loss.item())
        if steps % 2 == 0:
            pools[0].refresh(4)
            pools[1].refresh(16)
        spent_s = clock.progress() * clock.duration_s
        if steps % 50 == 0:
            print(f"step {steps} {spent_s:.0f}s loss {np.mean(recent[-200:]):.4f}", flush=True)
        if spent_s - saved_s > SAVE_EVERY_S or clock.progress() >= 1:
            saved_s = spent_s
            average.swap()
            torch.save(model.state_dict(), work_dir / "denoiser.pt")
            export(model, vae, work_dir / "export")
            average.swap()


# ---------------------------------------------------------------- export


def export(model: TinySd3, vae: AutoencoderKL, folder: pathlib.Path) -> None:
    """Writes the diffusers folder in fp16, beside the old one first, then in its place."""
    model = copy.deepcopy(model)
    model.tie_positions()
    model.transformer.set_attn_processor(JointAttnProcessor2_0())
    pipeline = StableDiffusion3Pipeline(
        transformer=model.transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=SHIFT),
        vae=copy.deepcopy(vae),
        text_encoder=model.encoders[0],
        tokenizer=model.tokenizers[0],
        text_encoder_2=model.encoders[1],
        tokenizer_2=model.tokenizers[1],
        text_encoder_3=None,
        tokenizer_3=None,
    )
    fresh = folder.with_name(folder.name + ".fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(fresh)
    for path in fresh.glob("*/config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        if "dtype" in config:
            # The files are fp16; loaded without a dtype, every part shall be fp32 alike.
            config["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2) + "\n")
    stale = folder.with_name(folder.name + ".stale")
    shutil.rmtree(stale, ignore_errors=True)
    if folder.exists():
        folder.rename(stale)
    fresh.rename(folder)
    shutil.rmtree(stale, ignore_errors=True)


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, help="where the model folder goes at the end")
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all")
    parser.add_argument("--vae-minutes", type=float, default=16)
    parser.add_argument("--text-minutes", type=float, default=3)
    parser.add_argument("--minutes", type=float, default=60, help="text encoders and transformer")
    parser.add_argument("--guided-minutes", type=float, default=15)
    parser.add_argument("--decoder-minutes", type=float, default=6)
    parser.add_argument("--vae-lr", type=float, default=2e-3)
    parser.add_argument("--lr", type=float, default=3e-3, help="of text encoders and transformer")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument(
        "--init-from", type=pathlib.Path, help="weights that this stage starts from"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.out is None and arguments.stage in ("export", "all"):
        parser.error("--out is missing")
    if arguments.init_from is not None and arguments.stage not in ("text", "denoiser", "guided"):
        parser.error("--init-from goes with --stage text, denoiser or guided")
    return arguments


def run_stage(stage: str, arguments: argparse.Namespace) -> None:
    """Runs one stage; each leaves its result in the work folder, where the next finds it."""
    work_dir, seed, threads = arguments.work_dir, arguments.seed, arguments.threads
    if stage in ("vae", "decoder"):
        alone = stage == "decoder"
        train_vae(
            work_dir,
            minutes=arguments.decoder_minutes if alone else arguments.vae_minutes,
            seed=seed,
            threads=threads,
            peak_lr=arguments.vae_lr / 2 if alone else arguments.vae_lr,
            decoder_only=alone,
        )
    elif stage == "text":
        train_text(
            work_dir,
            minutes=arguments.text_minutes,
            seed=seed,
            threads=threads,
            init_from=arguments.init_from,
        )
    elif stage == "denoiser":
        train_denoiser(
            work_dir,
            minutes=arguments.minutes,
            seed=seed,
            threads=threads,
            recipe=Recipe(batch=arguments.batch),
            peak_lr=arguments.lr,
            init_from=arguments.init_from or work_dir / "text.pt",
        )
    elif stage == "guided":
        train_denoiser(
            work_dir,
            minutes=arguments.guided_minutes,
            seed=seed + 1,
            threads=threads,
            recipe=Recipe(batch=arguments.batch, guided_weight=0.1, whole=0.15, average_decay=0.99),
            peak_lr=arguments.lr / 3,
            init_from=arguments.init_from or work_dir / "denoiser.pt",
        )
    else:
        model = TinySd3()
        model.load_state_dict(torch.load(work_dir / "denoiser.pt", weights_only=True))
        export(model, AutoencoderKL.from_pretrained(work_dir / "vae"), arguments.out)


def main() -> None:
    """Runs the stage that the command line names, or all of them in order."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    for stage in STAGES if arguments.stage == "all" else (arguments.stage,):
        run_stage(stage, arguments)


if __name__ == "__main__":
    main()
