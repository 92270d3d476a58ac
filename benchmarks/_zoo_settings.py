"""The list of healthy settings: two thirds to choose thresholds by, one third unseen."""

from collections.abc import Callable
from functools import partial

import keras
from _zoo import (
    Setting,
    autoencoder,
    clothes,
    convolutional,
    dense,
    dense_net,
    digits,
    friedman,
    imbalanced,
    mislabeled,
    outlines,
    pairs,
    pictures_alone,
    recurrent,
    residual,
    transformer,
    u_net,
    words,
)

FOUR, THREE, TWO = ("b1", "b2", "b3", "b4"), ("b1", "b2", "b3"), ("b1", "b2")


def adam(rate: float = 1e-3) -> keras.optimizers.Optimizer:
    """Adam."""
    return keras.optimizers.Adam(rate)


def momentum(rate: float = 0.02, **more) -> keras.optimizers.Optimizer:
    """SGD with momentum."""
    return keras.optimizers.SGD(rate, momentum=0.9, **more)


def warmed_up(rate: float = 2e-3) -> keras.optimizers.Optimizer:
    """AdamW with a linear warm-up of 100 steps and a cosine decay of 4,000."""
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, 4000, warmup_target=rate, warmup_steps=100
    )
    return keras.optimizers.AdamW(schedule, weight_decay=0.01)


def accumulated() -> Callable[[], keras.optimizers.Optimizer]:
    """SGD that applies the mean of four gradients."""
    return partial(momentum, 0.05, gradient_accumulation_steps=4)


deep = partial(dense, 10, 48, normalized=True)
smooth = partial(dense, 4, 64, "gelu", dropout=0.2)
regressor = partial(dense, 3, 64, "relu", inputs=(10,), outputs=1)
hundred = partial(dense, 3, 96, inputs=(8, 16), outputs=100)
reader = partial(transformer, 32, tokens=9, outputs=8)

SETTINGS = {
    "mlp": Setting(dense, FOUR, digits, 128, adam),
    "mlp, normalized": Setting(partial(dense, normalized=True), FOUR, digits, 16, momentum),
    "cnn of V1": Setting(convolutional, FOUR, clothes, 32, adam),
    "residual net": Setting(residual, THREE, digits, 128, partial(momentum, 0.05)),
    "u-net": Setting(u_net, ("b2", "b3"), outlines, 16, adam, "binary_crossentropy"),
    "lstm": Setting(recurrent, THREE, digits, 128, partial(adam, 2e-3)),
    "autoencoder": Setting(autoencoder, THREE, pictures_alone, 128, adam, None),
    "noisy labels": Setting(convolutional, FOUR, mislabeled, 128, adam),
    "hundred classes": Setting(hundred, THREE, pairs, 512, adam),
    "float16": Setting(dense, FOUR, digits, 128, adam, policy="mixed_float16"),
    "accumulation": Setting(dense, FOUR, digits, 16, accumulated()),
    "deep mlp": Setting(deep, ("b2", "b4", "b6", "b8"), digits, 128, warmed_up),
    "dense net": Setting(dense_net, THREE, clothes, 128, adam, unseen=True),
    "transformer": Setting(transformer, TWO, digits, 128, warmed_up, unseen=True),
    "regression": Setting(regressor, THREE, friedman, 16, adam, "mse", unseen=True),
    "imbalanced": Setting(dense, FOUR, imbalanced, 128, momentum, unseen=True),
    "bfloat16": Setting(
        convolutional, FOUR, clothes, 128, momentum, policy="mixed_bfloat16", unseen=True
    ),
    "padded words": Setting(reader, TWO, words, 32, adam, unseen=True),
    "large batch": Setting(residual, THREE, digits, 512, warmed_up, unseen=True),
    "dropout": Setting(smooth, FOUR, digits, 16, partial(momentum, 0.01), unseen=True),
}
