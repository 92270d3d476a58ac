"""Which variables code reads.

The calls of a graph are run for their shapes by a private function of Keras's (`specs`).
"""

from collections.abc import Callable
from typing import Any

import keras

from keras_e2e.utils.compat import GraphCall
from keras_e2e.utils.compat.recompute import make_call
from keras_e2e.utils.compat.specs import output_spec


class VariableReads(keras.StatelessScope):
    """A scope that notes which variables are read, and leaves every variable alone.

    Args:
        note: Function that is called with each variable as it is read.
    """

    def __init__(self, note: Callable[[Any], None]):
        super().__init__()
        self._note = note

    def get_current_value(self, ref):
        self._note(ref)
        return super().get_current_value(ref)


def variables_read(call: GraphCall) -> set[int]:
    """`id`s of the variables that a call of a layer reads, in training or in inference.

    Those of the layer if its code cannot be run for the shapes.
    """
    found: set[int] = set()
    inputs = list({id(tensor): tensor for tensor in call.inputs}.values())

    def run(*tensors):
        for training in (False, True):
            values = dict(zip(map(id, inputs), tensors, strict=True))
            with VariableReads(lambda variable: found.add(id(variable))):
                make_call(call, values, {"training": training})
        return tensors

    try:
        output_spec(run, *inputs)
    except Exception:  # whatever the code of a layer raises
        return {id(variable) for variable in call.operation.weights}
    return found
