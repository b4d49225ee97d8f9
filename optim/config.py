"""Configuration of the optimizer, of Shampoo, and of the learning-rate schedule."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from common.settings import check_least
from optim.lengths import Length, Unit, parse_length
from optim.paths import matches, parse_rate

Optimizer = Literal[
    "sgd",
    "adam",
    "adamw",
    "nadamw",
    "lion",
    "adafactor",
    "palm_adafactor",
    "muon",
    "shampoo",
    "soap",
    "schedule_free",
]
Graft = Literal["sgd", "sqrt_n", "adagrad", "adagrad_normalized", "rmsprop", "rmsprop_normalized"]
Schedule = Literal["hold", "rsqrt", "polynomial", "cosine", "exponential"]
DecayShape = Literal["linear", "cosine", "sqrt"]
Steps = int | str
"""A number of updates, or with its unit: "2000 updates", "1M examples"."""


ADAPTERS = "adapters"
"""Key of the adapters in the tree of parameters."""


@dataclass(frozen=True)
class ShampooConfig:
    """Distributed Shampoo (Anil et al. 2020, arXiv:2002.09018); momentum is optim.beta1, the decay
    of its statistics optim.beta2."""

    block_size: int = 1024
    """Largest size of a block along each dimension. Tensors are split into blocks; a root costs the
    cube of the size. 0 = no splitting."""
    merge_dims: int = 1024
    """Neighbouring dimensions are merged while their product is not over this; 0 = never."""
    graft: Graft = "rmsprop_normalized"
    """The optimizer that gives each update its length: sgd, sqrt_n (signs), adagrad or rmsprop;
    _normalized divides the gradient by its norm first."""
    start_step: int = 5
    """Updates by the graft only, until there are enough statistics."""
    statistics_every: int = 1
    """Updates between updates of the statistics."""
    roots_every: int = 10
    """Updates between computations of the preconditioners, the inverse roots of the statistics."""
    delayed_roots: bool = False
    """An update uses the preconditioners from before it, so that nothing waits for the roots."""
    max_dim: int = 4096
    """A tensor with a larger dimension, such as a table over a vocabulary, has no
    preconditioner."""
    min_rank: int = 1
    """A tensor with fewer dimensions has no preconditioner; 1 = only single numbers have none."""
    exclude: tuple[str, ...] = ("*tokens", "*positions", "*relative_bias", "*codebook")
    """Patterns of parameter paths without preconditioner, by default the embeddings."""
    moving_average: bool = True
    """Momentum is the mean of updates (weights 1 − beta1) instead of their sum."""
    matrix_epsilon: float = 1e-6
    """Share of the largest eigenvalue that is added to all of them before a root is taken; the
    statistics start from it."""
    relative_epsilon: bool = True
    """false: matrix_epsilon itself is added, whatever the eigenvalues."""
    graft_epsilon: float = 1e-10
    """Added to the root of the graft's sum of squares."""
    graft_clip: float = 0.0
    """Largest root mean square of an rmsprop graft; 0 = no limit."""
    exponent: int = 0
    """p of the inverse p-th roots; 0 = twice the number of dimensions."""
    failure_threshold: float = 0.1
    """A root with a larger error is not used; the one before it stays."""
    one_sided: bool = False
    """No preconditioner along the last dimension, the outputs."""
    quantize_momentum: bool = False
    """The two momenta of matrices are kept as 8-bit integers, a quarter of the memory."""

    def __post_init__(self) -> None:
        sizes = ("block_size", "merge_dims", "start_step", "min_rank", "exponent")
        rates = ("matrix_epsilon", "graft_epsilon", "graft_clip", "failure_threshold")
        check_least(self, "optim.shampoo", 0, *sizes, *rates)
        check_least(self, "optim.shampoo", 1, "statistics_every", "roots_every", "max_dim")


@dataclass(frozen=True)
class SoapConfig:
    """SOAP (Vyas et al. 2024, arXiv:2409.11321); momentum is optim.beta1, the decay of its
    statistics and of its squares optim.beta2, both 0.95 in the paper."""

    block_size: int = 1024
    """Largest size of a block along each dimension. Tensors are split into blocks; a basis costs
    the cube of the size. 0 = no splitting, as published."""
    basis_every: int = 10
    """Updates between turns of the basis, each one step of power iteration."""
    max_dim: int = 10_000
    """A tensor with a larger dimension gets adam."""
    min_rank: int = 2
    """A tensor with fewer dimensions gets adam."""
    exclude: tuple[str, ...] = ("*tokens", "*positions", "*relative_bias", "*codebook")
    """Patterns of parameter paths that get adam, by default the embeddings."""

    def __post_init__(self) -> None:
        check_least(self, "optim.soap", 0, "block_size", "min_rank")
        check_least(self, "optim.soap", 1, "basis_every", "max_dim")


@dataclass(frozen=True)
class AdafactorConfig:
    """Settings of adafactor only; it shares others with optim."""

    factored_from: int = 128
    """Rows and columns are kept in place of a matrix whose sides are at least so long."""

    def __post_init__(self) -> None:
        check_least(self, "optim.adafactor", 1, "factored_from")


