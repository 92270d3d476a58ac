"""`estimate_memory`: what a training step takes, before anything is trained."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral
from typing import Any

import keras
from keras import tree

from keras_e2e.models.diagnosed import AnyGraph, wrapped
from keras_e2e.models.memory_estimate import MemoryEstimate
from keras_e2e.models.memory_figures import (
    estimate,
    gradients_wait,
    refuse_backend,
    refuse_strategy,
)
from keras_e2e.models.memory_inputs import input_specs
from keras_e2e.models.placement import DEFAULT_BALANCE, new_boundaries
from keras_e2e.models.rewiring import placed_boundaries, rewire
from keras_e2e.modules.call_costs import Balance, check_balance
from keras_e2e.modules.cut_points import most_cuts
from keras_e2e.modules.graph import Graph
from keras_e2e.trainers.modular_trainer import ModularTrainer
from keras_e2e.utils import compat
from keras_e2e.utils.state import preserve_everything
from keras_e2e.utils.validation import check_integer

# Numbers of modules that are looked at where none is asked for.
USUAL = (2, 4, 8)


def estimate_memory(
    model: keras.Model,
    *,
    batch_size: int | None = None,
    modules: int | Iterable[int] | None = None,
    balance: Balance = DEFAULT_BALANCE,
    input_shape: tuple[int, ...] | Mapping[str, tuple[int, ...]] | None = None,
) -> MemoryEstimate:
    """Estimates the memory that training takes, end to end and as modules.

    A training step is traced by TensorFlow for the batch size, and not run. From the trace
    follows what backpropagation keeps, and the most that is alive at a time if operations
    run in the order in which they are written. In local training a module's activations are
    gone before the next module makes its own. See `docs/memory.md` for how near that comes
    to what is measured.

    The model is not changed: everything is put back afterwards, to the bit. Heads of local
    objectives, penalties and the loss are taken to need nothing but what they are given.

    Args:
        model: A Keras model, modular or not, compiled or not: Functional, a built
            Sequential, or a subclassed one that is built.
        batch_size: Integer, the number of examples in a batch. Defaults to `None`, which
            means 32, as in Keras, or what the model is made for.
        modules: Integer or several of them, the numbers of modules to split the graph into,
            as `modularize(model, modules - 1)` splits it, in place of boundaries that it
            has. Defaults to `None`: the modules that the model has; for one without
            boundaries 2, 4 and 8, as far as there are cut points.
        balance: As in `modularize`. Defaults to `"memory"`.
        input_shape: Tuple, the shape of one example, where the model leaves sizes open;
            with several inputs a dict from name to tuple. Defaults to `None`.

    Returns:
        A `MemoryEstimate`: print it, or let a notebook show it.

    Raises:
        TypeError: If it is not a Keras model, or `modules` is not a number or several.
        ValueError: If sizes are missing or do not fit the model, if it cannot be cut into
            so many modules, if `balance` is unknown, if it is not built, or if it was made
            under a `tf.distribute` strategy.
        RuntimeError: If the Keras backend is not TensorFlow.

    Example:

    >>> import keras, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="code"),
    ...                          keras.layers.Dense(1, name="score")])
    >>> found = e2e.estimate_memory(base, batch_size=128, modules=2)
    >>> found.activations, [module.name for module in found.splits[0].modules]
    (2560, ['code', 'score'])
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"estimate_memory needs a keras.Model. Found: {type(model).__name__}. Give a "
            "Functional, Sequential or subclassed model."
        )
    refuse_backend("estimate_memory")
    refuse_strategy("estimate_memory", model)
    check_balance(balance)
    counts = _counts(modules)
    if isinstance(model, keras.Sequential) and not compat.is_functional(model):
        raise ValueError(
            f"estimate_memory: the Sequential model {model.name!r} is not built, so what "
            "it takes is not known. Start it with keras.Input(shape), or call "
            "model.build(input_shape)."
        )
    if isinstance(model, ModularTrainer) and not model._modular.modules:
        raise ValueError(
            f"estimate_memory: the modules of {model.name!r} are not known yet. Call "
            "model.examine(x) with a few examples."
        )
    with preserve_everything(model):
        inputs, size = input_specs(model, batch_size, input_shape)
        with _as_modular(model, inputs) as modular:
            plain = modular if counts is None else _plain(model, modular, counts)
            splits = _splits(modular, plain, counts, balance)
            found = estimate(plain, splits, inputs, size, gradients_wait(model))
    if plain is modular or not getattr(modular, "remat", None):
        return found
    left_out = (
        f"Without the remat of {model.name!r}, for other modules than its own. Leave "
        "`modules` out to have it in."
    )
    return found._replace(notes=(*found.notes, left_out))


def _counts(modules: Any) -> list[int] | None:
    """The numbers of modules that are asked for, in order; None for the usual ones."""
    if modules is None:
        return None
    several = [modules] if isinstance(modules, Integral) else modules
    if isinstance(several, str | Mapping) or not isinstance(several, Iterable):
        raise TypeError(
            f"modules={modules!r}: expected an integer or several, as in modules=[4, 8]."
        )
    found = sorted({check_integer("modules", each, 2) for each in several})
    if not found:
        raise ValueError(f"modules={modules!r}: name at least one number, or leave it out.")
    return found


@contextlib.contextmanager
def _as_modular(model: Any, inputs: Any) -> Iterator[Any]:
    """The model as a modular one; a model without boundaries has one module."""
    if isinstance(model, ModularTrainer):
        yield model
    elif compat.is_functional(model) and compat.has_stock_call(model):
        held = placed_boundaries(model)
        yield AnyGraph(*rewire(model, held, keep=True, flatten=True), name=model.name)
    else:
        code = wrapped(model, [], tree.map_structure(_example, inputs))
        try:
            yield code
        finally:
            code.unwrap()


def _example(spec: Any) -> Any:
    """A tensor of two examples, of the shape that is asked for."""
    return keras.ops.ones((2, *spec.shape[1:]), spec.dtype)


def _plain(model: Any, modular: Any, counts: list[int]) -> Any:
    """The graph without the boundaries that it has, and what they hold."""
    if not compat.is_functional(modular):
        raise ValueError(
            f"modules={counts}: the subclassed model {model.name!r} has no graph to choose "
            "cut points in. Give modularize(model, [...]) with names of its layers."
        )
    return AnyGraph(*rewire(modular, {}, keep=False, flatten=True), name=model.name)


def _splits(modular: Any, plain: Any, counts: list[int] | None, balance: Balance) -> list:
    """The modular models to look at, one for each number of modules."""
    if counts is None and modular._modular.boundary_ids:
        return [modular]
    if not compat.is_functional(modular):
        return []
    most = most_cuts(Graph(plain)) + 1
    if counts is None:
        counts = [count for count in USUAL if count <= most]
    elif counts[-1] > most:
        raise ValueError(
            f"modules={counts[-1]}: {modular.name!r} can be cut into at most {most} "
            "modules. Ask for fewer."
        )
    return [
        AnyGraph(
            *rewire(plain, new_boundaries(plain, count - 1, None, balance), keep=True),
            name=modular.name,
        )
        for count in counts
    ]
