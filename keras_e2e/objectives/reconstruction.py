"""Reconstruction of a module's input from its activation: no labels needed."""

from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_e2e.objectives import heads
from keras_e2e.objectives.augmentation import augmented_view
from keras_e2e.objectives.base import LocalObjective
from keras_e2e.objectives.registry import register
from keras_e2e.objectives.specs import Batch, ModelSpec

SOURCES = ("module_input", "model_input")
LOSSES = ("mse", "binary_crossentropy")


@register("reconstruction")
@keras.saving.register_keras_serializable("keras_e2e")
class Reconstruction(LocalObjective):
    """Trains a module so that what it was given can be decoded from its activation.

    The mean squared error between a decoded activation and its source: classic
    layer-by-layer pre-training. On the k-tuple parity tasks of this package, label-free
    pre-training did not repair the breakdown of end-to-end training: do not count on it
    where intermediate labels can be had.

    Args:
        of: The source: `"module_input"` (what the module was given) or `"model_input"`
            (what the model was given; its first input). Defaults to `"module_input"`.
        head: The decoder: a string or a Keras layer, as in `heads.make_head`. Defaults to
            `None`: `"linear"` from sequence to sequence, else `"decoder"` (between maps
            two 3x3 convolutions, as in InfoPro; for flat activations a Dense layer).
        loss: `"mse"`, or `"binary_crossentropy"` for a source between 0 and 1, for which
            the decoder ends in a sigmoid (InfoPro, Wang et al. 2021). Defaults to `"mse"`.
        corrupt: A Keras layer that corrupts the model's inputs at random, in a pass of its
            own: `keras.layers.Dropout(0.5)` masks, `keras.layers.GaussianNoise(0.3)`
            disturbs. The clean source must then be decoded from the activation of the
            corrupted inputs (denoising autoencoders, Vincent et al. 2008). Defaults to
            `None`: no such pass.
        mean: Number, or one for each entry of the last axis. The decoder predicts
            `source * std + mean`, which undoes a normalization. Defaults to 0.0.
        std: Number, or one for each entry of the last axis; see `mean`. Defaults to 1.0.
        **kwargs: `weight` and `reach`, as in `LocalObjective`.

    Raises:
        TypeError: If `corrupt` is not a Keras layer.
        ValueError: If `of`, `loss` or `head` is unknown, or if `mean` or `std` is not made
            of finite numbers. When the model is made: if the size of the source is not
            known, or if the module has several inputs and `of` is `"module_input"`.

    Example:

    >>> import keras, keras_e2e as e2e
    >>> masked = e2e.objectives.Reconstruction(corrupt=keras.layers.Dropout(0.5))
    >>> masked.requires_targets
    False
    """

    network: keras.layers.Layer

    def __init__(
        self,
        of: str = "module_input",
        *,
        head: Any = None,
        loss: str = "mse",
        corrupt: Any = None,
        mean: Any = 0.0,
        std: Any = 1.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if of not in SOURCES:
            raise ValueError(f"Reconstruction(of={of!r}): expected one of {list(SOURCES)}.")
        if loss not in LOSSES:
            raise ValueError(
                f"Reconstruction(loss={loss!r}): expected one of {list(LOSSES)}."
            )
        if corrupt is not None and not isinstance(corrupt, keras.layers.Layer):
            raise TypeError(
                f"Reconstruction(corrupt={corrupt!r}): expected a Keras layer, such as "
                "keras.layers.Dropout(0.5), or None."
            )
        self.of, self.loss_name, self.corrupt = of, loss, corrupt
        self.mean, self.std = _plain("mean", mean), _plain("std", std)
        self.head = heads.validate_head(head)

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        source = model.module_input
        if self.of == "model_input":
            source = model.inputs[0]
        elif isinstance(source, list):
            raise ValueError(
                f"Reconstruction(of='module_input'): the module has {len(source)} "
                "inputs; expected one. Use of='model_input', or a module with one input."
            )
        sequences = len(activation.shape) == len(source.shape) == 3
        kind = self.head or ("linear" if sequences else "decoder")
        self.network = heads.make_head(
            kind, activation, tuple(source.shape), self.dtype_policy, model.following_blocks
        )

    def extra_inputs(self):
        return {} if self.corrupt is None else augmented_view(self.corrupt)

    def loss(self, activation: Any, batch: Batch) -> Any:
        source = batch.module_input
        if self.of == "model_input":
            source = tree.flatten(batch.x)[0]
        for corrupted in batch.extra_activations.values():
            activation = corrupted
        decoded = self.network(activation, training=batch.training)
        source = ops.stop_gradient(ops.cast(source, decoded.dtype))
        if self.mean != 0.0 or self.std != 1.0:
            std, mean = (ops.cast(each, source.dtype) for each in (self.std, self.mean))
            source = source * std + mean
        if self.loss_name == "mse":
            return keras.losses.mean_squared_error(source, decoded)
        source = ops.clip(source, 0.0, 1.0)
        return keras.losses.binary_crossentropy(source, decoded, from_logits=True)

    def get_config(self):
        config = super().get_config()
        corrupt = self.corrupt
        config.update(
            of=self.of,
            head=heads.serialize(self.head),
            loss=self.loss_name,
            corrupt=None
            if corrupt is None
            else keras.saving.serialize_keras_object(corrupt),
            mean=self.mean,
            std=self.std,
        )
        return config

    @classmethod
    def from_config(cls, config):
        config = {**config, "head": heads.deserialize(config.get("head"))}
        if isinstance(config.get("corrupt"), dict):
            config["corrupt"] = keras.saving.deserialize_keras_object(config["corrupt"])
        return super().from_config(config)


def _plain(name: str, value: Any) -> Any:
    """Returns a number, or a tuple of numbers, as a config takes it."""
    try:
        numbers = np.asarray(value, "float64")
    except (TypeError, ValueError):
        numbers = np.asarray(np.nan)
    if not np.isfinite(numbers).all():
        raise ValueError(
            f"Reconstruction({name}={value!r}): expected a finite number, or one for each "
            "entry of the last axis."
        )
    plain = numbers.tolist()
    return tuple(plain) if isinstance(plain, list) else plain
