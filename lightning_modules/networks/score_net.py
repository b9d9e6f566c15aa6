"""The denoising network of Variational Diffusion Models, as UQDM uses it: eps_hat and, optionally, a scale per sample.

Residual blocks with skip connections at full resolution and one self-attention block in the middle.  Parameter names
and shapes equal those of the published UQDM checkpoints, so that they load key by key.  Options that those networks do
not have make it affordable without a GPU: `patch_size` moves all convolutions to a coarser grid (space-to-depth),
`mid_attention=False` drops the attention, whose cost is quadratic in the number of pixels, and `use_detail_features`
with `preconditioned` make it learn in hundreds of steps what takes the original tens of thousands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..diffusion.gaussian import alpha_sigma

DATA_STD = 0.5  # of natural images in [-1, 1]


@dataclass
class ScoreNetConfig:
    """Everything that shapes the network.

    n_channels            image channels
    embedding_dim         width of every hidden layer; even, a multiple of norm_groups and n_attention_heads
    n_blocks              residual blocks on the way down; one more on the way up
    norm_groups           groups of every group normalisation
    n_attention_heads     heads of every attention block
    attention_everywhere  attention after every residual block, not only in the middle
    mid_attention         attention in the middle; False makes the network fully convolutional
    use_fourier_features  append sin and cos of 2 pi 2^n z, n = 5, 6, to the input (VDM, appendix C)
    use_detail_features   append asinh of (z - local mean of z) / sigma to the input: where the noise is far below the
                          image's contrast it reaches the network at unit scale and need not be amplified by learning
    preconditioned        predict what is missing from the best linear estimate of x (Karras et al. 2022, eq. 7) instead
                          of eps - z: the untrained network then denoises linearly, whatever the noise level
    dropout_prob          dropout inside residual blocks, during training
    patch_size            1: full resolution; p: the network works on p x p space-to-depth patches
    gamma_min, gamma_max  -log_snr that conditioning maps to 0 and 1
    """

    n_channels: int = 3
    embedding_dim: int = 32
    n_blocks: int = 1
    norm_groups: int = 8
    n_attention_heads: int = 1
    attention_everywhere: bool = False
    mid_attention: bool = True
    use_fourier_features: bool = True
    use_detail_features: bool = False
    preconditioned: bool = False
    dropout_prob: float = 0.0
    patch_size: int = 1
    gamma_min: float = -12.3
    gamma_max: float = 6.0


def _zero(layer: nn.Module) -> nn.Module:
    """`layer` with all parameters zero, so that the residual branch it ends starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def noise_level_embedding(t: Tensor, dim: int) -> Tensor:
    """[B, dim] sines and cosines of 1000 t at dim / 2 wavelengths in geometric progression; t [B], about 0..1."""
    frequencies = torch.logspace(0.0, -4.0, dim // 2, dtype=torch.float64).to(t)
    phase = 1000.0 * t[:, None] * frequencies
    return torch.cat([phase.sin(), phase.cos()], dim=1)


def fourier_features(z: Tensor) -> Tensor:
    """[B, 4 C, H, W]: sin (then cos) of 2 pi 2^n z for n = 5, 6; they resolve single grey levels (VDM, appendix C)."""
    phase = torch.cat([(2.0 * math.pi * 2**n) * z for n in (5, 6)], dim=1)
    return torch.cat([phase.sin(), phase.cos()], dim=1)


def detail_features(z: Tensor, log_snr: Tensor) -> Tensor:
    """[B, C, H, W]: z minus its 3 x 3 mean in units of the noise, compressed so that edges do not dominate."""
    sigma = torch.sigmoid(-log_snr).sqrt()[:, None, None, None]
    mean = F.avg_pool2d(z, 3, stride=1, padding=1, count_include_pad=False)
    return torch.asinh((z - mean) / sigma)


def karras_eps(z: Tensor, h: Tensor, log_snr: Tensor) -> Tensor:
    """eps_hat where the network's output h is the missing part of the best linear estimate of x.

    x_hat = c_skip z / alpha + c_out h with the coefficients of Karras et al. 2022 (eq. 7), solved for eps_hat.
    """
    alpha, sigma = alpha_sigma(log_snr[:, None, None, None])
    total = sigma**2 + (alpha * DATA_STD) ** 2
    return sigma / total * z - alpha * DATA_STD / total.sqrt() * h


def positive_scale(h: Tensor) -> Tensor:
    """The scale factor of the coding prior from the network's output; 1 where that is zero."""
    return F.softplus(h + math.log(math.expm1(1.0)))


class ResnetBlock(nn.Module):
    """x + net2(net1(x) + projected noise level); a 1 x 1 convolution adapts x where the widths differ."""

    def __init__(self, ch_in: int, ch_out: int, condition_dim: int, dropout_prob: float, norm_groups: int) -> None:
        super().__init__()
        self.net1 = nn.Sequential(nn.GroupNorm(norm_groups, ch_in), nn.SiLU(), nn.Conv2d(ch_in, ch_out, 3, padding=1))
        self.cond_proj = _zero(nn.Linear(condition_dim, ch_out, bias=False))
        last = _zero(nn.Conv2d(ch_out, ch_out, 3, padding=1))
        dropout = [nn.Dropout(dropout_prob)] if dropout_prob > 0 else []
        self.net2 = nn.Sequential(nn.GroupNorm(norm_groups, ch_out), nn.SiLU(), *dropout, last)
        self.skip_conv = nn.Conv2d(ch_in, ch_out, 1) if ch_in != ch_out else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """[B, ch_out, H, W] from x [B, ch_in, H, W] and condition [B, condition_dim]."""
        h = self.net1(x) + self.cond_proj(condition)[:, :, None, None]
        return self.skip_conv(x) + self.net2(h)


class Attention(nn.Module):
    """Multi-head self-attention over all pixels of qkv [B, 3 C, H, W] -> [B, C, H, W]; no parameters."""

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads

    def forward(self, qkv: Tensor) -> Tensor:
        """[B, C, H, W] from queries, keys and values, qkv [B, 3 C, H, W]."""
        batch, channels, height, width = qkv.shape
        split = qkv.reshape(batch, 3, self.n_heads, channels // (3 * self.n_heads), height * width)
        q, k, v = split.transpose(-1, -2).unbind(1)
        out = F.scaled_dot_product_attention(q, k, v)
        return out.transpose(-1, -2).reshape(batch, channels // 3, height, width)


class AttentionBlock(nn.Module):
    """Residual self-attention block."""

    def __init__(self, n_channels: int, n_heads: int, norm_groups: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(norm_groups, n_channels),
            nn.Conv2d(n_channels, 3 * n_channels, 1),
            Attention(n_heads),
            _zero(nn.Conv2d(n_channels, n_channels, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, n_channels, H, W], as x."""
        return x + self.layers(x)


class UpDownBlock(nn.Module):
    """A residual block and, if asked for, attention after it."""

    def __init__(self, resnet_block: ResnetBlock, attention_block: AttentionBlock | None) -> None:
        super().__init__()
        self.resnet_block = resnet_block
        self.attention_block = attention_block

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """[B, ch_out, H, W] from x [B, ch_in, H, W] and condition [B, condition_dim]."""
        x = self.resnet_block(x, condition)
        return x if self.attention_block is None else self.attention_block(x)


class ScoreNet(nn.Module):
    """eps_hat(z, log_snr), with a positive scale factor per sample if `predict_scale`.

    The last layer starts at zero: an untrained network returns eps_hat = z (the best linear estimate, if
    preconditioned) and scale = 1.
    """

    def __init__(self, config: ScoreNetConfig, predict_scale: bool) -> None:
        super().__init__()
        c = self.config = config
        self.predict_scale = predict_scale
        width, area = c.embedding_dim, c.patch_size**2

        def resnet(ch_in: int) -> ResnetBlock:
            return ResnetBlock(ch_in, width, 4 * width, c.dropout_prob, c.norm_groups)

        def attention(wanted: bool) -> AttentionBlock | None:
            return AttentionBlock(width, c.n_attention_heads, c.norm_groups) if wanted else None

        self.embed_conditioning = nn.Sequential(
            nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width), nn.SiLU()
        )
        inputs = c.n_channels * (1 + 4 * c.use_fourier_features + c.use_detail_features)
        self.conv_in = nn.Conv2d(inputs * area, width, 3, padding=1)
        everywhere = c.attention_everywhere
        self.down_blocks = nn.ModuleList(UpDownBlock(resnet(width), attention(everywhere)) for _ in range(c.n_blocks))
        self.mid_resnet_block_1 = resnet(width)
        self.mid_attn_block = attention(c.mid_attention) or nn.Identity()
        self.mid_resnet_block_2 = resnet(width)
        ups = range(c.n_blocks + 1)
        self.up_blocks = nn.ModuleList(UpDownBlock(resnet(2 * width), attention(everywhere)) for _ in ups)
        outputs = c.n_channels * (2 if predict_scale else 1)
        last = _zero(nn.Conv2d(width, outputs * area, 3, padding=1))
        self.conv_out = nn.Sequential(nn.GroupNorm(c.norm_groups, width), nn.SiLU(), last)

    @property
    def multiple(self) -> int:
        """Height and width that forward accepts are multiples of this."""
        return self.config.patch_size

    def first_and_last_layers(self) -> list[nn.Module]:
        """The layers that touch pixels, which Muon must not train."""
        return [self.conv_in, self.conv_out]

    def forward(self, z: Tensor, log_snr: Tensor) -> tuple[Tensor, Tensor | None]:
        """(eps_hat, scale) of variance-preserving z [B, C, H, W] at log_snr [B]; H, W multiples of `multiple`.

        Both have the shape of z; scale > 0, or None for a network that does not predict it.
        """
        c = self.config
        t = (-log_snr - c.gamma_min) / (c.gamma_max - c.gamma_min)
        condition = self.embed_conditioning(noise_level_embedding(t, c.embedding_dim))
        features = [z]
        if c.use_fourier_features:
            features.append(fourier_features(z))
        if c.use_detail_features:
            features.append(detail_features(z, log_snr))
        h = torch.cat(features, dim=1)
        if c.patch_size > 1:
            h = F.pixel_unshuffle(h, c.patch_size)
        h = self.conv_in(h)
        skips = []
        for block in self.down_blocks:
            skips.append(h)
            h = block(h, condition)
        skips.append(h)
        h = self.mid_resnet_block_1(h, condition)
        h = self.mid_attn_block(h)
        h = self.mid_resnet_block_2(h, condition)
        for block in self.up_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), condition)
        h = self.conv_out(h)
        if c.patch_size > 1:
            h = F.pixel_shuffle(h, c.patch_size)
        h, raw_scale = h.chunk(2, dim=1) if self.predict_scale else (h, None)
        eps = karras_eps(z, h, log_snr) if c.preconditioned else z + h
        return eps, None if raw_scale is None else positive_scale(raw_scale)
