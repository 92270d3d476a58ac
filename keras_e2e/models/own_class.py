"""Modular models of a class of the user's: its methods and attributes come along.

A graph of layers may be of a class that has more than the graph: a `fit` that prepares raw
data, a `generate`, a preprocessor among its attributes. Its modular model is of a class
made of both, in which the methods of the modular model stand in front of those of the
user's class, and these in front of Keras's.
"""

import functools
from collections.abc import Mapping
from typing import Any

import keras

from keras_e2e.models.modular_model import ModularModel
from keras_e2e.models.rewiring import graph_operations
from keras_e2e.models.structure import as_it_is, structure, without_boundaries
from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.utils import compat
from keras_e2e.utils.compat import own
from keras_e2e.utils.graphs import share_dtype_policy, strategy_scope


def modular_graph(
    model: keras.Model,
    inserted: Mapping[int, ModuleBoundary],
    modular: type[ModularModel] = ModularModel,
    **kwargs: Any,
) -> Any:
    """The modular model of a graph of layers, with new boundaries in it.

    Args:
        model: A Functional model or built Sequential.
        inserted: New boundaries by the `id` of the layer that they follow.
        modular: `ModularModel`, or a subclass of it, for models of Keras's own classes.
            Defaults to `ModularModel`.
        **kwargs: Further arguments of `ModularModel`.

    Raises:
        ValueError: As `ModularModel`, and if the class of the model has attributes that
            a modular model has with another meaning.
    """
    inputs, outputs = structure(model, inserted)
    kwargs["name"] = model.name
    if isinstance(model, OwnClass):  # more boundaries
        kwargs["whole"] = _Whole(model._own.base)
        made = type(model)(inputs, outputs, attributes=attributes_of(model), **kwargs)
    elif keeps_class(model):
        attributes = attributes_of(model)
        _refuse_taken(model)
        classes: list[Any] = [modular, type(model)]
        joined = _joined(*classes)
        kwargs["whole"] = _Whole(model)
        made = joined(inputs, outputs, attributes=attributes, **kwargs)
    else:
        made = modular(inputs, outputs, **kwargs)
    share_dtype_policy(model, made)
    return made


def keeps_class(model: keras.Model) -> bool:
    """Whether the modular model of a model that is not modular is of its class, too.

    A Sequential is not made of inputs and outputs, so its class cannot be joined.
    """
    graph = compat.is_functional(model) and own.has_own_class(model)
    return graph and not isinstance(model, keras.Sequential | ModularModel)


class _Whole:
    """The model that a modular model was made of.

    Attributes:
        base: The model: its class and its graph.
    """

    def __init__(self, base: keras.Model):
        self.base = base
        self._twin: keras.Model | None = None

    def stock(self, attributes: dict[str, Any], keep: bool) -> keras.Model:
        """A new model of the class of the base, over its layers.

        Args:
            attributes: The attributes of the class.
            keep: Whether the boundaries of the base itself stay.
        """
        base = self.base
        repeat = as_it_is if keep else without_boundaries
        inputs, outputs = repeat(base)
        made: Any = own.new_like(base)
        _take(made, attributes)
        own.init_graph(made, inputs, outputs, name=base.name)
        share_dtype_policy(base, made)
        return made

    def config(self, attributes: dict[str, Any]) -> dict[str, Any]:
        """What the base would be saved as, if it had these attributes."""
        if self._twin is None:
            self._twin = self.stock(attributes, keep=True)
        _take(self._twin, attributes)
        return keras.saving.serialize_keras_object(self._twin)


