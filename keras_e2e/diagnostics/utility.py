"""What the task loses without a module's weights, or without training them."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_e2e.diagnostics.idle import IDLE
from keras_e2e.diagnostics.on_demand import OnDemand, check_weights
from keras_e2e.diagnostics.plateau import UNMOVED, fallen
from keras_e2e.utils.state import freeze, preserve_state
from keras_e2e.utils.validation import check_integer, is_number


class ResetUtility(OnDemand):
    """How much the task loss rises when one module's weights are reset.

    The experiment of Zhang et al. 2019, "Are all layers created equal?" (arXiv
    1902.01996), module by module and without retraining: re-initialization with the
    weights that the model began with, re-randomization with `"shuffled"`. They found
    layers that can be reset at hardly any cost, and others on which everything depends.
    The loss is that of `model.evaluate`, penalties included.

    Args:
        start: What a module is reset to. `"shuffled"`: each weight's own entries in a
            random order, which keeps their distribution and works for any model. Or the
            weights of the model at an earlier time, as returned by `model.get_weights()`.
            Defaults to `"shuffled"`.
        seed: Integer seed for the random order. Defaults to 0.
        batch_size: Integer or `None`: batch size of the evaluation. Defaults to `None`,
            meaning 32.

    Raises:
        ValueError: If an argument is invalid. From `measure`: if the weights in `start`
            do not match the model's.

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
    formula = "task loss with the module's weights reset - task loss"
    interpretation = "about 0: what the module has learned is not used"
    unit = "loss"
    source = "Zhang et al. 2019 (arXiv 1902.01996)"
    requires_targets = True

    def __init__(
        self,
        start: str | Sequence[np.ndarray] = "shuffled",
        *,
        seed: int = 0,
        batch_size: int | None = None,
    ):
        who = type(self).__name__
        self.start = _checked(start, ("shuffled",), who)
        check_integer(f"{who}: seed", seed, 0)
        self.seed, self.batch_size = int(seed), _batch_size(batch_size, who)

    def compute(self, model, x, y, sample_weight):
        if not isinstance(self.start, str):
            check_weights(self.start, model, self.name)
        data = (x, y, sample_weight)
        before = _loss(model, data, self.batch_size)
        found = {}
        for module in self.each(model.modules):
            if not module.variables:
                continue
            with preserve_state(model):
                _reset(model, module, self.start, self.seed)
                found[module.name] = _loss(model, data, self.batch_size) - before
        return found


