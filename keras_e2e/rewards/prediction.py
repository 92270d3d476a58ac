"""What a model says of one small batch after another, in less time."""

from typing import Any

import keras


class Predictor:
    """Returns what `predict_on_batch` returns.

    A policy is asked at each step of its environments, for some of them at a time. Keras's
    function on TensorFlow then spends longer on finding the graph that was traced for such
    inputs than in the graph; this remembers it.

    Args:
        model: The Keras model.
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self._function: Any = None
        self._graphs: dict[tuple, Any] = {}

    def __call__(self, inputs: Any) -> Any:
        """Returns the outputs as arrays.

        Args:
            inputs: An array, or a structure of arrays.
        """
        self.model.make_predict_function()
        function = self.model.predict_function
        # Not on JAX, and not where the model runs eagerly.
        if not hasattr(function, "get_concrete_function"):
            return self.model.predict_on_batch(inputs)
        if function is not self._function:  # compiled anew since
            self._function, self._graphs = function, {}
        tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)
        key = tuple((a.shape, a.dtype) for a in keras.tree.flatten(tensors))
        if key not in self._graphs:
            self._graphs[key] = function.get_concrete_function([(tensors,)])
        outputs = self._graphs[key]([(tensors,)])
        return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)
