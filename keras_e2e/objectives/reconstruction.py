"""Reconstruct what a module was given: no labels needed."""

from typing import Any

import keras
from keras import ops, tree

from keras_e2e import heads
from keras_e2e.objectives.base import Batch, LocalObjective, ModelSpec

SOURCES = ("module_input", "model_input")


@keras.saving.register_keras_serializable("keras_e2e")
class Reconstruction(LocalObjective):
    """Trains a module so that what it was given can be read from its activation.

    The mean squared error between a decoded activation and its source: the classic
    layer by layer pre-training. On the k-tuple parity tasks of this package, label-free
    pre-training did not repair the breakdown of end-to-end training: do not count on
    it where intermediate labels can be had.

    Args:
        of: `"module_input"` (what the module was given) or `"model_input"` (what the
            model was given; its first input).
        head: the decoder, as in `heads.make_head`. Default: `"conv"` from image map to
            image map (resize, two 3x3 convolutions, as in InfoPro), else `"linear"`.

    Raises:
        ValueError: an unknown `of` or head; a source whose size is not known; a module
            with more than one input, whose `of` must be `"model_input"`.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.objectives.Reconstruction(of="model_input").needs is None
    True
    """

    def __init__(self, of: str = "module_input", *, head: str | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        if of not in SOURCES:
            raise ValueError(f"Reconstruction(of={of!r}): expected one of {list(SOURCES)}.")
        self.of = of
        self.head = heads.check_kind(head)
        self.network: keras.Sequential | None = None

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        source = model.module_input
        if self.of == "model_input":
            source = model.inputs[0]
        elif isinstance(source, list):
            raise ValueError(
                f"Reconstruction(of='module_input'): the module has {len(source)} "
                "inputs; use of='model_input' or a single-input module."
            )
        maps = len(activation.shape) == len(source.shape) == 4
        kind = self.head or ("conv" if maps else "linear")
        self.network = heads.make_head(
            kind, activation, tuple(source.shape), self.dtype_policy
        )

    def loss(self, activation: Any, batch: Batch) -> Any:
        source = batch.module_input
        if self.of == "model_input":
            source = tree.flatten(batch.x)[0]
        assert self.network is not None, "build_head comes first"
        decoded = self.network(activation, training=True)
        source = ops.stop_gradient(ops.cast(source, decoded.dtype))
        return keras.losses.mean_squared_error(source, decoded)

    def get_config(self):
        return {**super().get_config(), "of": self.of, "head": self.head}