class FrozenUtility(OnDemand):
    """The share of what training achieves that is lost if one module is frozen.

    The model is trained for some steps as it is, then once more for each module with that
    module frozen: the same start, batches and random numbers, in the present training
    mode. With `L` the task loss of `model.evaluate` on held-out examples, the utility is
    `(L_frozen - L_trained) / (L_start - L_trained)`. At 0 training does as well without
    training this module, so it is idle; at 1 nothing is learned without it; below 0
    training it does harm. Differences of a few percent are chance. NaN where the loss
    falls by less than a tenth even if every module is trained.

    A model that was not trained yet starts from random weights. For one that was trained,
    `start="shuffled"` asks whether the others can learn to do without what the module
    holds. It continues the experiment of Zhang et al. 2019, "Are all layers created
    equal?" (arXiv 1902.01996), who reset single layers after training, and train no more.
    In a wide network on an easy task each module may be idle as long as the others are
    trained.

    The statistics of a normalization layer are still updated, and the module's auxiliary
    head is still trained: they are not its weights. The cost is one short training, and
    one more for each module.

    Args:
        steps: Integer: training steps of each run. Defaults to 300.
        start: What the module is frozen at: `"present"`, its weights as they are;
            `"shuffled"`, each weight's own entries in a random order; or the weights of
            the model at an earlier time, as returned by `model.get_weights()`. `L_start`
            is the loss with the module set so. Defaults to `"present"`.
        held_out: Float, 0 or larger and below 1: the share of the examples, drawn at
            random, that no run is trained on and that the losses are computed on. With 0
            they are computed on the training examples. Defaults to 0.25.
        seed: Integer seed for the draw, the order of the examples and `"shuffled"`.
            Defaults to 0.
        batch_size: Integer or `None`: batch size of training and evaluation. Defaults to
            `None`, meaning 32.

    Raises:
        ValueError: If an argument is invalid. From `measure`: if there are too few
            examples to hold some out, or the weights in `start` do not match the model's.

    Example:

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="code"),
    ...                          keras.layers.Dense(1, name="y")])
    >>> model = e2e.modularize(base, ["code"])
    >>> model.compile("sgd", "mse", jit_compile=False)
    >>> utility = e2e.diagnostics.FrozenUtility(steps=5)
    >>> found = utility.measure(model, np.ones((8, 2)), np.ones(8), verbose=0)
    >>> list(found["frozen_utility"])
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
        batch_size: int | None = None,
    ):
        who = type(self).__name__
        check_integer(f"{who}: steps", steps, 1)
        check_integer(f"{who}: seed", seed, 0)
        if not (is_number(held_out) and 0.0 <= held_out < 1.0):
            raise ValueError(
                f"{who}: held_out={held_out!r}: expected a share of the examples, 0 or "
                "larger and below 1."
            )
        self.start = _checked(start, ("present", "shuffled"), who)
        self.steps, self.held_out = int(steps), held_out
        self.seed, self.batch_size = int(seed), _batch_size(batch_size, who)

    def compute(self, model, x, y, sample_weight):
        if not isinstance(self.start, str):
            check_weights(self.start, model, self.name)
        data = (x, y, sample_weight)
        count = len(next(a for a in tree.flatten(x) if a is not None))
        order = np.random.default_rng(self.seed).permutation(count)
        held = round(self.held_out * count)
        if self.held_out and not 0 < held < count:
            raise ValueError(
                f"{self.name}: held_out={self.held_out:g} of {count} examples leaves none "
                "to train on, or none held out. Give more examples, or held_out=0."
            )
        shown = _rows(data, order[held:])
        judged = _rows(data, order[:held]) if held else data
        batches = _RandomBatches(shown, self.batch_size, self.steps, self.seed)

        def train():
            model.fit(batches, shuffle=False, verbose=0)
            return _loss(model, judged, self.batch_size)

        with preserve_state(model):
            trained = train()
        found = {}
        for module in self.each(model.modules):
            if not module.trainable_variables:
                continue
            with preserve_state(model):
                if not (isinstance(self.start, str) and self.start == "present"):
                    _reset(model, module, self.start, self.seed)
                start = _loss(model, judged, self.batch_size)
                with freeze(model, module.trainable_variables):
                    frozen = train()
            if np.isfinite(start) and fallen(trained, start, UNMOVED):
                found[module.name] = (frozen - trained) / (start - trained)
        return found


class _RandomBatches(keras.utils.PyDataset):
    """A number of batches of one size, in an order that depends on the seed only."""

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


def _batch_size(batch_size: int | None, who: str) -> int:
    """A valid batch size; 32, as in Keras, for None."""
    if batch_size is None:
        return 32
    check_integer(f"{who}: batch_size", batch_size, 1)
    return int(batch_size)


def _checked(start: Any, known: tuple[str, ...], who: str) -> Any:
    """A `start` that is a known word or a list of arrays."""
    if isinstance(start, str):
        if start in known:
            return start
    elif isinstance(start, list | tuple):
        return start
    raise ValueError(
        f"{who}: start={start!r}: expected one of {list(known)}, or a list of weights as "
        "model.get_weights() returns it."
    )


def _reset(model: Any, module: Any, start: Any, seed: int) -> None:
    """Sets the module's weights: shuffled, or to those of an earlier time."""
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
