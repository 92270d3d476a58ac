"""Heads in models whose sizes are open, such as images of whatever size.

A head that works position by position takes an axis of unknown size to be the same as that
of what it is compared with. Whether it is, the graph says: it is run for shapes only, on
inputs of one size.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras

from keras_e2e.modules.module import ModuleSpec
from keras_e2e.objectives import Output, Reconstruction
from keras_e2e.objectives.base import LocalObjective
from keras_e2e.utils import compat

# Sizes to try, one for each open axis: unlike each other where the graph allows it, and
# divisible by what pooling divides them by.
_SIZES = ((192, 256, 320, 384, 448), (256,) * 5)


class _Compared(NamedTuple):
    """A head, and what its output is compared with.

    Attributes:
        name: String, the boundary.
        network: The head.
        activation: The symbolic tensor that it is given.
        target: The symbolic tensor whose shape its output must have.
        what: String, what that is.
    """

    name: str
    network: Any
    activation: Any
    target: Any
    what: str


def refuse_unlike_sizes(model: Any, specs: Sequence[ModuleSpec]) -> None:
    """Refuses heads whose outputs have another size than what they are compared with.

    Args:
        model: A modular model that is a graph of layers, with its heads built.
        specs: Its modules.

    Raises:
        ValueError: If there is such a head.
    """
    compared = [
        pair
        for pair in _compared(model, specs)
        if None in pair.activation.shape[1:] and None in pair.target.shape[1:]
    ]
    if not compared:
        return
    tensors = [tensor for pair in compared for tensor in (pair.activation, pair.target)]
    shapes = _shapes_on_one_size(model._modular.graph, tensors)
    for index, pair in enumerate(compared if shapes else ()):
        given, expected = shapes[2 * index : 2 * index + 2]
        spec = keras.KerasTensor(given, pair.activation.dtype)
        found = tuple(pair.network.compute_output_spec(spec).shape)
        if found[1:] != expected[1:]:
            raise ValueError(
                f"The head of boundary {pair.name!r} returns one value for each of its "
                f"positions, and {pair.what} has others: where the activation has shape "
                f"{given}, the head returns {found}, and expected is {expected}. Give the "
                "model inputs of a fixed size, to which a head resizes; set the boundary "
                f"where it has the positions of {pair.what}; or give a head of your own "
                f"that returns them{_resizing(found, expected)}."
            )


def _compared(model: Any, specs: Sequence[ModuleSpec]) -> Iterator[_Compared]:
    outputs = tuple(
        Output(output.name, None, None, None) for output in model._modular.outputs
    )
    by_name = {output.name: output.spec for output in model._modular.outputs}
    for spec in specs:
        name, objective = spec.module.name, spec.module.objective
        for part in () if objective is None else _parts(objective):
            if isinstance(part, Reconstruction):
                own = part.of == "module_input"
                source = spec.inputs if own else model._modular.graph.inputs[0]
                yield _Compared(
                    name, part.network, spec.activation, source, "what is reconstructed"
                )
            for way in part.exits(outputs):
                if way.output is not None and way.network is not None:
                    yield _Compared(
                        *(name, way.network, spec.activation, by_name[way.output]),
                        f"the output {way.output!r}",
                    )


def _parts(objective: LocalObjective) -> list[LocalObjective]:
    """An objective without parts, or its parts that count."""
    inner = [
        layer
        for layer in compat.all_layers(objective)
        if isinstance(layer, LocalObjective) and layer.built
    ]
    return inner or [objective]


def _shapes_on_one_size(model: Any, tensors: list) -> list:
    """Shapes of symbolic tensors on inputs of some size; empty if none of those fits."""
    for sizes in _SIZES:
        inputs = [
            keras.KerasTensor(
                (x.shape[0], *(a or b for a, b in zip(x.shape[1:], sizes, strict=False))),
                x.dtype,
                sparse=x.sparse,
                ragged=x.ragged,
            )
            for x in model.inputs
        ]
        try:
            run = keras.Function(model.inputs, tensors)
            return [tuple(found.shape) for found in run.compute_output_spec(inputs)]
        except Exception:  # whatever a layer says of sizes that do not fit it
            continue
    return []


def _resizing(found: tuple, expected: tuple) -> str:
    """A layer that would make one map of the other, for an error."""
    pairs = list(zip(found[1:-1], expected[1:-1], strict=False))
    maps = len(found) == len(expected) == 4 and all(a and b for a, b in pairs)
    if not maps or any(b % a for a, b in pairs):
        return ""
    size = tuple(b // a for a, b in pairs)
    return (
        f", such as keras.Sequential([keras.layers.UpSampling2D({size}), "
        f"keras.layers.Conv2D({expected[-1]}, 1)])"
    )