@dataclass(frozen=True)
class AdapterConfig:
    """Low-rank adapters (LoRA; Hu et al. 2021, arXiv:2106.09685): the kernels that init_from gives
    stay as they are, and (alpha / rank) times a product of two thin matrices, which are trained, is
    added to each. Drawing and releases use the sum."""

    rank: int = 0
    """Columns of the first matrix and rows of the second; 0 = no adapters, all weights are trained.
    8 is plenty for a few dozen pictures."""
    alpha: float = 16.0
    """The product is multiplied by alpha / rank."""
    kernels: tuple[str, ...] = field(default=("encoder/*", "decoder/*"), metadata={"nargs": "*"})
    """Patterns of paths of the kernels that get adapters, such as '*attention/*' or head/kernel;
    the default is all of both stacks."""

    def __post_init__(self) -> None:
        check_least(self, "optim.adapters", 0, "rank")
        if self.alpha <= 0 or not self.kernels:
            raise ValueError(
                f"optim.adapters.alpha {self.alpha} must be positive, and optim.adapters.kernels "
                "must name something; --optim.adapters.rank=0 is without adapters"
            )


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer, clipping, averaging and freezing of weights, and the learning rate's course."""

    name: Optimizer = "adamw"
    """adamw (Loshchilov & Hutter 2017, arXiv:1711.05101), adam (the same without weight decay),
    nadamw (with Nesterov's momentum), sgd with momentum, lion (Chen et al. 2023, arXiv:2302.06675),
    adafactor (Shazeer & Stern 2018, arXiv:1804.04235), palm_adafactor (not factored, as PaLM's,
    arXiv:2204.02311), muon for kernels and adam for the rest and for adapters (Jordan et al. 2024),
    shampoo, soap (adam in shampoo's eigenbasis), or schedule_free: adamw without a decay of the
    learning rate, evaluated at an average of its iterates (Defazio et al. 2024, arXiv:2405.15682);
    use it with decay_fraction 0."""
    learning_rate: float = 2e-3
    """Highest learning rate, reached after the warm-up; sgd wants about 100 × adamw's, lion a third
    to a tenth; the adafactors multiply it by each tensor's root mean square (PaLM: 1e-2)."""
    schedule: Schedule = "hold"
    """After the warm-up: hold, then decay to 0 over the last updates; rsqrt: hold, then 1/√step
    (PaLM); polynomial (OPT: linear to 10 %) or cosine over all that is left; exponential."""
    schedule_unit: Unit = "updates"
    """Unit of the learning rate's course: updates, or examples if batches grow; then without
    training.skip_batches and on_spike rollback, which would move them. The lengths below keep their
    own units, such as '2000 updates' or '1M examples'; without one they are updates, with either
    setting."""
    warmup_steps: Steps = "20 updates"
    """Length over which the learning rate rises linearly from 0, such as '2000 updates' or '1M
    examples'."""
    decay_fraction: float = 0.3
    """Last share of all updates over which the learning rate falls to 0, with schedule hold. A
    resume with more steps re-plans only this part."""
    decay_steps: Steps = "0 updates"
    """The same as a length, in place of decay_fraction if not 0: with training.steps = step of any
    checkpoint of the hold + decay_steps, the decay branches off there."""
    decay_shape: DecayShape = "linear"
    """Course of that fall: linear, cosine, or sqrt: 1 − √(share done) (Hägele et al. 2024,
    arXiv:2405.18392)."""
    final_fraction: float | None = None
    """Share of the learning rate that is left at the end; null = 0.1 for polynomial, otherwise 0.
    exponential falls no lower."""
    power: float = 1.0
    """Exponent of the schedule polynomial; 1 = linear."""
    rsqrt_steps: Steps = "10000 updates"
    """Length before the schedule rsqrt falls: from there it is learning_rate · √(this / step)."""
    transition_steps: Steps = "1000 updates"
    """Length over which the schedule exponential falls by decay_rate."""
    transition_begin: Steps = "0 updates"
    """Length before the schedule exponential falls."""
    decay_rate: float = 0.5
    """Factor by which the schedule exponential falls over each transition_steps."""
    staircase: bool = False
    """The schedule exponential falls in steps instead of smoothly."""
    rewarm_from: Steps = "0 updates"
    """Point of a restart from which the learning rate rises from 0 again, over rewarm_steps."""
    rewarm_steps: Steps = "0 updates"
    """Length over which the learning rate returns to its course after rewarm_from; 0 = off."""
    beta1: float = 0.9
    """Momentum: decay of the mean of gradients (of updates in shampoo and the adafactors; adafactor
    with 0 keeps none and saves the memory)."""
    beta2: float = 0.98
    """Decay of the mean of squared gradients, in adam's family, lion and shampoo; 0.98 forgets in
    50 updates, right for short runs. shampoo sums with 1. The adafactors use 1 − step^−0.8."""
    epsilon: float = 1e-8
    """Added to the root of the mean square in adam's family and muon."""
    nesterov: bool = False
    """Nesterov's momentum, in sgd and shampoo."""
    adafactor: AdafactorConfig = field(default_factory=AdafactorConfig)
    """Adafactor; read with optim.name=adafactor only."""
    shampoo: ShampooConfig = field(default_factory=ShampooConfig)
    """Distributed Shampoo; read with optim.name=shampoo only."""
    soap: SoapConfig = field(default_factory=SoapConfig)
    """SOAP; read with optim.name=soap only."""
    rates: tuple[str, ...] = ()
    """Factors of the learning rate, PATTERN:FACTOR, such as '*bias:0.1' or embeddings:3; also head,
    matrices and norms. The first pattern that matches a parameter's path counts."""
    weight_decay: float = 0.0
    """Decoupled decay per update, times the learning rate (in palm_adafactor times its square, 1 =
    PaLM's); never on norms, biases and embeddings."""
    independent_decay: bool = False
    """Multiply weight_decay only by the schedule's share, not by the learning rate or its factors,
    as in the original paper (Loshchilov & Hutter 2017). Then the best rate of a small model is also
    best for a wide one (arXiv:2309.14322)."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global L2 norm; 0 = off."""
    ema_decay: float = 0.0
    """Decay of a moving average of the weights, which is used for evaluation and drawing; 0 = none.
    schedule_free has its own average."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameter paths that stay as they are, such as encoder/* or *bias."""
    train_only: tuple[str, ...] = ()
    """Patterns of the only parameter paths that are trained, such as text_embedding/* for a new
    language; none = all, or where there are adapters none but them."""
    adapters: AdapterConfig = field(default_factory=AdapterConfig)
    """Low-rank adapters."""

    LENGTHS: ClassVar[tuple[str, ...]] = (
        *("warmup_steps", "decay_steps", "rsqrt_steps", "transition_steps"),
        *("transition_begin", "rewarm_from", "rewarm_steps"),
    )

    def length(self, name: str) -> Length:
        """One of LENGTHS, read."""
        return parse_length(name, getattr(self, name))

    @property
    def trained(self) -> tuple[str, ...]:
        """Patterns of the only parameter paths that are trained; none = all."""
        return (f"{ADAPTERS}/*", *self.train_only) if self.adapters.rank else self.train_only

    def trains(self, path: str) -> bool:
        """True if the parameter of this path is trained."""
        return (not self.trained or matches(path, self.trained)) and not matches(path, self.freeze)

    @property
    def averages(self) -> bool:
        """True if an average of the weights is kept, to evaluate and draw with."""
        return bool(self.ema_decay) or self.name == "schedule_free"

    @property
    def counts_examples(self) -> bool:
        """True if the schedule counts anything in examples."""
        units = {self.length(name).unit for name in self.LENGTHS}
        return self.schedule_unit == "examples" or "examples" in units

    def __post_init__(self) -> None:
        for name in self.LENGTHS:  # one spelling, so that equal ones are equal on resume
            object.__setattr__(self, name, str(self.length(name)))
        for name in ("decay_fraction", "beta1", "beta2", "ema_decay", "final_fraction"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"optim.{name} {value} is not within 0..1")
            if value == 1 and name in ("beta1", "beta2", "ema_decay"):
                raise ValueError(
                    f"optim.{name} 1 never lets a new value into the average; try 0.999"
                )
        rates = ("learning_rate", "epsilon", "weight_decay", "clip_norm")
        check_least(self, "optim", 0, *rates)
        for name in ("rsqrt_steps", "transition_steps"):
            if not self.length(name).number:
                raise ValueError(f"optim.{name} must be at least 1, not 0")
        if self.power <= 0 or not 0 < self.decay_rate <= 1:
            raise ValueError(
                f"optim.power {self.power} must be positive and optim.decay_rate "
                f"{self.decay_rate} within 0..1 and not 0"
            )
        for text in self.rates:
            parse_rate(text)
        self._check_optimizer()

    def _check_optimizer(self) -> None:
        """Raise ValueError for settings that the optimizer does not support."""
        if self.independent_decay and (self.name == "palm_adafactor" or not self.learning_rate):
            raise ValueError(
                "optim.independent_decay is not for palm_adafactor, and not for a learning rate of "
                "0; leave it out"
            )
        if self.name == "schedule_free" and (self.ema_decay or not self.beta1):
            raise ValueError(
                "optim.name schedule_free averages its iterates itself, with beta1 above 0, not "
                f"{self.beta1}; use --optim.ema_decay=0, not {self.ema_decay}"
            )
        if self.name == "adam" and self.weight_decay:
            raise ValueError(
                f"optim.weight_decay {self.weight_decay} is not for adam; use --optim.name=adamw"
            )
        if self.nesterov and self.name not in ("sgd", "shampoo"):
            known = "use nadamw" if self.name in ("adam", "adamw") else "leave it out"
            raise ValueError(f"optim.nesterov is for sgd and shampoo, not {self.name}; {known}")
