"""Configuration of the autoencoder with a codebook: its layout, and how it is trained."""

import math
from dataclasses import dataclass
from typing import Literal

from common.settings import check_least

Norm = Literal["rmsnorm", "groupnorm"]
Resampling = Literal["fold", "conv", "pool"]
Middle = Literal["none", "attention"]
Lookup = Literal["nearest", "classifier", "fsq"]
SIZES = (
    *("image_size", "patch_size", "edge_kernel", "stem_channels"),
    *("latent_channels", "code_dim", "codebook_size", "tried_codes"),
)

LARGEST = {"codebook_size": 1 << 22, "edge_kernel": 31, "patch_size": 256}
"""Largest sizes by field; 2^14 for the others. No published model comes near them: a larger number
is a mistake, and a message is better than an allocation."""


@dataclass(frozen=True)
class VQGANConfig:
    """A convolutional autoencoder with a codebook in the middle (VQGAN; Esser et al. 2020,
    arXiv:2012.09841). The defaults are a layout that is fast on a CPU."""

    image_size: int = 64
    """Side of a picture in pixels."""
    patch_size: int = 4
    """Pixels folded into channels by the stem, so that nothing runs at full resolution, where
    narrow convolutions waste a CPU; 1 = none."""
    edge_kernel: int = 1
    """Side of the stem's and the head's convolutions, in places of the folded picture; 3 where
    patch_size is 1."""
    stem_channels: int = 64
    """Channels of the encoder's first layer."""
    channels: tuple[int, ...] = (64, 128)
    """Channels of each level; every level after the first has half the resolution."""
    encoder_blocks: tuple[int, ...] = (1, 1)
    """Residual blocks of the encoder in each level: fewer than the decoder's, which must add the
    details that the codes lack."""
    decoder_blocks: tuple[int, ...] = (2, 2)
    """Residual blocks of the decoder in each level, in the same order as channels."""
    attention_resolutions: tuple[int, ...] = ()
    """Sides, in places, of the levels where attention follows every residual block."""
    middle: Middle = "none"
    """attention: block, attention and block at the lowest resolution, as taming-transformers has;
    none: only the level's own blocks."""
    resampling: Resampling = "fold"
    """Between levels: fold (2 × 2 places to channels and back, with a 1 × 1 convolution), conv
    (a strided convolution down, nearest neighbour and a convolution up) or pool (means of 2 × 2
    places down, nearest neighbour up, without parameters)."""
    norm: Norm = "rmsnorm"
    """rmsnorm over channels (cheap) or groupnorm of 32 groups."""
    latent_channels: int = 16
    """Channels between the autoencoder's trunk and the projection to a code."""
    code_dim: int = 16
    """Numbers in a code."""
    codebook_size: int = 1024
    """Number of codes; one image token holds log2 of it in bits."""
    normalize_codes: bool = True
    """Compare directions instead of distances (Yu et al. 2021, arXiv:2110.04627): more of the
    codebook stays in use. taming-transformers does not."""
    lookup: Lookup = "nearest"
    """The code of a latent: the nearest one, or the likeliest class of a 1 × 1 convolution, as in
    taming-transformers' GumbelVQ (Jang et al. 2016, arXiv:1611.01144), which is read, not trained
    here. fsq: the nearest point of a grid that is not learnt (finite scalar quantisation; Mentzer
    et al. 2023, arXiv:2309.15505), which needs no k-means, warm-up or revival."""
    fsq_levels: tuple[int, ...] = ()
    """With lookup fsq, the number of values of each entry of a code, such as 8 8 8 8: code_dim is
    the number of entries, codebook_size their product."""
    tried_codes: int = 1
    """Nearest codes that `encode` tries at each place, through the decoder, to keep the one that
    reconstructs the picture best (vqgan/refining.py). 1 = the nearest code as it is. Each
    further code costs nine decodings of a picture; training does not try them."""

    def __post_init__(self) -> None:
        self._check_levels()
        self._check_sizes()
        self._check_blocks()
        if self.tried_codes > self.codebook_size:
            raise ValueError(
                f"tried_codes {self.tried_codes} are more than the {self.codebook_size} codes of "
                "the codebook"
            )
        if self.tried_codes > 1 and self.lookup == "classifier":
            raise ValueError(
                f"tried_codes {self.tried_codes} needs distances of codes, which lookup classifier "
                "lacks; try --model.tried_codes=1"
            )
        if self.image_size % self.factor:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of {self.factor} = patch_size "
                f"{self.patch_size} × 2^{len(self.channels) - 1} levels; "
                f"try {max(1, self.image_size // self.factor) * self.factor}"
            )
        widths = (self.stem_channels, *self.channels)
        if self.norm == "groupnorm" and any(c % 32 for c in widths):
            raise ValueError(f"groupnorm needs channels in multiples of 32, not {widths}")

    def _check_sizes(self) -> None:
        check_least(self, "", 1, *SIZES)
        for name in SIZES:
            if getattr(self, name) > (most := LARGEST.get(name, 1 << 14)):
                raise ValueError(f"{name} {getattr(self, name):,} is more than {most:,}, the limit")
        for name in ("channels", "attention_resolutions"):
            if len(getattr(self, name)) > 16 or any(n > 1 << 14 for n in getattr(self, name)):
                raise ValueError(f"{name} must be at most 16 sizes of up to {1 << 14:,} each")
            if not all(size >= 1 for size in getattr(self, name)):
                raise ValueError(f"{name} must be at least 1 each, not {getattr(self, name)}")

    def _check_blocks(self) -> None:
        levels = len(self.channels)
        if not levels == len(self.encoder_blocks) == len(self.decoder_blocks):
            raise ValueError(
                f"channels, encoder_blocks and decoder_blocks need one entry for each level, not "
                f"{levels}, {len(self.encoder_blocks)} and {len(self.decoder_blocks)}"
            )
        blocks = (*self.encoder_blocks, *self.decoder_blocks)
        if not all(1 <= count <= 64 for count in blocks):
            raise ValueError(f"encoder_blocks and decoder_blocks must be in 1..64, not {blocks}")

    def _check_levels(self) -> None:
        levels = self.fsq_levels
        if (self.lookup == "fsq") != bool(levels) or any(level < 2 for level in levels):
            raise ValueError(
                f"lookup fsq and fsq_levels of at least 2 each belong together, not "
                f"{self.lookup} and {levels}; try --model.lookup=fsq "
                "--model.fsq_levels='[8,8,8,8]' --model.code_dim=4 --model.codebook_size=4096"
            )
        sizes = len(levels), math.prod(levels)
        if levels and (self.code_dim, self.codebook_size) != sizes:
            raise ValueError(
                f"fsq_levels {levels} make codes of {sizes[0]} numbers and a codebook of "
                f"{sizes[1]}, not {self.code_dim} and {self.codebook_size}; try "
                f"--model.code_dim={sizes[0]} --model.codebook_size={sizes[1]}"
            )

    @property
    def factor(self) -> int:
        """Pixels of a side per token."""
        return self.patch_size * 2 ** (len(self.channels) - 1)

    @property
    def grid_size(self) -> int:
        """Tokens along one side of a picture."""
        return self.image_size // self.factor

    @property
    def image_length(self) -> int:
        """Tokens of a picture."""
        return self.grid_size**2


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms of the loss; pictures are in −1..1."""

    l1: float = 0.5
    """Mean absolute error."""
    l2: float = 5.0
    """Mean squared error, which PSNR measures."""
    saturation: float = 1.5
    """Extra weight of coloured pixels in both, per unit of (max − min of red, green, blue): without
    it rare hues turn grey, although PSNR stays high."""
    edges: float = 0.25
    """Error of the gradients at three sizes: crisp outlines."""
    hue: float = 2.0
    """Error of the colour differences at a quarter of the size."""
    structure: float = 1.0
    """1 − SSIM."""
    perceptual: float = 0.0
    """LPIPS (Zhang et al. 2018, arXiv:1801.03924), for textures that look right and are blurred by
    the terms on pixels; taming-transformers has 1. It needs perceptual_weights."""
    perceptual_weights: str = ""
    """Safetensors file of VGG-16 (torchvision's names), alone or with LPIPS's weights of its
    channels, such as those in a checkpoint of taming-transformers. No such file is shipped."""
    codebook: float = 1.0
    """Squared distance of codes to the latents that they replace; its gradient reaches only the
    codes."""
    commitment: float = 0.25
    """Squared distance of latents to their codes; its gradient reaches only the encoder."""
    adversarial: float = 0.0
    """Weight of the discriminator's term, in shares of the gradient of the terms on pixels;
    taming-transformers has 0.8. 0 = no discriminator, at no cost. It is for crisp textures, which
    the other terms blur; PSNR falls with it."""
    adversarial_from: int = 2000
    """Updates before the discriminator and its term begin: half of the default training.steps,
    after the codebook's start. In updates, so that a resume with more steps does not move it."""
    adversarial_limit: float = 1e4
    """Highest ratio of the two gradients that a picture's term is multiplied by."""

    def __post_init__(self) -> None:
        # A negative weight would reward the error that its term measures.
        check_least(self, "loss", 0, "l1", "l2", "saturation", "edges", "hue", "structure")
        check_least(self, "loss", 0, "codebook", "commitment", "perceptual")
        check_least(self, "loss", 0, "adversarial", "adversarial_from")
        if bool(self.perceptual) != bool(self.perceptual_weights):
            raise ValueError(
                f"loss.perceptual {self.perceptual} and loss.perceptual_weights "
                f"{self.perceptual_weights!r} belong together: give both, or neither"
            )
        if self.adversarial_limit <= 0:
            raise ValueError(f"loss.adversarial_limit {self.adversarial_limit} must be positive")


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The second player, used if loss.adversarial is not 0. It distinguishes pictures from their
    reconstructions, patch by patch (PatchGAN; Isola et al. 2016, arXiv:1611.07004)."""

    channels: tuple[int, ...] = (32, 64, 128)
    """Channels of each level; every level halves the resolution. Three levels judge patches of 38 ×
    38 pixels."""
    learning_rate: float = 5e-4
    """Highest learning rate of the discriminator's Adam, with the schedule of optim."""
    beta1: float = 0.5
    """Momentum: less than the autoencoder's, whose reconstructions change under it."""
    beta2: float = 0.9
    """Decay of the mean of squared gradients."""

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1:
            raise ValueError(
                f"discriminator.channels must be one or more numbers of at least 1, not "
                f"{self.channels}"
            )
        if self.learning_rate < 0 or not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError(
                f"discriminator.learning_rate {self.learning_rate} cannot be negative, beta1 "
                f"{self.beta1} and beta2 {self.beta2} must be in 0..1, below 1"
            )


@dataclass(frozen=True)
class QuantizerConfig:
    """Initialisation of the codebook, and revival of its unused codes."""

    warmup_steps: int | None = None
    """Updates before there is a codebook; default: as warmup_share says. 0 keeps the codebook of
    init_from."""
    warmup_share: float = 0.25
    """Share of the run before there is a codebook: a good autoencoder gives k-means something to
    cluster; from the first update on the codebook would collapse."""
    refresh_every: int = 500
    """Updates between revivals of unused codes; 0 = never. None happens in the last tenth of a
    run, so that the decoder has learnt every code."""
    refresh_pictures: int = 1024
    """Pictures encoded for k-means, and to find the unused codes."""
    fixed: bool = False
    """Train the decoder only, on the tokens of init_from's VQGAN. Its records, and models that
    learnt them, stay valid. Each picture is encoded once, when it is first read, with
    model.tried_codes. Needs --optim.train_only='[decoder/*]'."""

    def __post_init__(self) -> None:
        check_least(self, "quantizer", 0, "refresh_every")
        check_least(self, "quantizer", 1, "refresh_pictures")
        if self.warmup_steps is not None:
            check_least(self, "quantizer", 0, "warmup_steps")
        if not 0 <= self.warmup_share < 1:
            raise ValueError(f"quantizer.warmup_share {self.warmup_share} must be in 0..1, below 1")

    def warmup(self, steps: int) -> int:
        """Updates before there is a codebook, in a run of so many."""
        if self.fixed:
            return 0
        if self.warmup_steps is not None:
            return self.warmup_steps
        return min(round(self.warmup_share * steps), steps - 1)
