"""A Keras model that acts: what its outputs are, and what it remembers."""

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_e2e.rewards.prediction import Predictor
from keras_e2e.rewards.spaces import Actions


class Decision(NamedTuple):
    """What a policy says of the present observations.

    Attributes:
        actions: Array `(num_envs, entries)`.
        outputs: Array `(num_envs, num_outputs)` of which they were drawn.
        values: Array `(num_envs,)`, the values of the observations; zeros of a model
            without a value.
    """

    actions: np.ndarray
    outputs: np.ndarray
    values: np.ndarray


class Policy:
    """Chooses actions by a model.

    Args:
        model: A Keras model with the outputs `policy` and, if there is a value, `value`.
        actions: The `Actions` of the environment.
        states: Dict from the name of an input to the name of the output that is given to
            it in the next step of the episode; empty for a model without memory.

    Raises:
        ValueError: If the model's inputs or outputs are not as described.
    """

    def __init__(
        self, model: keras.Model, actions: Actions, states: Mapping[str, str] | None
    ):
        self.model, self.actions = model, actions
        self._predict = Predictor(model)
        self.states = dict(states or {})
        self.carried: dict[str, np.ndarray] = {}
        self._inputs = _named_inputs(model) if self.states else {}
        self._observation = self._observation_input()
        self._checked = self._has_value = False
        self._others: list[str] = []
        # The name of the output of a model that has one alone.
        self._single: str | None = None

    def _observation_input(self) -> str | None:
        """The input that takes observations, if those of the model go by name."""
        if not self.states:
            return None
        if not self._inputs:
            raise ValueError(
                f"states={self.states} needs a model whose inputs have names: a "
                "functional model with a dict of inputs."
            )
        unknown = set(self.states) - set(self._inputs)
        rest = [name for name in self._inputs if name not in self.states]
        if unknown or len(rest) != 1:
            raise ValueError(
                f"states={self.states}: expected the names of all inputs of the "
                f"model but one, which takes the observations. The model's inputs are "
                f"{', '.join(self._inputs)}."
            )
        return rest[0]

    def begin(self, num_envs: int, where: np.ndarray | None = None) -> None:
        """Forgets what was before: new episodes begin.

        Args:
            num_envs: Integer, the number of environments.
            where: Boolean array, in which of them; None means in all.
        """
        for name in self.states:
            if where is None:
                shape = self._inputs[name].shape[1:]
                self.carried[name] = np.zeros((num_envs, *shape), "float32")
            else:
                self.carried[name] = np.where(
                    where.reshape(-1, *[1] * (self.carried[name].ndim - 1)),
                    0,
                    self.carried[name],
                ).astype("float32")

    def inputs(self, observations: Any, states: Mapping[str, Any]) -> Any:
        """Returns what the model is called with.

        Args:
            observations: Array `(num_envs, ...)`, or a dict of them; of a model with states
                `(num_envs, steps, ...)`.
            states: Dict from the name of an input to its array.
        """
        if self._observation is None:
            return observations
        return {self._observation: observations, **states}

    def decide(
        self, observations: Any, rng: np.random.Generator | None, remember: bool = True
    ) -> Decision:
        """Returns actions and values for observations.

        Args:
            observations: The present observations.
            rng: The generator that draws actions; None chooses the most likely.
            remember: Boolean, whether the model's states go on to this step.

        Raises:
            ValueError: If the outputs do not fit the actions, or are not finite.
        """
        rows = len(keras.tree.flatten(observations)[0])
        if self.states:
            observations = keras.tree.map_structure(lambda a: a[:, None], observations)
        found = self.named(self._predict(self.inputs(observations, self.carried)))
        # Under a strategy each device has answered for all of them.
        found = keras.tree.map_structure(lambda a: np.asarray(a)[:rows], found)
        if self.states and remember:
            self.carried = {k: found[v] for k, v in self.states.items()}
        outputs = np.asarray(found["policy"], "float32")
        values = np.asarray(found.get("value", np.zeros(rows)), "float64")
        if not self._checked:
            self._check(found, outputs, values)
        outputs = outputs.reshape(rows, -1)
        if not np.isfinite(outputs).all() or not np.isfinite(values).all():
            raise ValueError(
                "The model's outputs are not finite: training has diverged. Take a smaller "
                "learning rate or a global_clipnorm of 0.5 in the optimizer."
            )
        distribution = self.actions.distribution
        if rng is None:
            actions = distribution.mode(outputs)
        else:
            actions = distribution.sample(outputs, rng)
        return Decision(actions, outputs, values.reshape(-1))

    def named(self, outputs: Any) -> dict[str, Any]:
        """Returns the model's outputs by name.

        Args:
            outputs: What the model returned.

        Raises:
            ValueError: If there is none called `policy`.
        """
        if isinstance(outputs, Mapping):
            found = dict(outputs)
        elif isinstance(outputs, (list, tuple)):
            names = getattr(self.model, "output_names", None) or []
            found = dict(zip(names, outputs, strict=False))
        else:
            found = {"policy": outputs}
            self._single = (getattr(self.model, "output_names", None) or ["policy"])[0]
        missing = {"policy", *self.states.values()} - set(found)
        if missing:
            raise ValueError(
                f"The model has no output {' or '.join(map(repr, sorted(missing)))}; its "
                f"outputs are {', '.join(map(repr, found)) or 'without names'}. "
                "Expected keras.Model(inputs, {'policy': ..., 'value': ...})."
            )
        return found

    def targets(self, targets: Any, returns: Any, labels: Mapping[str, Any]) -> Any:
        """Returns what the model is trained on, by the names of its outputs.

        Args:
            targets: What the policy is trained on.
            returns: What values are trained on.
            labels: Dict from the name of a boundary to its labels.
        """
        if self._single is not None:
            return {self._single: targets, **labels} if labels else targets
        # Keras's metrics ask for targets of all outputs, also where none is measured.
        found = {name: np.zeros((len(targets), 1), "float32") for name in self._others}
        if self._has_value:
            found["value"] = returns
        return {**found, "policy": targets, **labels}

    def single_step(self, observations: Any) -> Any:
        """Returns the model's inputs for examples that are not of one episode."""
        if not self.states:
            return observations
        rows = len(keras.tree.flatten(observations)[0])
        states = {
            name: np.zeros((rows, *array.shape[1:]), array.dtype)
            for name, array in self.carried.items()
        }
        alone = keras.tree.map_structure(lambda a: a[:, None], observations)
        return self.inputs(alone, states)

    def fingerprint(self) -> list[int]:
        """Returns numbers that change where the model is trained, by whomever."""
        weights = map(keras.ops.convert_to_numpy, self.model.trainable_variables)
        return [zlib.crc32(weight.tobytes()) for weight in weights]

    def _check(self, found: dict[str, Any], outputs: np.ndarray, values: Any) -> None:
        axes = (1,) if self.states else ()
        if outputs.shape[1:-1] != axes or outputs.ndim < 2:
            expected = ("rows", *("steps" for _ in axes), self.actions.num_outputs)
            raise ValueError(
                f"The output 'policy' of the model has the shape {outputs.shape} for "
                f"{len(outputs)} observations. Expected ({', '.join(map(str, expected))}): "
                "put a keras.layers.Flatten() before its last Dense, or name the inputs of "
                "its memory in states."
            )
        self.actions.check_outputs(outputs.reshape(len(outputs), -1), "policy")
        if values.size != len(outputs):
            raise ValueError(
                f"The output 'value' of the model has the shape {values.shape}. Expected "
                "one number for each observation: keras.layers.Dense(1)."
            )
        self._has_value = "value" in found
        self._others = [name for name in found if name not in ("policy", "value")]
        self._checked = True


def _named_inputs(model: keras.Model) -> dict[str, Any]:
    """The inputs of a functional model by name; none of another."""
    struct = getattr(model, "input", None) if model.built else None
    if isinstance(struct, Mapping):
        return dict(struct)
    return {
        tensor.name: tensor for tensor in keras.tree.flatten(struct) if tensor is not None
    }
