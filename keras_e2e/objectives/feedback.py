"""Feedback through fixed random maps in place of the transposed weights."""

from typing import Any

import keras

from keras_e2e.objectives import heads
from keras_e2e.objectives.registry import register
from keras_e2e.objectives.signal import Signal
from keras_e2e.objectives.specs import ModelSpec
from keras_e2e.utils.validation import check_integer


class _RandomFeedback(Signal):
    """What both kinds of feedback alignment share.

    Args:
        seed: Integer seed of the random map. Defaults to 0.
        **kwargs: `weight`, as in `Signal`.
    """

    def __init__(self, *, seed: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.seed = check_integer(f"{type(self).__name__}: seed", seed, 0)
        # One after the other, as Keras saves no lists of lists; where each end's begin.
        self.maps: list = []
        self.first: list[int] = []

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        for end in self.ends(model):
            self.first.append(len(self.maps))
            for tensor in end:
                network = heads.make_head("linear", activation, tuple(tensor.shape))
                network.trainable = False
                # As Keras draws the weights that the map replaces; not zero.
                draw = keras.initializers.GlorotUniform(self.seed + len(self.maps))
                layer = next(x for x in network.layers if x.weights)
                layer.kernel.assign(draw(layer.kernel.shape, layer.kernel.dtype))
                self.maps.append(network)
        self.first.append(len(self.maps))

    def ends(self, model: ModelSpec) -> tuple:
        """Returns the tensors that are the source, for each end."""
        raise NotImplementedError

    def project_feedback(self, activation: Any, index: int) -> list:
        maps = self.maps[self.first[index] : self.first[index + 1]]
        return [network(activation, training=False) for network in maps]

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


@register("feedback_alignment")
@keras.saving.register_keras_serializable("keras_e2e")
class FeedbackAlignment(_RandomFeedback):
    """Sends the next module's signal back through a fixed random map.

    Lillicrap et al. 2016, "Random synaptic feedback weights support error backpropagation
    for deep learning", between modules. The signal at a boundary is the gradient of the
    loss with respect to its output. Here it is `B` times the signal at the end of the next
    module, `B` random and fixed, in place of the product with that module's transposed
    Jacobian. Inside a module backpropagation is exact, so one module for each layer is
    feedback alignment as published.

    The map is linear (after average pooling, if the activation has more than 2048 values),
    with the Glorot uniform values that a Keras layer in its place begins with.

    Args:
        seed: Integer seed of the map. Defaults to 0.
        **kwargs: `weight`, as in `Signal`. It has no `reach`.

    Raises:
        ValueError: If `seed` is not an integer of at least 0, or if `reach` is given. When
            the model is made: if a size that must be known is not.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.objectives.FeedbackAlignment(seed=1).feedback_source
    'following'
    """

    feedback_source = "following"

    def ends(self, model: ModelSpec) -> tuple:
        return model.following


@register("direct_feedback_alignment")
@keras.saving.register_keras_serializable("keras_e2e")
class DirectFeedbackAlignment(_RandomFeedback):
    """Sends the error at the model's outputs straight back through a fixed random map.

    Noekland 2016, "Direct Feedback Alignment Provides Learning in Deep Neural Networks".
    The signal at a boundary is the gradient of the loss with respect to its output. Here it
    is `B` times the gradient of the loss with respect to the model's outputs, `B` random
    and fixed: of the values under a softmax or sigmoid where the loss is a cross-entropy
    (on the TensorFlow backend; on JAX of the model's outputs, so let the model end in
    logits).

    The map is as in `FeedbackAlignment`. Reported for LeNet on Fashion-MNIST, test error in
    percent: backpropagation 9.2, feedback alignment 13.06, direct 12.81.

    Args:
        seed: Integer seed of the map. Defaults to 0.
        **kwargs: `weight`, as in `Signal`. It has no `reach`.

    Raises:
        ValueError: If `seed` is not an integer of at least 0, or if `reach` is given. When
            the model is made: if a size that must be known is not.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.objectives.DirectFeedbackAlignment().feedback_source
    'outputs'
    """

    feedback_source = "outputs"

    def ends(self, model: ModelSpec) -> tuple:
        return (tuple(output.spec for output in model.outputs),)
