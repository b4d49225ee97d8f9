"""Optimizers by name, as optax transformations that return a direction.

The training step multiplies the direction by the learning rate. So the learning rate is a function
of the number of finished updates, and no optimizer state holds a counter for it.
"""

from collections.abc import Callable, Sequence

import jax
import optax
from jaxtyping import Array, PyTree

from common.trees import is_stacked, map_named
from optim import shampoo
from optim.averaging import schedule_free
from optim.config import ADAPTERS, OptimConfig, Optimizer
from optim.freezing import freeze
from optim.layers import per_layer
from optim.paths import GROUPS, Factor, check_patterns, make_factor, matches, parse_rate
from optim.soap import soap
from optim.spread import LOCAL, Spread

_MuonSides = optax.contrib.MuonDimensionNumbers


def make_optimizer(
    config: OptimConfig, spread: Spread = LOCAL, rates: Sequence[Factor] = ()
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a configuration: clips by global norm, computes the direction, adds
    decoupled weight decay, and multiplies by the factors of optim.rates and of `rates`. Frozen
    parameters get 0.

    `spread` distributes work over the devices. `update` takes `learning_rate=`, which
    palm_adafactor's weight decay and schedule_free need.
    """
    own_rates = [parse_rate(text) for text in config.rates]
    scaled = optax.chain(scale_rates(own_rates), scale_rates(rates, must_match=False))
    decay, around = _weight_decay(config), AROUND.get(config.name, lambda config, steps: steps)
    steps = [DIRECTIONS[config.name](config, spread), decay, scaled]
    if config.independent_decay:
        steps = [steps[0], scaled, decay]
    chain = optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        *around(config, steps),
    )
    return freeze(optax.with_extra_args_support(chain), config.freeze, config.trained)


def _adam(config: OptimConfig, spread: Spread) -> optax.GradientTransformation:
    return optax.scale_by_adam(
        config.beta1, config.beta2, config.epsilon, nesterov=config.name == "nadamw"
    )


def _adafactor(config: OptimConfig, spread: Spread) -> optax.GradientTransformation:
    """adafactor: factored, with updates clipped to a root mean square of 1. palm_adafactor: neither
    factored nor clipped, as in PaLM."""
    factored = config.name == "adafactor"
    whole = optax.adafactor(
        factored=factored,
        min_dim_size_to_factor=config.adafactor.factored_from,
        clipping_threshold=1.0 if factored else None,
        momentum=config.beta1 or None,
    )
    return per_layer(optax.chain(whole, optax.scale(-1.0)))  # optax returns −direction


def _muon(config: OptimConfig, spread: Spread) -> optax.GradientTransformation:
    """muon for kernels, scaled by 0.2 √(longer side), so that it and adam need the same learning
    rate (Liu et al. 2025, arXiv:2502.16982); `_adam` for the rest, where optax would use Nesterov.
    """
    kernels = optax.contrib.muon(
        learning_rate=-1.0,  # optax returns −rate × direction
        beta=config.beta1,
        eps=config.epsilon,
        muon_weight_dimension_numbers=_sides,
        consistent_rms=0.2,
    )

    def labels(params: PyTree) -> PyTree:
        sides = _sides(params)
        return jax.tree.map(
            lambda side: "adam" if side is None else "muon",
            sides,
            is_leaf=lambda side: side is None or isinstance(side, _MuonSides),
        )

    return optax.partition({"muon": kernels, "adam": _adam(config, spread)}, labels)


def _shampoo(config: OptimConfig, spread: Spread) -> optax.GradientTransformation:
    return shampoo.shampoo(config.shampoo, config.beta1, config.beta2, config.nesterov, spread)


Around = Callable[
    [OptimConfig, list[optax.GradientTransformation]], list[optax.GradientTransformation]
]

DIRECTIONS: dict[Optimizer, Callable[[OptimConfig, Spread], optax.GradientTransformation]] = {
    "sgd": lambda c, spread: optax.trace(c.beta1, c.nesterov),
    "adam": _adam,
    "adamw": _adam,
    "nadamw": _adam,
    "lion": lambda c, spread: optax.scale_by_lion(c.beta1, c.beta2),
    "adafactor": _adafactor,
    "palm_adafactor": _adafactor,
    "muon": _muon,
    "shampoo": _shampoo,
    "soap": lambda c, spread: soap(c.soap, c.beta1, c.beta2, c.epsilon, spread),
    "schedule_free": lambda c, spread: optax.scale_by_adam(0.0, c.beta2, c.epsilon),
}
AROUND: dict[Optimizer, Around] = {
    "schedule_free": lambda c, steps: [schedule_free(optax.chain(*steps), c.beta1)],
}
"""Wrappers of (direction, weight decay, factors), for optimizers that need one."""

STACKS = (*shampoo.STACKS, "bases")
"""Names in an optimizer's state below which every array is a stack of matrices."""


def scale_rates(rates: Sequence[Factor], must_match: bool = True) -> optax.GradientTransformation:
    """A transformation that multiplies updates by their factors. `init` raises ValueError for a
    pattern that matches nothing."""
    if not rates:
        return optax.identity()
    factor_of = make_factor(rates)

    def init(params: PyTree) -> optax.EmptyState:
        names = jax.tree.leaves(map_named(lambda name, _: name, params))
        for pattern, _ in rates if must_match else ():
            if pattern not in GROUPS or not any(matches(n, GROUPS[pattern]) for n in names):
                check_patterns("rates", [pattern], names)
        return optax.EmptyState()

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        return map_named(lambda name, u: u * factor_of(name), updates), state

    return optax.GradientTransformation(init, update)


def _weight_decay(config: OptimConfig) -> optax.GradientTransformation:
    """Adds weight_decay × parameter, which the step multiplies by the learning rate. Independent
    decay is divided by the peak learning rate, so that only the schedule's shape scales it."""
    if not config.weight_decay:
        return optax.identity()
    if config.name == "palm_adafactor":
        return _decay_by_squared_rate(config.weight_decay)
    highest = config.learning_rate if config.independent_decay else 1.0
    return optax.add_decayed_weights(config.weight_decay / highest, mask=is_decayed)


def _decay_by_squared_rate(weight_decay: float) -> optax.GradientTransformationExtraArgs:
    """Adds weight_decay × learning_rate × parameter, which the step multiplies by the learning rate
    again."""

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        learning_rate: Array | float | None = None,
        **_: object,
    ) -> tuple[PyTree, PyTree]:
        if learning_rate is None:
            raise ValueError("palm_adafactor's weight decay needs update(…, learning_rate=…)")
        factor = weight_decay * learning_rate
        decayed = jax.tree.map(
            lambda is_kernel, u, p: u + factor * p if is_kernel else u,
            is_decayed(params),
            updates,
            params,
        )
        return decayed, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def is_decayed(params: PyTree) -> PyTree:
    """A tree of bools: True for kernels of dense and convolution layers and for their adapters,
    False for norms, biases and embeddings."""

    def is_matrix(name: str, leaf: object) -> bool:
        return name.split("/")[-1] == "kernel" or name.startswith(f"{ADAPTERS}/")

    return map_named(is_matrix, params)


def _sides(params: PyTree) -> PyTree:
    """The input and output axes of each kernel that muon trains. None for parameters that adam
    trains, which include the kernel of the logits."""

    def of_leaf(name: str, leaf: Array) -> _MuonSides | None:
        first = int(is_stacked(name))
        if not name.endswith("/kernel") or name == "head/kernel" or leaf.ndim < first + 2:
            return None
        return _MuonSides(tuple(range(first, leaf.ndim - 1)), (leaf.ndim - 1,))

    return map_named(of_leaf, params)
