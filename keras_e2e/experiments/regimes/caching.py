"""What modules upstream return for each example, computed once and kept."""

import contextlib
import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import tree

from keras_e2e.experiments.regimes.cache_store import ActivationStore
from keras_e2e.experiments.regimes.data import Data
from keras_e2e.models.modular_model import ModularModel
from keras_e2e.models.sub_models import UpstreamModel
from keras_e2e.modules.ownership import owned_by
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.utils.state import preserve_state


class _Kept(NamedTuple):
    """A tensor that is kept for each example: an activation or a mask.

    Attributes:
        rows: Integer, how many rows of it belong to one example: more than one where a
            module makes a batch of items of a batch of sequences.
        shape: Tuple, the shape of a row.
        dtype: Its NumPy dtype.
    """

    rows: int
    shape: tuple[int, ...]
    dtype: Any

    def size(self) -> int:
        """How many bytes it takes for one example."""
        return self.rows * math.prod(self.shape) * self.dtype.itemsize


class UpstreamCache:
    """Keeps what the modules upstream of the one that trains return, stage by stage.

    What can be refused is refused when it is made, before anything is trained.

    Args:
        model: The compiled modular model.
        stages: The stages of the plan.
        data: What they are trained on.
        validation: What they are validated on, or None.
        cache: `"memory"`, or the path of a folder.

    Attributes:
        bytes: Integer, the most that it takes at a time.

    Raises:
        ValueError: If no stage can be cached, if what is returned for an example is not
            the same each time, or if the folder is full or not writable.
    """

    def __init__(
        self, model: Any, stages: list, data: Data, validation: Data | None, cache: Any
    ):
        names = _cached_modules(model, stages, cache)
        self.parts: dict[str, UpstreamModel] = {}
        with preserve_state(model):
            for name in names:
                part = self.parts[name] = model._stages.upstream_model(name)
                part.compile(run_eagerly=model.run_eagerly, jit_compile=model.jit_compile)
            self.training = _CachedData(self.parts, data, training=True)
            self.validating = None
            if validation is not None:
                self.validating = _CachedData(self.parts, validation, training=False)
        self.sources = [each for each in (self.training, self.validating) if each]
        self.bytes = sum(each.bytes for each in self.sources)
        with contextlib.ExitStack() as made:
            for each in self.sources:
                each.store = ActivationStore(cache, each.bytes)
                made.callback(each.store.close)
            self.stores = made.pop_all()

    def batches(self, mode: TrainingMode, order: int) -> Any:
        """The batches that a stage trains on; None if the mode needs all modules.

        Args:
            mode: The mode of the stage.
            order: Integer seed of the order of the examples.
        """
        part = self.parts.get(str(mode.module))
        if mode.name != "sequential" or part is None:
            return None
        return self.training.joined(part, self.training.data.numbered_batches(order))

    def validation(self, mode: TrainingMode) -> Any:
        """The batches that a stage which has `batches` is validated on, or None."""
        if self.validating is None:
            return None
        part = self.parts[str(mode.module)]
        return self.validating.joined(part, self.validating.data.numbered_epoch())

    def close(self) -> None:
        """Gives memory and files back."""
        self.stores.close()


class _CachedData:
    """Data with what the modules upstream return for them.

    Args:
        parts: Dict from each module that is trained so to what computes the activations.
        data: The data.
        training: Boolean, whether they are trained on.
    """

    store: ActivationStore

    def __init__(self, parts: dict[str, UpstreamModel], data: Data, *, training: bool):
        data.check_repeats()
        self.data, self.is_training = data, training
        _, x = next(data.one_pass(training))
        self.kept = {name: _examined(part, x) for name, part in parts.items()}
        sizes = [sum(k.size() for c in kept for k in c) for kept in self.kept.values()]
        self.bytes = max(sizes) * data.examples

    def joined(self, part: UpstreamModel, numbered: Any) -> Any:
        """Computes what is kept for a module and joins it to batches with numbers."""
        kept = self.kept[part.module]
        flat = [each for crossing in kept for each in crossing]
        shapes = [(self.data.examples, each.rows, *each.shape) for each in flat]
        self.store.allocate(shapes, [each.dtype for each in flat])
        for rows, x in self.data.one_pass(self.is_training):
            for i, value in enumerate(_flat(part.predict_on_batch(x))):
                self.store.write(i, rows, value.reshape(len(rows), *shapes[i][1:]))
        readers = self.store.readers()

        def with_upstream(rows, data):
            found = iter([read(rows) for read in readers])
            returned = [[next(found) for _ in crossing] for crossing in kept]
            x, *targets = data
            return part.with_upstream(x, returned), *targets

        return numbered.map(with_upstream).prefetch(4)