@keras.saving.register_keras_serializable("keras_e2e")
class OwnClass:
    """What the classes made of `ModularModel` and a class of the user's have in common.

    Args:
        inputs: As in `keras.Model`.
        outputs: As in `keras.Model`.
        name: As in `keras.Model`.
        whole: The `_Whole` that the model is made of.
        attributes: Dict of the attributes of the user's class.
        **kwargs: As in `ModularModel`.
    """

    _own: _Whole

    def __init__(
        self, inputs, outputs, name=None, *, whole=None, attributes=None, **kwargs
    ):
        if whole is None:
            raise ValueError(
                f"{type(self).__name__} cannot be made of a graph alone (as "
                "keras.models.clone_model does): the attributes of its class would be "
                "lost. For a copy with new weights: keras.saving.deserialize_keras_object("
                "keras.saving.serialize_keras_object(model))."
            )
        # Before the graph, as constructors do: Keras lists the weights in this order.
        _take(self, attributes)
        self._own = whole
        super().__init__(inputs, outputs, name=name, **kwargs)

    def _make_graph(self, *args, **kwargs):
        own.init_graph(self, *args, **kwargs)

    def _stock_model(self) -> keras.Model:
        with strategy_scope(self):
            return self._own.stock(attributes_of(self), keep=False)

    def get_config(self):
        config = {
            "base": self._own.config(attributes_of(self)),
            "training_mode": self.training_mode.get_config(),
            "remat": self.remat,
            "shared": dict(self._shared),
            "placed": keras.saving.serialize_keras_object(self._placed),
            "names": [o.name for _, o in graph_operations(self._own.base)],
        }
        if self.dtype_policy.quantization_mode is None:
            config["dtype"] = keras.saving.serialize_keras_object(self.dtype_policy)
        return config

    def compile_from_config(self, config):
        # `from_config` has set both, by the names that the layers have now.
        own = ("training_mode", "remat")
        super().compile_from_config({k: v for k, v in config.items() if k not in own})

    @classmethod
    def from_config(cls, config):
        base = keras.saving.deserialize_keras_object(config["base"])
        if "dtype" in config:
            base.dtype_policy = keras.dtype_policies.get(config["dtype"])
        operations = [operation for _, operation in graph_operations(base)]
        placed = keras.saving.deserialize_keras_object(config["placed"])
        inserted = {id(operations[n]): b for n, b in placed.by_place().items()}
        for boundary in inserted.values():
            boundary.shared = {}  # noted anew
        # The names of boundaries are kept, others are those of the new layers.
        names = dict(zip(config["names"], (o.name for o in operations), strict=True))
        modules = names | {b.module: b.module for b in inserted.values()}
        mode = config["training_mode"]
        return modular_graph(
            base,
            inserted,
            training_mode={**mode, "module": modules.get(mode["module"])},
            remat=[modules[name] for name in config["remat"]] or False,
            shared={names[k]: modules[v] for k, v in config["shared"].items()} or None,
        )


@functools.cache
def _joined(modular: Any, own_class: Any) -> Any:
    """The class of modular models of a class of the user's."""
    name = f"Modular{own_class.__name__}"
    made = type(name, (OwnClass, modular, own_class), {"__doc__": own_class.__doc__})
    # Saved under the name of what loads it, which is registered again as that.
    register = keras.saving.register_keras_serializable("keras_e2e", "OwnClass")
    register(made)
    register(OwnClass)
    return made


def attributes_of(model: Any) -> dict[str, Any]:
    """The attributes that a model has of its class, in the order in which it got them."""
    known = own.keras_attributes() | _ours()
    return {name: value for name, value in vars(model).items() if name not in known}


@functools.cache
def _ours() -> frozenset[str]:
    """The names of the attributes of modular models."""
    x = keras.Input((1,), name="x")
    crossed = ModuleBoundary(None, name="boundary")(keras.layers.Identity(name="a")(x))
    model = ModularModel(x, keras.layers.Identity(name="b")(crossed), name="model")
    return frozenset(vars(model)) | {"_own"}


def _take(model: Any, attributes: dict[str, Any]) -> None:
    """Sets attributes that are not there, or are others."""
    for name, value in attributes.items():
        if name not in vars(model) or vars(model)[name] is not value:
            setattr(model, name, value)


def _refuse_taken(model: keras.Model) -> None:
    """Raises ValueError if a class uses names that modular models use otherwise."""
    ours, theirs = set(_ours()), set(vars(model))
    for cls in ModularModel.__mro__:
        if cls.__module__.startswith("keras_e2e."):
            ours |= set(vars(cls))
    for cls in type(model).__mro__:
        if not cls.__module__.startswith(("keras.", "tensorflow.", "builtins")):
            theirs |= set(vars(cls))
    known = set(dir(keras.Model)) | own.keras_attributes()
    taken = sorted(name for name in (ours & theirs) - known if not name.startswith("__"))
    if taken:
        raise ValueError(
            f"{type(model).__name__} ({model.name!r}) has {taken} among its attributes and "
            "methods, which are other things in a modular model. Rename them."
        )
