"""Modular training of subclassed models, whose `call` is code rather than a graph."""

import inspect
from typing import Any

import keras
from keras import tree

from keras_e2e.models.base import ModularBase
from keras_e2e.models.examples import (
    built_example,
    describe,
    first_examples,
    from_description,
)
from keras_e2e.models.layer_tap import tap_layer
from keras_e2e.models.sublayers import named_sublayers
from keras_e2e.models.weights import tell_of_heads
from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.modules.discovery import examine, spec_of
from keras_e2e.modules.graph import LOOPS, in_loop
from keras_e2e.modules.ownership import check_shared
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.objectives.base import OutputSpec
from keras_e2e.trainers import targets
from keras_e2e.trainers.state import ModularState
from keras_e2e.utils import compat
from keras_e2e.utils.graphs import (
    layer_name,
    strategy_scope,
    takes_training,
)
from keras_e2e.utils.weights_file import held_paths


@keras.saving.register_keras_serializable("keras_e2e")
class ModularWrapper(ModularBase, keras.Model):
    """A subclassed model with module boundaries, made by `modularize`.

    Boundaries follow named sublayers, or are `ModuleBoundary` layers that the model's
    `call` applies. A subclassed model has no graph, so its modules are found by running
    it on a small batch: when it is wrapped, if it is built already, else when it is first
    trained or when you call `examine`.

    Args:
        base: The subclassed model. Its layers and weights are used, not copied.
        boundaries: Dict from the name of a sublayer to an objective, as in `modularize`
            (None only marks the place). Defaults to `None`: the boundaries that the
            model's `call` applies.
        training_mode: `TrainingMode` or its name, the mode to start in. Defaults to
            `"end_to_end"`.
        shared: Dict from the name of a sublayer that several modules use to the one that
            owns and trains it, as in `modularize`. Defaults to `None`: the last.

    Raises:
        TypeError: If `shared` is not a dict of names.
        ValueError: If a name is not that of exactly one sublayer, or if a boundary is
            inside a layer that runs its content in a loop; for a model that is built
            also as `examine`.
        NotImplementedError: If the Keras backend is neither TensorFlow nor JAX.

    Example:

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> class Net(keras.Model):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.code = keras.layers.Dense(4, name="code")
    ...         self.score = keras.layers.Dense(1, name="score")
    ...     def call(self, x):
    ...         return self.score(self.code(x))
    >>> model = e2e.modularize(Net(), ["code"])
    >>> model.examine(np.ones((2, 8)))
    >>> list(model.boundaries)
    ['code']
    """

    # Without a boundary there is one module, and no mode but end to end.
    _needs_boundary = True

    def __init__(
        self,
        base,
        boundaries=None,
        *,
        training_mode="end_to_end",
        shared=None,
        **kwargs,
    ):
        kwargs.setdefault("name", base.name)
        if base.dtype_policy.quantization_mode is None:
            kwargs.setdefault("dtype", base.dtype_policy)
        super().__init__(**kwargs)
        self.base = base
        self._shared, self._chosen_owners = check_shared(shared), {}
        self._modular = ModularState(TrainingMode.get(training_mode))
        sublayers = compat.all_layers(base)
        for layer in sublayers:
            inner = compat.all_layers(layer) if isinstance(layer, LOOPS) else []
            for boundary in inner:
                if isinstance(boundary, ModuleBoundary):
                    raise in_loop(boundary.module, layer)
        chosen = named_sublayers(base, boundaries or {})
        self.inserted = [
            ModuleBoundary(objective, name=layer_name(f"{module}_boundary"), module=module)
            for module, _, objective in chosen
        ]
        layers = [layer for _, layer, _ in chosen]
        following = dict(zip(map(id, layers), self.inserted, strict=True))
        # Which layers are tapped, and callables that undo it: not for Keras to track.
        self._tapped, self._undo = _Untracked(), _Untracked()
        self._example = _Untracked()
        for layer in {id(x): x for x in [*sublayers, *layers]}.values():
            boundary = following.get(id(layer))
            inner = compat.all_layers(layer)
            whole = not any(
                isinstance(x, ModuleBoundary) or id(x) in following for x in inner
            )
            if boundary is not None or (whole and takes_training(layer)):
                self._tapped.append((layer, boundary))
        self._attach()
        example = built_example(base)
        if example is not None:
            try:
                self.examine(example)
            except BaseException:
                self.unwrap()
                raise

    def examine(self, x: Any) -> None:
        """Finds the modules by running the model on a small batch.

        `fit` calls it with the first examples of its data. Call it yourself to look at
        `modules` before, or if `fit` cannot take examples without using them up (a
        generator). It has no side effects: no weight, statistic or seed is updated.

        Args:
            x: Inputs of a few examples, as the model takes them.

        Raises:
            ValueError: If a boundary cannot be placed where it is, or `shared` does not
                fit. The error names the layers or variables.
        """
        self._attach()
        with strategy_scope(self):  # the heads are made here
            self._examine(x)
        self._example[:] = [tree.map_structure(describe, x)]
        self.built = True

    def _examine(self, x: Any) -> None:
        found = examine(
            *(self.base, self.inserted, self._modular, x, self._needs_boundary),
            shared=self._shared,
        )
        outputs = tree.flatten(found.outputs)
        keys = targets.output_keys(found.outputs, None)
        self._set_modules(
            found.specs,
            [spec_of(t) for t in tree.flatten(x)],
            [
                OutputSpec(key, spec_of(t), None)
                for key, t in zip(keys, outputs, strict=True)
            ],
        )
        self._shared, self._chosen_owners = found.shared, found.chosen
        self._modular.predictions = tree.map_structure(spec_of, found.outputs)
        self._modular.single_output = not tree.is_nested(found.outputs)
        self._modular.mode = self.check_training_mode(self._modular.mode)

    @property
    def shared(self) -> dict[str, str]:
        """Dict from layers that several modules use to the module that trains each.

        As it was given until the modules are known.
        """
        return {**self._chosen_owners, **self._shared}

    def _attach(self) -> None:
        """Taps the layers of the subclassed model, unless that is done."""
        if not self._undo:
            self._undo.extend(
                tap_layer(layer, boundary) for layer, boundary in self._tapped
            )

    def unwrap(self) -> keras.Model:
        """Returns the subclassed model, with nothing of keras_e2e attached to its layers.

        The wrapper stays usable: it attaches itself anew when it is called.
        """
        for undo in reversed(self._undo):
            undo()
        del self._undo[:]
        return self.base

    def fit(self, x=None, *args, **kwargs):
        """As `keras.Model.fit`; finds the modules first if they are not known."""
        self._examine_first(x)
        return super().fit(x, *args, **kwargs)

    def train_on_batch(self, x, *args, **kwargs):
        """As `keras.Model.train_on_batch`; finds the modules first if need be."""
        self._examine_first(x)
        return super().train_on_batch(x, *args, **kwargs)

    def _examine_first(self, x: Any) -> None:
        if self._modular.modules:
            return
        example = first_examples(x)
        if example is None:
            raise ValueError(
                f"{self.name!r}: the modules of a subclassed model are found by "
                "running it on a few examples, which cannot be taken from "
                f"{type(x).__name__} without using them up. Call "
                "model.examine(x_of_a_few_examples) before fit."
            )
        self.examine(example)

    def _plain_call(self, inputs, training, mask, **kwargs):
        self._attach()
        if mask is not None and "mask" in inspect.signature(self.base.call).parameters:
            kwargs["mask"] = mask
        if takes_training(self.base):
            kwargs["training"] = training
        return self.base(inputs, **kwargs)

    def _sequential_call(self, inputs, module, mask, **kwargs):
        # Code cannot be cut: what comes later is run too, but not used.
        outputs = self._plain_call(inputs, True, mask, **kwargs)
        return None if self._modular.stops_before_outputs() else outputs

    def _load_weights(self, load, filepath, skip_mismatch, **kwargs):
        held = held_paths(filepath)
        if "base" in held or not held:
            load(filepath, skip_mismatch=skip_mismatch, **kwargs)
            return
        self.base.load_weights(filepath, skip_mismatch=skip_mismatch, **kwargs)
        tell_of_heads(self.name, filepath, self.boundaries)

    def get_config(self):
        config = {"name": self.name, "trainable": self.trainable}
        config["base"] = keras.saving.serialize_keras_object(self.base)
        config["boundaries"] = {
            b.module: None
            if b.objective is None
            else keras.saving.serialize_keras_object(b.objective)
            for b in self.inserted
        }
        config["training_mode"] = self.training_mode.get_config()
        if self._shared:
            config["shared"] = dict(self._shared)
        config["names"] = [layer.name for layer in compat.all_layers(self.base)]
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["base"] = keras.saving.deserialize_keras_object(config["base"])
        _name_as_saved(config["base"], config.pop("names", []))
        config["boundaries"] = {
            name: keras.saving.deserialize_keras_object(objective)
            if isinstance(objective, dict)
            else objective
            for name, objective in config["boundaries"].items()
        }
        return cls(**config)

    def get_build_config(self):
        return {"example": self._example[0]} if self._example else None

    def build_from_config(self, config):
        if config and "example" in config and not self._modular.modules:
            self.examine(from_description(config["example"]))


def _name_as_saved(base: keras.Model, names: list[str]) -> None:
    """Gives layers the names that boundaries were given by: Keras may have counted on."""
    layers = compat.all_layers(base)
    if len(layers) == len(names):
        for layer, name in zip(layers, names, strict=True):
            if layer.name != name:
                layer.name = name


class _Untracked(list):
    """A list that Keras leaves as it is (it tracks plain lists only by type)."""
