"""The training loss: cross-entropy of each image token, given the caption and the tokens before
it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from common.batch import ChoiceBatch, EvalBatch, TokenBatch
from model.layers import fold_keys
from model.loss_config import LossConfig
from model.near_codes import Targets
from model.transformer import Params, Transformer

Metrics = dict[str, Array]
EncodedText = tuple[Int[Array, "1 t"], Bool[Array, "1 t"]]


def cross_entropy(
    logits: Float[Array, "b n v"],
    labels: Int[Array, "b n"],
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    targets: Targets | None = None,
) -> Float[Array, "b n"]:
    """The loss of each token in nats, −log softmax(logits)[label], in float32.

    `label_smoothing` spreads this share of the target over all classes (Szegedy et al. 2015,
    arXiv:1512.00567). `z_loss` is the weight of the squared log-partition function, which is added
    (Chowdhery et al. 2022, arXiv:2204.02311). With `targets`, a label stands for several classes.
    """
    logits = logits.astype(jnp.float32)
    if targets is None:
        target_logits = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    else:
        class_logits = jnp.take_along_axis(logits, targets.classes[labels], axis=-1)
        target_logits = (targets.shares[labels] * class_logits).sum(-1)
    if label_smoothing:
        target_logits = (1 - label_smoothing) * target_logits + label_smoothing * logits.mean(-1)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    return log_z - target_logits + (z_loss * jnp.square(log_z) if z_loss else 0.0)


def shift_right(image_tokens: Int[Array, "b n"], start: int) -> Int[Array, "b n"]:
    """Decoder inputs: the start token, then all image tokens but the last."""
    return jnp.pad(image_tokens[:, :-1], ((0, 0), (1, 0)), constant_values=start)


def drop_captions(
    text_tokens: Int[Array, "b t"],
    text_mask: Bool[Array, "b t"],
    empty_text: EncodedText,
    rate: float,
    keys: Key[Array, " b"],
) -> tuple[Int[Array, "b t"], Bool[Array, "b t"]]:
    """(text_tokens, text_mask), with a share `rate` of the captions replaced by the empty one.

    This trains the unconditional half of classifier-free guidance (Ho & Salimans 2022,
    arXiv:2207.12598).
    """
    dropped = jax.vmap(lambda key: jax.random.bernoulli(key, rate))(keys)[:, None]
    empty_tokens, empty_mask = empty_text
    text_tokens = jnp.where(dropped, empty_tokens, text_tokens)
    return text_tokens, jnp.where(dropped, empty_mask, text_mask)


def add_token_noise(
    image_tokens: Int[Array, "b n"],
    codebook_size: int,
    p: float,
    keys: Key[Array, " b"],
    caption_only: float = 0.0,
) -> Int[Array, "b n"]:
    """The tokens, some of them replaced by random codes. The rate is drawn for each picture from
    U(0, 2p); for a share `caption_only` of the pictures it is 1.

    On a small data set, a decoder that sees clean tokens recognises the training picture after two
    of them, copies it, and ignores the caption. The noise prevents this.
    """

    def with_noise(tokens: Int[Array, " n"], key: Key[Array, ""]) -> Int[Array, " n"]:
        for_rate, for_place, for_code = jax.random.split(key, 3)
        rate = jax.random.uniform(for_rate, maxval=2 * p)
        if caption_only:
            is_blind = jax.random.bernoulli(jax.random.fold_in(for_rate, 1), caption_only)
            rate = jnp.where(is_blind, 1.0, rate)
        replaced = jax.random.bernoulli(for_place, rate, tokens.shape)
        return jnp.where(
            replaced, jax.random.randint(for_code, tokens.shape, 0, codebook_size), tokens
        )

    return jax.vmap(with_noise)(image_tokens, keys)


def make_loss(
    model: Transformer,
    empty_text: EncodedText,
    codebook_size: int,
    config: LossConfig,
    targets: Targets | None = None,
) -> Callable[[Params, TokenBatch[Array], Key[Array, " b"], object], tuple[Array, Metrics]]:
    """A function (params, batch, a key for each example, context) → (loss, metrics).

    `empty_text` is the encoded empty caption, from which sampling guides away. `targets`, if given,
    are the soft targets of loss.near_codes. The metric "train/cross_entropy" is the loss with hard
    targets, without label smoothing and z-loss. The context is not read.
    """

    def loss(
        params: Params, batch: TokenBatch[Array], keys: Key[Array, " b"], context: object
    ) -> tuple[Array, Metrics]:
        text_tokens, text_mask = batch["text_tokens"], batch["text_mask"]
        image_tokens = batch["image_tokens"]
        if config.caption_dropout:
            text_tokens, text_mask = drop_captions(
                text_tokens, text_mask, empty_text, config.caption_dropout, fold_keys(keys, 0)
            )
        if config.token_noise or config.caption_only:
            image_tokens = add_token_noise(
                image_tokens,
                codebook_size,
                config.token_noise,
                fold_keys(keys, 1),
                config.caption_only,
            )
        decoder_inputs = shift_right(image_tokens, model.decoder_start_token_id)
        logits = model.apply(params, text_tokens, text_mask, decoder_inputs, fold_keys(keys, 2))
        labels = batch["image_tokens"]
        plain = cross_entropy(logits, labels).mean()
        objective = plain
        if config.label_smoothing or config.z_loss or targets is not None:
            objective = cross_entropy(
                logits, labels, config.label_smoothing, config.z_loss, targets
            ).mean()
        return objective, {"train/cross_entropy": plain}

    return loss


def make_eval_loss(
    model: Transformer,
) -> Callable[[Params, EvalBatch[Array]], tuple[Array, Array]]:
    """A function (params, batch) → (sum of the pictures' losses, number of pictures), without
    noise. A picture's loss is the mean over its tokens; rows with `weight` 0 do not count."""

    def loss(params: Params, batch: EvalBatch[Array]) -> tuple[Array, Array]:
        each = picture_loss(
            model, params, batch["text_tokens"], batch["text_mask"], batch["image_tokens"]
        )
        return (each * batch["weight"]).sum(), batch["weight"].sum()

    return loss


def make_choice_loss(
    model: Transformer,
) -> Callable[[Params, ChoiceBatch[Array]], tuple[Array, Array]]:
    """A function (params, batch) → (number of pictures with a wrong caption, number of pictures).
    A picture's caption is wrong if one of the other captions gives it a lower loss than its own.

    This measures whether a model listens to its words; its loss can rise meanwhile.
    """

    def loss(params: Params, batch: ChoiceBatch[Array]) -> tuple[Array, Array]:
        def given(text: tuple[Array, Array]) -> Float[Array, " b"]:
            return picture_loss(model, params, *text, batch["image_tokens"])

        own = given((batch["text_tokens"], batch["text_mask"]))
        texts = jnp.swapaxes(batch["other_tokens"], 0, 1), jnp.swapaxes(batch["other_mask"], 0, 1)
        is_wrong = jax.lax.map(given, texts).min(0) < own
        return (is_wrong * batch["weight"]).sum(), batch["weight"].sum()

    return loss


def picture_loss(
    model: Transformer,
    params: Params,
    text_tokens: Int[Array, "b t"],
    text_mask: Bool[Array, "b t"],
    image_tokens: Int[Array, "b n"],
) -> Float[Array, " b"]:
    """The loss of each picture given its caption, in nats per image token, without noise."""
    decoder_inputs = shift_right(image_tokens, model.decoder_start_token_id)
    logits = model.apply(params, text_tokens, text_mask, decoder_inputs)
    return cross_entropy(logits, image_tokens).mean(-1)
