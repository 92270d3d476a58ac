"""Rematerialization: modules whose activations are recomputed for their gradients."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from keras_e2e.modules.graph import OUTPUT, Graph
from keras_e2e.modules.module import Module
from keras_e2e.modules.stretches import Stretch, schedule, stretches
from keras_e2e.utils import compat
from keras_e2e.utils.compat import calls, recompute
from keras_e2e.utils.validation import did_you_mean

Remat = bool | Sequence[str]


def chosen_modules(remat: Any, modules: list[Module], model: str) -> tuple[str, ...]:
    """The names of the modules that `remat` asks for, in their order.

    Args:
        remat: Boolean, for all or none, or a list of names of modules.
        modules: The modules of the model.
        model: String, the model's name, for errors.

    Raises:
        TypeError: If it is neither.
        ValueError: If a name is not that of a module.
    """
    names = [module.name for module in modules]
    if isinstance(remat, bool):
        return tuple(names) if remat else ()
    if isinstance(remat, str | Mapping) or not isinstance(remat, Iterable):
        raise TypeError(
            f"{model}: remat={remat!r}; expected True, False or a list of names of modules "
            f"among {names}."
        )
    wanted = list(remat)
    for name in wanted:
        if name not in names:
            raise ValueError(
                f"{model}: remat names {name!r}, which is not a module."
                f"{did_you_mean(name, names)} The modules are {names}."
            )
    return tuple(name for name in names if name in wanted)


class Recomputation:
    """Runs a graph so that some modules keep little for their gradients.

    A module is divided into stretches (`modules.stretches`). Of a stretch the step keeps
    what enters and leaves it; the rest is computed a second time when its gradients are
    taken. Variables, seeds among them, read in the second run as they did in the first, and
    are assigned once, so weights and statistics are what they would be without it.

    Args:
        model: A Functional model: a modular one, or a part of one.
        names: The names of the modules to recompute.
        last: String, the name of the model's last module.

    Raises:
        NotImplementedError: If the Keras backend is not TensorFlow.
        ValueError: If a layer of such a module cannot be computed twice.
    """

    def __init__(self, model: keras.Model, names: Sequence[str], last: str):
        if keras.config.backend() != "tensorflow":
            raise NotImplementedError(
                f"{model.name}: remat={list(names)} needs the tensorflow backend. Found: "
                f"{keras.config.backend()!r}. There weights would not be what they are "
                "without it, to the bit. Leave `remat` out, or set "
                "KERAS_BACKEND=tensorflow before importing keras."
            )

        self.model = model
        graph = Graph(model)

        def called(end: str) -> str:
            return last if end == OUTPUT else end

        found = stretches(
            graph,
            lambda end: called(end) in names,
            lambda end, call: _adds_loss(called(end), call),
        )
        self._units = schedule(graph, found)
        self.stretches = [unit for unit in self._units if isinstance(unit, Stretch)]

    def count(self, end: str) -> int:
        """The number of stretches of a module, by the name of its boundary."""
        return sum(stretch.module == end for stretch in self.stretches)

    def call(
        self, inputs: Any, mask: Any, stopping: Iterable[str] | None = None, **context: Any
    ) -> Any:
        """Calls the model.

        Args:
            inputs: As in the model's call.
            mask: As in the model's call.
            stopping: Names of the boundaries that stop the gradient. The gradients of what
                leads into them are taken at once, and so are those of the outputs: to drop
                the activations of the last stretch there would gain nothing. Defaults to
                `None`, all boundaries.
            **context: What the call hands to all layers, such as `training`.
        """
        at_once = None if stopping is None else {OUTPUT, *stopping}

        def run(values: dict[int, Any]) -> None:
            for unit in self._units:
                if not isinstance(unit, Stretch):
                    recompute.make_call(unit, values, context)
                elif unit.ends_module and (at_once is None or unit.module in at_once):
                    for call in unit.calls:
                        recompute.make_call(call, values, context)
                else:
                    _run_stretch(unit, values, context)

        return recompute.run_calls(self.model, inputs, mask, run)


class _Run:
    """What one pass over a stretch makes.

    Args:
        stretch: The `Stretch`.
        values: Dict from the `id` of symbolic tensors to what enters; the calls add to it.
        state: List of the values of its variables.
        context: Dict of what is handed to all layers.
    """

    def __init__(self, stretch: Stretch, values: dict[int, Any], state: Any, context: dict):
        scope = recompute.scope_of(stretch.variables, state)
        before = dict(scope.state_mapping)
        self._layers: list = []
        with scope:
            for call in stretch.calls:
                known = len(scope.losses)
                recompute.make_call(call, values, context)
                added = scope.losses[known:]
                self._layers += [call.operation] * len(added)
                recompute.forget_losses(call.operation, added)
        outputs = [values[id(tensor)] for tensor in stretch.outputs]
        masks = [compat.mask_of(output) for output in outputs]
        raw = [compat.logits_of(output) for output in outputs]
        now = [(v, scope.get_current_value(v)) for v in stretch.variables]
        now = [(v, value) for v, value in now if value is not before[id(v)]]
        self._assigned = [v for v, _ in now]
        # Positions of the outputs with a gradient, with a mask, and with logits under them.
        self._smooth = [i for i, t in enumerate(outputs) if _is_float(t)]
        self._masked = [i for i, mask in enumerate(masks) if mask is not None]
        self._raw = [i for i, t in enumerate(outputs) if raw[i] is not t]
        self.tensors = [
            *[outputs[i] for i in self._smooth],
            *[raw[i] for i in self._raw],
            *scope.losses,
        ]
        self.others = [
            *[t for t in outputs if not _is_float(t)],
            *[masks[i] for i in self._masked],
            *[value for _, value in now],
        ]

    def deliver(self, stretch: Stretch, tensors: list, others: list, values: dict) -> None:
        """Passes on what was returned in place of `tensors` and `others`.

        Args:
            stretch: The `Stretch`.
            tensors: List of what has gradients.
            others: List of what has none.
            values: Dict from the `id` of symbolic tensors to values, to be added to.
        """
        smooth, rest = iter(tensors), iter(others)
        places = range(len(stretch.outputs))
        found: dict[int, Any] = {i: next(smooth) for i in self._smooth}
        found.update({i: next(rest) for i in places if i not in found})
        for i in self._raw:
            found[i] = compat.with_logits(found[i], next(smooth))
        for i in self._masked:
            compat.set_mask(found[i], next(rest))
        for layer, penalty in zip(self._layers, smooth, strict=True):
            layer.add_loss(penalty)
        for variable, value in zip(self._assigned, rest, strict=True):
            variable.assign(value)
        values.update({id(stretch.outputs[i]): found[i] for i in places})


def _run_stretch(stretch: Stretch, values: dict[int, Any], context: dict[str, Any]) -> None:
    """Makes the calls of a stretch, to be made again when its gradients are taken."""
    entering = [values[id(tensor)] for tensor in stretch.inputs]
    masks = [compat.mask_of(tensor) for tensor in entering]
    state = [recompute.current_value(variable) for variable in stretch.variables]
    same_call = calls.call_context()
    runs: list[_Run] = []

    def run(*args):
        given = args[: len(entering)]
        for tensor, mask in zip(given, masks, strict=True):
            if mask is not None:
                compat.set_mask(tensor, mask)
        own = dict(zip(map(id, stretch.inputs), given, strict=True))
        with same_call():
            made = _Run(stretch, own, args[len(entering) :], context)
        runs.append(made)
        return made.tensors, made.others

    tensors, others = recompute.recomputed(run, [*entering, *state])
    runs[0].deliver(stretch, tensors, others, values)


def _is_float(tensor: Any) -> bool:
    return keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype))


def _adds_loss(module: str, call: Any) -> bool:
    """Whether a call of a layer adds a loss.

    Raises:
        ValueError: If the layer would not do the same a second time.
    """
    found: list[str] = []
    added: list = []
    variables = getattr(call.operation, "variables", [])

    def look(*tensors):
        values = dict(zip(map(id, inputs), tensors, strict=True))
        state = [recompute.current_value(variable) for variable in variables]
        scope = recompute.scope_of(variables, state)
        known, start = set(scope.state_mapping), recompute.stateful_operations(0)[0]
        with scope:
            recompute.make_call(call, values, {"training": True})
        added.extend(scope.losses)
        recompute.forget_losses(call.operation, scope.losses)
        kinds = recompute.stateful_operations(start)[1]
        if set(scope.state_mapping) - known:
            found.append("it assigns a variable that is not its own")
        if kinds:
            found.append(f"it has operations with a state of their own, {', '.join(kinds)}")
        return tensors

    inputs = list({id(tensor): tensor for tensor in call.inputs}.values())
    recompute.traced(look, inputs)
    if found:
        raise ValueError(
            f"remat: module {module!r} cannot be computed twice: layer "
            f"{call.operation.name!r} would not do the same again, because {found[0]}. "
            "Random numbers must come from a keras.random.SeedGenerator that is an "
            "attribute of the layer, and what a layer keeps must be Keras variables of its "
            "own. Change the layer, or leave the module out: remat=[names of others]."
        )
    return bool(added)