class Unchanged(keras.callbacks.Callback):
    """Raises RuntimeError where what was kept of the modules upstream is no longer so.

    That is where a callback switches the mode within a cached stage, or sets weights of
    these modules: looked at when a window begins.
    """

    def __init__(self, mode: TrainingMode, part: UpstreamModel):
        super().__init__()
        self.mode, self.part = mode, part
        self.weights = part.get_weights()

    def on_train_batch_begin(self, batch, logs=None):
        found = self.model.training_mode
        if found != self.mode:
            raise RuntimeError(
                f"cache: a callback switched the training mode from '{self.mode}' to "
                f"'{found}' within a stage that trains on cached activations. Leave that "
                "callback out, make two stages of this one, or use cache=None."
            )
        if batch == 0 and not all(map(_equal, self.weights, self.part.get_weights())):
            raise RuntimeError(
                f"cache: a callback set weights of modules upstream of "
                f"{self.part.module!r} within a stage that trains on their cached "
                "activations. Load weights before training, leave that callback out, or "
                "use cache=None."
            )


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _cached_modules(model: Any, stages: list, cache: Any) -> list[str]:
    """The modules that train on cached activations; raises ValueError if none can."""
    if not isinstance(model, ModularModel):
        raise ValueError(
            f"cache: {model.name!r} wraps a subclassed model, or one cut inside of a "
            "layer: there is no graph, and all of it runs in each step. Use cache=None, or "
            "build the model from layers (keras.Input ... keras.Model)."
        )
    strategy = getattr(model, "distribute_strategy", None)  # on JAX there is none
    replicas = getattr(strategy, "num_replicas_in_sync", 1)
    if replicas > 1:
        raise ValueError(
            f"cache: {model.name!r} is trained on {replicas} replicas, each on a part of a "
            "batch, for which nothing is kept. Use cache=None, or make the model without a "
            "strategy."
        )
    modes = [model.check_training_mode(s.mode) for s in stages if s.downstream_of is None]
    named = [m.module for m in modes if m.name == "sequential" and m.module]
    names = [n for n in dict.fromkeys(named) if model._stages.modules_before(n)]
    if not names:
        raise ValueError(
            f"cache={cache!r}: no stage of the plan trains a module alone that has others "
            "upstream. Their modes: "
            f"{[str(mode) for mode in modes]}. Use cache=None, or a plan such as 'greedy'."
        )
    if type(model).train_step is not ModularModel.train_step:
        raise ValueError(
            f"cache: {type(model).__name__} has a train_step of its own, which would be "
            "given batches with cached activations in them. Use cache=None, or leave the "
            "step to ModularModel."
        )
    for name in names:
        _refuse_what_changes(model, name)
        _refuse_what_is_shared(model, name)
    return names


def _refuse_what_changes(model: Any, name: str) -> None:
    """Raises ValueError where a step runs the modules upstream on data of its own."""
    modules = {module.name: module for module in model.modules}
    objective, entering = modules[name].objective, modules[name].inputs
    unseen = model._stages.modules_before(name) - {*entering}
    looks_back = objective is not None and objective.requires_earlier and unseen
    if objective is not None and (objective.extra_inputs() or looks_back):
        raise ValueError(
            f"cache: the objective of boundary {name!r}, {objective.name!r}, makes inputs "
            "of its own at each step (augmented views, say) or sees what all modules "
            "upstream return, for which they have to run. Use cache=None, or an objective "
            "that takes the module's activation alone."
        )
    for before in model._stages.modules_before(name):
        if before not in entering and modules[before].boundary.noise:
            raise ValueError(
                f"cache: boundary {before!r} adds noise, anew at each step, to what other "
                f"modules upstream of {name!r} are given. Use cache=None, or "
                f"ModuleBoundary(noise=0.0) there."
            )


def _refuse_what_is_shared(model: Any, name: str) -> None:
    """Raises ValueError where a module upstream uses what this module trains."""
    modules = {module.name: module for module in model.modules}
    trained = {id(v) for v in modules[name].trainable_variables}
    for before in sorted(model._stages.modules_before(name)):
        for variable in modules[before].borrowed:
            if id(variable) in trained:
                fix = owned_by(model.modules, before, [name])
                raise ValueError(
                    f"cache: module {before!r} uses {variable.path!r}, which {name!r} owns "
                    f"and trains, so what it returns changes. Use cache=None, or {fix}."
                )


def _examined(part: UpstreamModel, x: Any) -> list[list[_Kept]]:
    """What of the modules upstream is kept, found by running them on a batch.

    Raises:
        ValueError: If they return something else the next time, or if what they return
            for an example depends on the others in its batch.
    """
    count = len(tree.flatten(x)[0])
    found = part.predict_on_batch(x)
    again = _flat(part.predict_on_batch(x))
    # In another place and company: the last example many times, then the first.
    order = np.where(np.arange(count) < -(-count // 2), count - 1, 0)
    moved = _flat(part.predict_on_batch(tree.map_structure(lambda t: t[order], x)))
    others = iter(zip(again, moved, strict=True))
    kept = []
    for boundary, crossing in zip(part.boundaries, found, strict=True):
        kept.append(
            [_kept(boundary, np.asarray(v), *next(others), order) for v in crossing]
        )
    return kept


def _kept(boundary: str, value: Any, again: Any, moved: Any, order: np.ndarray) -> _Kept:
    count = len(order)
    if not np.array_equal(value, again, equal_nan=value.dtype.kind == "f"):
        raise ValueError(
            f"cache: what boundary {boundary!r} returns for the same inputs is not the "
            "same each time: a layer upstream draws at random, or counts, in inference "
            "mode, too. Use cache=None, or let that layer do so only if `training` is true."
        )
    rows, left = divmod(len(value), count)
    if not left:
        by_example = value.reshape(count, rows, -1)[order]
        if _close(by_example, moved.reshape(by_example.shape)):
            return _Kept(rows, value.shape[1:], value.dtype)
    raise ValueError(
        f"cache: what boundary {boundary!r} returns for an example depends on the other "
        f"examples of its batch (shape {value.shape} for {count} examples). Use "
        "cache=None, or set the boundary where the first axis is that of the examples."
    )


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are equal up to rounding, which the order of rows may change."""
    rounding = 1e-4 if a.dtype in ("float32", "float64") else 1e-2
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    scale = np.nanmax(np.abs(a), initial=0.0)
    return np.allclose(a, b, rtol=rounding, atol=rounding * scale, equal_nan=True)


def _flat(returned: Any) -> list[np.ndarray]:
    return [np.asarray(value) for crossing in returned for value in crossing]
