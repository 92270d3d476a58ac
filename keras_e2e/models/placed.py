"""The boundaries of a modular model beside the graph that they were put into.

A modular model has two graphs over the same layers. Its own one is that of the model it was
made of, nested models and all: this is what is saved, cloned and shown. The other one, in
which nested models that hold a boundary are taken apart and each boundary stands at its
place, is the one that runs.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.utils import compat


@keras.saving.register_keras_serializable("keras_e2e")
class PlacedBoundaries(keras.layers.Layer):
    """Holds boundaries, and where they are in a graph in which this layer stands.

    Wherever it stands, it returns what it is given. As a layer of the graph it goes the
    ways of the graph: it is saved, loaded and cloned with it.

    Args:
        boundaries: List of `ModuleBoundary` layers.
        places: List of the places of each: a list of numbers, of what the boundary follows
            in `graph_operations` of the model. By numbers, not by names: a class may leave
            names to Keras, which gives others when the model is loaded.
        paths: List of the paths of each, a list of strings, for whoever reads the file.
        sequential: Boolean, whether the graph is that of a Sequential model. Defaults to
            `False`.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(
        self,
        boundaries: list[ModuleBoundary],
        places: list[list[int]],
        paths: list[list[str]],
        sequential: bool = False,
        **kwargs: Any,
    ):
        super().__init__(autocast=False, **kwargs)
        self.boundaries, self.places, self.paths = boundaries, places, paths
        self.sequential = sequential
        self.supports_masking = True
        self.built = True

    def by_place(self) -> dict[int, ModuleBoundary]:
        """The boundaries by the places that they follow."""
        pairs = zip(self.boundaries, self.places, strict=True)
        return {place: boundary for boundary, places in pairs for place in places}

    def listed(self) -> list[list]:
        """The places and paths of each boundary, in the order of the graph."""
        return sorted([*pair] for pair in zip(self.places, self.paths, strict=True))

    def call(self, inputs):
        return inputs

    def compute_output_spec(self, inputs):
        flags = {key: True for key in ("sparse", "ragged") if getattr(inputs, key, False)}
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype, **flags)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = super().get_config()
        del config["dtype"]
        config["boundaries"] = [
            keras.saving.serialize_keras_object(boundary) for boundary in self.boundaries
        ]
        own = {"places": self.places, "paths": self.paths, "sequential": self.sequential}
        return {**config, **own}

    @classmethod
    def from_config(cls, config):
        found = [
            keras.saving.deserialize_keras_object(boundary)
            for boundary in config["boundaries"]
        ]
        return cls(**{**config, "boundaries": found})


def place(
    operations: Iterable[tuple[str, Any]],
    inserted: Mapping[int, ModuleBoundary],
    sequential: bool,
) -> PlacedBoundaries:
    """The layer that holds some boundaries.

    Args:
        operations: The paths and operations of the graph, as `graph_operations` has them.
        inserted: Boundaries by the `id` of what they follow.
        sequential: Whether the graph is that of a Sequential model.
    """
    listed = list(operations)
    where = {id(operation): number for number, (_, operation) in enumerate(listed)}
    boundaries = list({id(boundary): boundary for boundary in inserted.values()}.values())
    places = [
        [where[key] for key, given in inserted.items() if given is boundary]
        for boundary in boundaries
    ]
    paths = [[listed[number][0] for number in each] for each in places]
    taken = {operation.name for _, operation in listed}
    name, number = "placed_boundaries", 0
    while name in taken:
        number += 1
        name = f"placed_boundaries_{number}"
    return PlacedBoundaries(boundaries, places, paths, sequential, name=name)


def placed_in(model: keras.Model) -> PlacedBoundaries | None:
    """The boundaries that stand beside the graph of a model; None if there are none."""
    operations = compat.as_functional(model).operations
    return next((x for x in operations if isinstance(x, PlacedBoundaries)), None)
