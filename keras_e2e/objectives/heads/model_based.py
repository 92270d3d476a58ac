"""Heads made of the model's own layers: AugLocal and the momentum auxiliary network.

They are copies of layers that come after the boundary, and so need to see the graph
there (`blocks.Block`).
"""

from typing import Any

import keras
from keras import ops

from keras_e2e.objectives import heads
from keras_e2e.objectives.heads.model_head import ModelHead, summarized
from keras_e2e.utils.validation import check_integer, check_number


@keras.saving.register_keras_serializable("keras_e2e")
class AugLocal(ModelHead):
    """A head of layers sampled evenly from the rest of the network, with fresh weights.

    AugLocal (Ma et al. 2024), in blocks: a block is what lies between two cut points of
    the graph, such as a convolution with its BatchNorm and activation, or a residual
    block. Behind the `l`-th of the `L` blocks of the network, the head has

        d = round((1 - (l - 1) / (L - 2)) * (depth_max - depth_min) + depth_min)

    blocks, at most the `n` there are between the boundary and the last block: those
    that follow at `round(n / d * i)`, `i = 1 ... d`. Then come global average pooling and
    a Dense layer. Directly before the last block these two are all.

    A block that cannot be applied where it would stand (the sum of a residual block
    whose channels do not match) gives way to the nearest one before it that can. Blocks
    whose layers see other axes than the activation has, such as a Dense layer behind
    Flatten, are sampled only where there are no others.

    Args:
        depth_max: Integer, number of blocks of the head of the first module. Defaults to
            3.
        depth_min: Integer, number of blocks of the head of the last but one module.
            Defaults to 1.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If not `1 <= depth_min <= depth_max`. When the model is made: if the
            model shows no graph after the boundary, or if no block of it can be applied.

    Example:

    >>> import keras
    >>> from keras_e2e import ModuleBoundary
    >>> from keras_e2e.modules import blocks, graph
    >>> from keras_e2e.objectives.heads.model_based import AugLocal
    >>> x = keras.Input((8,))
    >>> boundary = ModuleBoundary(name="first")
    >>> h = boundary(keras.layers.Dense(4, "relu")(x))
    >>> y = keras.layers.Dense(3)(keras.layers.Dense(6, "relu")(h))
    >>> following = blocks.blocks_after(graph.Graph(keras.Model(x, y)), boundary)
    >>> head = AugLocal()
    >>> head.assemble(keras.KerasTensor((None, 4)), (None, 3), None, following)
    >>> [tuple(v.shape) for v in head.weights]
    [(4, 6), (6,), (6, 3), (3,)]
    """

    def __init__(self, depth_max: int = 3, depth_min: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.depth_min = check_integer("AugLocal: depth_min", depth_min, 1)
        self.depth_max = check_integer("AugLocal: depth_max", depth_max, self.depth_min)

    def depth(self, place: int, count: int) -> int:
        """Returns the number of blocks behind the `place`-th of `count` blocks."""
        gone = (place - 1) / (count - 2) if count > 2 and place > 1 else 0.0
        return round((1 - gone) * (self.depth_max - self.depth_min) + self.depth_min)

    def make(self, activation, target_shape, dtype, following_blocks):
        between = [block for block in following_blocks if not block.last]
        rank = len(activation.shape)
        alike = [b for b in between if _keeps_axes(b, rank)] or between
        depth = min(
            self.depth(following_blocks[0].place, following_blocks[0].count), len(alike)
        )
        inputs = tensor = keras.Input(activation.shape[1:], dtype=activation.dtype)
        used, refusals = -1, []
        for i in range(1, depth + 1):
            wanted = round(len(alike) / depth * i) - 1
            for here in range(wanted, used, -1):
                try:
                    tensor, _ = alike[here].clone(tensor, f"block{i}_")
                except ValueError as error:
                    refusals.append(error)
                    continue
                used = here
                break
        if between and used < 0:
            raise ValueError(
                f"The head {self.name!r} (AugLocal) finds no block that can be applied to "
                f"an activation of shape {tuple(activation.shape)}. Use another head, such "
                f"as 'conv_mlp' or 'mlp'. {refusals[-1]}"
            )
        outputs = summarized(tensor, target_shape, dtype)
        self.network = keras.Model(inputs, outputs, name="network")

    def get_config(self):
        config = super().get_config()
        return {**config, "depth_max": self.depth_max, "depth_min": self.depth_min}


@keras.saving.register_keras_serializable("keras_e2e")
class MomentumAuxiliary(ModelHead):
    """A head that includes a moving average of the next module's first block.

    The momentum auxiliary network (MAN, Su et al. 2024): the activation goes through the
    first block after the boundary twice, once with an exponential moving average of that
    block's weights and once with weights of the head's own; the sum of the two goes into
    the head that MAN is put in front of, such as DGL's.

    The averages start from the block's weights and at each call with `training=True`
    move by `average = momentum * average + (1 - momentum) * weight`, before they are
    used. They take in BatchNorm's moving statistics: with the averages, the block runs
    in inference mode. They are weights of the head that no optimizer trains. The
    block's own weights are read, and neither belong to the head nor get a gradient.
    The averaging is done in float32; the copies compute in the block's own dtype.

    MAN++ (Su et al. 2025) multiplies what the averaged block returns by a learned scale,
    as its features and those of the module may be of different sizes.

    Args:
        momentum: Number from 0 to 1. Defaults to 0.995.
        head: String, the kind of head that the sum goes into, as in `heads.make_head`.
            Defaults to `"conv_mlp"`, DGL's, one of those that the paper puts it in front
            of.
        learnable_scale: Boolean, whether what the averaged block returns is multiplied by
            a scale that is trained with the head, one number for each channel, from 1
            (MAN++). Defaults to `False`, as in MAN.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If `momentum` is out of range, `head` unknown or `learnable_scale` not
            a Boolean. When the model is made: if the model shows no graph after the
            boundary, or only its last layers.
        TypeError: If `head` is not a string.

    Example:

    >>> import keras
    >>> from keras_e2e import ModuleBoundary
    >>> from keras_e2e.modules import blocks, graph
    >>> from keras_e2e.objectives.heads.model_based import MomentumAuxiliary
    >>> x = keras.Input((8,))
    >>> boundary = ModuleBoundary(name="first")
    >>> h = boundary(keras.layers.Dense(4, "relu")(x))
    >>> y = keras.layers.Dense(3)(keras.layers.Dense(6, "relu")(h))
    >>> following = blocks.blocks_after(graph.Graph(keras.Model(x, y)), boundary)
    >>> head = MomentumAuxiliary()
    >>> head.assemble(keras.KerasTensor((None, 4)), (None, 3), None, following)
    >>> [tuple(v.shape) for v in head.non_trainable_weights]
    [(4, 6), (6,)]
    """

    block: keras.Model

    def __init__(
        self,
        momentum: float = 0.995,
        head: str = "conv_mlp",
        *,
        learnable_scale: bool = False,
        **kwargs: Any,
    ):
        # Read in half precision, as a mixed policy would, the averages would not move.
        super().__init__(**{**kwargs, "dtype": "float32"})
        if not isinstance(head, str):
            raise TypeError(
                f"MomentumAuxiliary(head={head!r}): expected a kind of head, a string such "
                "as 'conv_mlp'."
            )
        self.head = heads.validate_head(head)
        self.momentum = check_number(
            "MomentumAuxiliary: momentum", momentum, least=0, most=1
        )
        if not isinstance(learnable_scale, bool):
            raise ValueError(
                f"MomentumAuxiliary: learnable_scale={learnable_scale!r}: expected True or "
                "False."
            )
        self.learnable_scale = learnable_scale
        self.averages: list = []

    def make(self, activation, target_shape, dtype, following_blocks):
        block = following_blocks[0]
        if block.last:
            raise ValueError(
                f"The head {self.name!r} (MomentumAuxiliary) copies the first block of the "
                "next module, and only the model's last layers come after this boundary. "
                "Use another head there, such as 'gap_linear'."
            )
        inputs = keras.Input(activation.shape[1:], dtype=activation.dtype)
        through, pairs = block.clone(inputs, "block_")
        originals, copies = [], []
        for original, copy in pairs:
            for variable, twin in zip(original.weights, copy.weights, strict=True):
                average = self.add_weight(
                    shape=variable.shape,
                    dtype=_wide(variable.dtype),
                    trainable=False,
                    name=f"average_{copy.name}_{variable.name}",
                )
                average.assign(ops.copy(variable))  # JAX would share the buffer
                self.averages.append(average)
                originals.append(variable)
                copies.append(twin)
        # Behind a function: Keras would track what is an attribute as the head's own.
        self.tied = lambda: (originals, copies)
        self.block = keras.Model(inputs, through, name="block")
        if self.learnable_scale:
            self.scale = self.add_weight(
                shape=(through.shape[-1],), initializer="ones", name="scale"
            )
        seen = keras.KerasTensor(through.shape, through.dtype)
        self.network = heads.make_head(self.head, seen, target_shape, dtype)

    def call(self, activation, training=None):
        values = self.move() if training else self.averages
        _, copies = self.tied()
        # The block once more, with other values in the place of its weights.
        with keras.StatelessScope(list(zip(copies, values, strict=True))):
            seen = self.block(activation, training=False)
        if self.learnable_scale:
            seen = seen * ops.cast(self.scale, seen.dtype)
        seen = seen + self.block(activation, training=training)
        return super().call(seen, training)

    def move(self) -> list:
        """Moves the averages toward their weights and returns the new values."""
        originals, _ = self.tied()
        values = []
        for average, original in zip(self.averages, originals, strict=True):
            new = ops.stop_gradient(ops.cast(original, average.dtype))
            if keras.backend.is_float_dtype(average.dtype):
                new = self.momentum * average + (1.0 - self.momentum) * new
            average.assign(new)
            values.append(new)
        return values

    def get_config(self):
        config = {**super().get_config(), "head": self.head, "momentum": self.momentum}
        return {**config, "learnable_scale": self.learnable_scale}


def _wide(dtype: str) -> str:
    """Returns the dtype to average in: no less than float32."""
    if not keras.backend.is_float_dtype(dtype):
        return dtype
    return keras.backend.result_type(dtype, "float32")


def _keeps_axes(block: Any, rank: int) -> bool:
    """Whether a block works on tensors of this rank, though it may pool in the end."""
    last = [c for c in block.calls if c.operation in block.layers][-1]
    return rank in (len(block.ends[0].shape), len(last.inputs[0].shape))
