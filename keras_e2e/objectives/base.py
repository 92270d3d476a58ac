"""The contract of a local objective."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from numbers import Real
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_e2e.utils import compat
from keras_e2e.utils.validation import check_reach


class Output(NamedTuple):
    """One output of the model, as a local objective sees it.

    Attributes:
        name: the output's name, as in `model.output_names`.
        y: its target, or None when none was given.
        sample_weight: its sample weights, or None.
        loss: `loss(y_true, y_pred, sample_weight)`, the compiled loss of this
            output times its loss weight, reduced to a scalar; None when the
            model was compiled without a loss for it.
        compiled_loss: the loss as it was given to `compile`.
    """

    name: str
    y: Any
    sample_weight: Any
    loss: Callable | None
    compiled_loss: Any = None


class Batch(NamedTuple):
    """What a local objective may look at, beside its activation.

    Attributes:
        x: the model's inputs.
        outputs: the model's outputs with their targets and compiled losses.
        labels: the intermediate labels given in `y` under the boundary's name,
            or None.
        sample_weight: weights of shape `(batch,)` for this objective, or None.
        module_input: what the module itself was given, gradient stopped.
        extra_activations: this boundary's activation in the further passes that the objective
            asked for, by the keys of `LocalObjective.extra_inputs`.
        predicted_gradient: what a `Signal` predicted at the boundary, else None.
        training: whether heads run in training mode. False where losses are only
            looked at, in `evaluate_modules`.
    """

    x: Any
    outputs: tuple[Output, ...]
    labels: Any
    sample_weight: Any
    module_input: Any
    extra_activations: Mapping[Hashable, Any] = {}
    predicted_gradient: Any = None
    training: bool = True


class OutputSpec(NamedTuple):
    """Shape of one model output and how the model ends there.

    Attributes:
        name: the output's name.
        spec: a `keras.KerasTensor` with the output's shape and dtype.
        ending: maps a head's raw values to what the model puts out (a softmax,
            say), or None when the model does not show how it ends.
    """

    name: str
    spec: keras.KerasTensor
    ending: Callable | None


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """What is known of the model when an objective builds its head.

    Attributes:
        module_input: a `keras.KerasTensor` (or several, in a list): what the
            module is given.
        inputs: the model's inputs, flat.
        outputs: one `OutputSpec` for each output.
        following: for each module that comes next the `keras.KerasTensor`s at its end:
            the activation of its boundary, or the model's outputs.
        index: the module's position, from 0.
        num_modules: how many modules the model has.
        following_blocks: the blocks of layers that come after the boundary (`blocks.Block`); empty
            where the model shows no graph.
        name: the module's name.
    """

    module_input: Any
    inputs: list
    outputs: tuple[OutputSpec, ...]
    following: tuple = ()
    index: int = 0
    num_modules: int = 2
    following_blocks: tuple = ()
    name: str = ""


class Exit(NamedTuple):
    """A prediction that an objective's head makes: a place to leave the model early.

    Attributes:
        output: name of the model output that is predicted; None for intermediate labels.
        network: the head's layer, up to raw values; None where the activation itself is
            the prediction.
        ending: what comes on top of the raw values (a softmax, say); None for nothing.
    """

    output: str | None
    network: Any
    ending: Callable | None

    def predict(self, activation: Any, training: bool = False) -> Any:
        """The prediction from an activation."""
        raw = activation
        if self.network is not None:
            raw = self.network(activation, training=training)
        if self.ending is None:
            return raw
        prediction = self.ending(raw)
        compat.set_mask(prediction, compat.mask_of(raw))
        return prediction


class BatchMean(keras.losses.Loss):
    """Averages per-example values as Keras averages a compiled loss.

    Sample weights, and under a distribution strategy the division by the
    number of replicas, are then Keras's own.
    """

    def call(self, y_true, y_pred):
        return y_pred


class LocalObjective(keras.layers.Layer):
    """The loss that trains one module from its own activation.

    A subclass implements `loss`. If it needs a head, it makes it in
    `build_head`. Being a Keras layer, what it assigns to itself is tracked,
    trained, saved and loaded; simple constructor arguments need no
    `get_config`.

    Args:
        weight: factor of the loss: a number, or a
            `keras.optimizers.schedules.LearningRateSchedule` over the steps in which
            the objective counted. It multiplies the mode's own weights.
        reach: over how many modules the gradient flows back in `local` mode, this one
            included: 1 trains the module alone, 2 also the one before it (overlapping
            local learning, Laskin et al. 2020), `"all"` everything before. None
            leaves it to the mode, `TrainingMode("local", reach=...)`, which says 1
            unless told otherwise.
        **kwargs: those of `keras.layers.Layer`.

    Attributes:
        needs: what must be in `y` for this objective: None (nothing),
            `"target"` (the model's own targets), `"labels"` (intermediate
            labels under the boundary's name), or a tuple of these. Checked before a
            step is taken.
        feedback_source: for objectives that send a signal of their own in place of a loss
            (`objectives.Signal`): where they listen. None for a loss.

    Raises:
        ValueError: a weight or a reach that is none.

    Example: keep activations sparse.

    >>> import keras, keras_e2e as e2e
    >>> class Sparse(e2e.objectives.LocalObjective):
    ...     def loss(self, activation, batch):
    ...         return keras.ops.abs(activation)
    >>> boundary = e2e.ModuleBoundary(Sparse(weight=0.1), name="code")
    """

    requires_labels: bool = False
    requires_targets: bool = False
    feedback_source: str | None = None
    built: bool

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        # Keras makes the config of a class without a `get_config` of its own, if all that
        # it was given is simple. A schedule is not, and `get_config` below adds it.
        if not isinstance(kwargs.get("weight", 1.0), Real):
            kwargs.pop("weight")
        return super().__new__(cls, *args, **kwargs)

    def __init__(self, *, weight: Any = 1.0, reach: int | str | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        kind = type(self).__name__
        schedule = isinstance(weight, keras.optimizers.schedules.LearningRateSchedule)
        if not schedule and not (
            isinstance(weight, Real) and 0 <= float(weight) < float("inf")
        ):
            raise ValueError(
                f"{kind}(weight={weight!r}): expected a finite number, 0 or larger, or a "
                "keras.optimizers.schedules.LearningRateSchedule."
            )
        self.weight = weight
        self.reach = check_reach(reach, kind)
        if schedule:
            # Not the optimizer's: on JAX a traced step would see that one stand still.
            self.weight_steps = self.add_weight(
                shape=(),
                initializer="zeros",
                trainable=False,
                dtype="float32",
                name="weight_steps",
            )

    def weight_now(self) -> Any:
        """The weight in force."""
        return (
            float(self.weight)
            if isinstance(self.weight, Real)
            else self.weight(self.weight_steps)
        )

    def advance_weight(self) -> None:
        """Counts a step in which the objective counted, if its weight has a schedule."""
        if not isinstance(self.weight, Real):
            self.weight_steps.assign(self.weight_steps + 1.0)

    @compat.default_config
    def get_config(self):
        # Only what was given: a subclass need not know these arguments.
        config = super().get_config()
        if not isinstance(self.weight, Real):
            config["weight"] = keras.saving.serialize_keras_object(self.weight)
        elif self.weight != 1.0:
            config["weight"] = float(self.weight)
        if self.reach is not None:
            config["reach"] = self.reach
        return config

    @classmethod
    def from_config(cls, config):
        if isinstance(config.get("weight"), dict):
            config = {
                **config,
                "weight": keras.saving.deserialize_keras_object(config["weight"]),
            }
        return super().from_config(config)

    def extra_inputs(self) -> Mapping[Hashable, Callable[[Batch], Any]]:
        """Further passes of the model that the loss looks at. The default asks for none.

        Returns:
            For each a key and a function from the batch to the inputs of that pass.
            Passes with equal keys are made once for all boundaries. The activations
            come back as `batch.extra_activations[key]`.
        """
        return {}

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        """Makes the variables of the head. The default makes none.

        Args:
            activation: shape and dtype of the boundary's activation.
            model: shapes around it.
        """

    def loss(self, activation: Any, batch: Batch) -> Any:
        """Per-example loss values.

        Args:
            activation: the boundary's activation, `(batch, ...)`.
            batch: labels, inputs and weights that go with it.

        Returns:
            A tensor whose first axis is the batch. The model averages it with
            the sample weights; never average over the batch yourself, the
            loss would then be too large under a distribution strategy. Where
            it has the axes of the activation's Keras mask (a value for each
            token, say), masked positions do not count.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement loss(activation, batch)."
        )

    def compute_loss(self, activation: Any, batch: Batch) -> Any:
        """The scalar that is added to the model's loss.

        Override this instead of `loss` only to reduce in another way; the
        result must be scaled as `keras.losses.Loss` scales it.
        """
        values = ops.cast(self.loss(activation, batch), keras.config.floatx())
        # Weights of examples weigh all that an example's loss consists of.
        weight, mask = batch.sample_weight, compat.mask_of(activation)
        kept = 1 if weight is None else len(weight.shape)
        if mask is not None and _begins_with(values.shape, mask.shape):
            kept = max(kept, len(mask.shape))
            while weight is not None and len(weight.shape) < kept:
                weight = ops.expand_dims(weight, -1)  # Keras would not broadcast it
        else:
            mask = None
        if len(values.shape) > kept:
            values = ops.mean(values, axis=tuple(range(kept, len(values.shape))))
        compat.set_mask(values, mask)
        return BatchMean()(values, values, weight)

    def exits(self, outputs: tuple[Output, ...]) -> tuple[Exit, ...]:
        """What the head predicts, for early exit and evaluation. The default: nothing.

        Args:
            outputs: the model's outputs with the losses that were compiled for them.
        """
        return ()

    def head_metrics(self) -> list[keras.metrics.Metric]:
        """The metrics that were asked for during `fit`. The default: none.

        `compute_loss` updates them where the objective counts, `measure` elsewhere.
        """
        return []

    def measure(self, activation: Any, batch: Batch) -> None:
        """Updates the metrics asked for in inference mode, without a loss.

        Called where the boundary is crossed and the objective does not count: in
        evaluation, and in modes that leave it out.
        """

    def build_for(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        """Builds the head once; called by the model, never by the user."""
        if not self.built:
            self.build_head(activation, model)
            self.built = True


def _begins_with(shape: tuple, axes: tuple) -> bool:
    """Whether the first axes of a shape are these; unknown sizes fit any."""
    return len(shape) >= len(axes) and all(
        a is None or b is None or a == b for a, b in zip(shape, axes, strict=False)
    )
