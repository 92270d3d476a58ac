"""Transfer of weights from one model to another."""

import keras

from keras_e2e.utils.graphs import unique


def transfer_weights(source: keras.Model, target: keras.Model) -> list[str]:
    """Copies the weights of layers that both models have, by name and shapes.

    For a curriculum: train a model for tuples of one image, transfer the encoder, and
    whatever else fits, to the model for two, and so on.

    Args:
        source: The `keras.Model` that has learned.
        target: The `keras.Model` that goes on from there.

    Returns:
        The names of the layers that were copied.

    Example:

    >>> import keras_e2e as e2e
    >>> one, two = (e2e.tasks.parity_model(k, d=64, seed=k) for k in (1, 2))
    >>> e2e.regimes.transfer_weights(one, two)[:3]
    ['encoder_1', 'encoder_2', 'symbols']
    """
    copied = []
    sources = {layer.name: layer for layer in _held(source) if layer.weights}
    for layer in _held(target):
        found = sources.get(layer.name)
        if found is None or not layer.weights:
            continue
        shapes = [tuple(w.shape) for w in layer.weights]
        if [tuple(w.shape) for w in found.weights] == shapes:
            layer.set_weights(found.get_weights())
            copied.append(layer.name)
    return copied


def _held(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers of a model and the boundaries beside them, which have heads."""
    beside = getattr(model, "boundaries", {})
    return unique([*model.layers, *beside.values()])
