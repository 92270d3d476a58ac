"""What the task loses without a module's weights, or without training them."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_e2e.diagnostics.on_demand import OnDemand, refuse_unfit
from keras_e2e.diagnostics.verdicts import IDLE, UNMOVED, fallen
from keras_e2e.utils.state import preserve_state


class ResetUtility(OnDemand):
    """How much the task loss rises when one module's weights are set back.

    The experiment of Zhang et al. 2019, "Are all layers created equal?" (arXiv
    1902.01996), module by module and without retraining: re-initialisation with the
    weights that the model began with, re-randomisation with `"shuffled"`. They found
    layers that can be set back at hardly any cost, and such on which all depends. The loss
    is that of `model.evaluate`, penalties included.

    Args:
        start: what a module is set back to. `"shuffled"`: each weight's own entries in a
            random order, which keeps their distribution and works for any model. Or the
            weights of the model at an earlier time, as `model.get_weights()` gave them.
        seed: of the random order.
        batch_size: of the evaluation.

    Raises:
        ValueError: another `start`; when measured: weights that do not fit the model.

    Example:

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="code"),
    ...                          keras.layers.Dense(1, name="y")])
    >>> model = e2e.modularize(base, ["code"])
    >>> model.compile("sgd", "mse")
    >>> began = model.get_weights()
    >>> utility = e2e.diagnostics.ResetUtility(began)
    >>> utility.measure(model, np.ones((8, 2)), np.ones(8))
    {'reset_utility': {'code': 0.0, 'y': 0.0}}
    """

    name = "reset_utility"
    formula = "task loss with the module's weights set back - task loss"
    interpretation = "about 0: what the module has learned is not used"
    unit = "loss"
    source = "Zhang et al. 2019 (arXiv 1902.01996)"
    requires_targets = True

    def __init__(
        self,
        start: str | Sequence[np.ndarray] = "shuffled",
        *,
        seed: int = 0,
        batch_size: int = 32,
    ):
        self.start = _checked(start, ("shuffled",), type(self).__name__)
        self.seed, self.batch_size = seed, batch_size

    def compute(self, model, x, y, sample_weight):
        if not isinstance(self.start, str):
            refuse_unfit(self.start, model, self.name)
        data = (x, y, sample_weight)
        before = _loss(model, data, self.batch_size)
        found = {}
        for module in model.modules:
            if not module.variables:
                continue
            with preserve_state(model):
                _set_back(model, module, self.start, self.seed)
                found[module.name] = _loss(model, data, self.batch_size) - before
        return found


class FrozenUtility(OnDemand):
    """The share of what training achieves that is lost if one module is not trained.

    The model is trained for some steps as it is, then once more for each module with that
    module's weights held fixed: the same start, batches and random numbers, in the
    training mode in force. With L the task loss of `model.evaluate` on examples that were
    held out, the utility is `(L_frozen - L_trained) / (L_start - L_trained)`. 0: training
    does as well without it, the module is idle. 1: nothing is learned without it. Below
    0, training it does harm; single percents are chance. NaN where the loss falls by less
    than a tenth even if all is trained.

    For a model that was not trained yet, "as it is" means random. Of one that was, ask
    with `"shuffled"` whether the rest can learn to do without what the module holds. It
    continues the experiment of Zhang et al. 2019, "Are all layers created equal?" (arXiv
    1902.01996), who set single layers back after training, and train no more. In a wide
    network on an easy task each module may be idle as long as the others are trained.

    The statistics of a normalisation go on moving, and a head of the module goes on
    learning: they are not its weights. It costs as many short trainings as there are
    modules, and one.

    Args:
        steps: training steps of each run.
        start: what the module is held fixed at: `"present"`, its weights as they are;
            `"shuffled"`, each weight's own entries in a random order; or the weights of
            the model at an earlier time, as `model.get_weights()` gave them. L_start is
            the loss with the module set so.
        held_out: the share of the examples, drawn at random, that no run is trained on
            and the losses are of. With 0 they are of the examples trained on.
        seed: of the draw, of the order of the examples, and of `"shuffled"`.
        batch_size: of training and evaluation.

    Raises:
        ValueError: an argument out of its range; when measured: too few examples to hold
            some out, or weights that do not fit the model.

    Example:

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="code"),
    ...                          keras.layers.Dense(1, name="y")])
    >>> model = e2e.modularize(base, ["code"])
    >>> model.compile("sgd", "mse", jit_compile=False)
    >>> utility = e2e.diagnostics.FrozenUtility(steps=5)
    >>> list(utility.measure(model, np.ones((8, 2)), np.ones(8))["frozen_utility"])
    ['code', 'y']
    """

    name = "frozen_utility"
    formula = "(L_frozen - L_trained) / (L_start - L_trained)"
    interpretation = "about 0: training does as well without training this module"
    unit = "fraction"
    healthy = (IDLE, 1.0)
    source = "after Zhang et al. 2019 (arXiv 1902.01996)"
    requires_targets = True

    def __init__(
        self,
        steps: int = 300,
        start: str | Sequence[np.ndarray] = "present",
        *,
        held_out: float = 0.25,
        seed: int = 0,
        batch_size: int = 32,
    ):
        for what, value in (("steps", steps), ("batch_size", batch_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"FrozenUtility({what}={value!r}): expected a whole number, 1 or "
                    "larger."
                )
        if not 0.0 <= held_out < 1.0:
            raise ValueError(
                f"FrozenUtility(held_out={held_out!r}): expected a share of the examples, "
                "0 or larger and below 1."
            )
        self.start = _checked(start, ("present", "shuffled"), type(self).__name__)
        self.steps, self.held_out = steps, held_out
        self.seed, self.batch_size = seed, batch_size

    def compute(self, model, x, y, sample_weight):
        if not isinstance(self.start, str):
            refuse_unfit(self.start, model, self.name)
        data = (x, y, sample_weight)
        count = len(next(a for a in tree.flatten(x) if a is not None))
        order = np.random.default_rng(self.seed).permutation(count)
        held = round(self.held_out * count)
        if self.held_out and not 0 < held < count:
            raise ValueError(
                f"{self.name}: {self.held_out:g} of {count} examples cannot be held out. "
                "Give more examples, or held_out=0."
            )
        shown = _rows(data, order[held:])
        judged = _rows(data, order[:held]) if held else data
        batches = _Batches(shown, self.batch_size, self.steps, self.seed)

        def train():
            model.fit(batches, shuffle=False, verbose=0)
            return _loss(model, judged, self.batch_size)

        with preserve_state(model):
            trained = train()
        found = {}
        for module in model.modules:
            if not module.trainable_variables:
                continue
            with preserve_state(model):
                if not (isinstance(self.start, str) and self.start == "present"):
                    _set_back(model, module, self.start, self.seed)
                start = _loss(model, judged, self.batch_size)
                with _held_fixed(model, module):
                    frozen = train()
            if np.isfinite(start) and fallen(trained, start, UNMOVED):
                found[module.name] = (frozen - trained) / (start - trained)
        return found


class _Batches(keras.utils.PyDataset):
    """So many batches of one size, in an order that depends on the seed only."""

    def __init__(self, data: tuple, batch_size: int, steps: int, seed: int):
        super().__init__()
        self.data, self.steps = data, steps
        count = len(next(a for a in tree.flatten(data[0]) if a is not None))
        self.size = min(batch_size, count)
        random = np.random.default_rng(seed)
        rounds = -(-steps * self.size // count)
        order = np.concatenate([random.permutation(count) for _ in range(rounds)])
        self.order = order[: steps * self.size].reshape(steps, self.size)

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        batch = _rows(self.data, self.order[index])
        return keras.utils.pack_x_y_sample_weight(*batch)


def _rows(data: tuple, rows: np.ndarray) -> tuple:
    return tree.map_structure(lambda a: None if a is None else a[rows], data)


def _loss(model: Any, data: tuple, batch_size: int) -> float:
    """The task loss, in inference mode."""
    x, y, weight = data
    numbers = model.evaluate(
        x, y, sample_weight=weight, batch_size=batch_size, verbose=0, return_dict=True
    )
    return float(numbers["loss"])


@contextlib.contextmanager
def _held_fixed(model: Any, module: Any) -> Iterator[None]:
    """No weight of the module is trained while this is open."""
    state, variables = model._modular, module.trainable_variables
    functions, state.functions = state.functions, {}  # traced for what is trainable
    try:
        for variable in variables:
            variable.trainable = False
        yield
    finally:
        for variable in variables:
            variable.trainable = True
        state.functions = functions


def _checked(start: Any, known: tuple[str, ...], who: str) -> Any:
    """A `start` that is a known word or a list of arrays."""
    if isinstance(start, str):
        if start in known:
            return start
    elif isinstance(start, list | tuple):
        return start
    raise ValueError(
        f"{who}(start={start!r}): expected one of {list(known)}, or a list of weights as "
        "model.get_weights() gives it."
    )


def _set_back(model: Any, module: Any, start: Any, seed: int) -> None:
    """Gives the module's weights other values: shuffled, or those of an earlier time."""
    if isinstance(start, str):
        place = [m.name for m in model.modules].index(module.name)
        random = np.random.default_rng([seed, place])
        for variable in module.variables:
            value = np.array(ops.convert_to_numpy(variable))
            variable.assign(random.permutation(value.ravel()).reshape(value.shape))
        return
    mine = {id(variable) for variable in module.variables}
    for variable, value in zip(model.weights, start, strict=True):
        if id(variable) in mine:
            variable.assign(value)
