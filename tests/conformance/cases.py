"""The registry: every objective and every quantity that the promises are tested on.

A new objective or quantity gets a line here; `test_registry.py` sees to it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_e2e as e2e
from keras_e2e.diagnostics import (
    CKA,
    Descent,
    DormantFraction,
    EffectiveRank,
    FrozenUtility,
    GradientSNR,
    GradRMS,
    JacobianSingularValues,
    LocalAlignment,
    LossCredit,
    ModuleLoss,
    NoiseScale,
    ProbeAccuracy,
    Reliability,
    ResetUtility,
    Rotation,
    SignalCoherence,
    SignalGain,
    Skill,
    UpdateRatio,
)
from keras_e2e.objectives import (
    BarlowTwins,
    DirectFeedbackAlignment,
    FeatureBank,
    FeedbackAlignment,
    ForwardForward,
    InfoNCE,
    InfoPro,
    IntermediateTarget,
    LocalObjective,
    Mixture,
    Prediction,
    PredSim,
    Reconstruction,
    SimilarityMatching,
    SupervisedContrastive,
    SyntheticGradient,
    Transport,
    VICReg,
    ViewContrast,
    heads,
)
from keras_e2e.objectives.heads.model_based import AugLocal, MomentumAuxiliary

from . import models


@keras.saving.register_keras_serializable("conformance")
class InputNorm(LocalObjective):
    """What a user might write: tell how large the module's input was."""

    def __init__(self, power=2.0, **kwargs):
        super().__init__(**kwargs)
        self.power = power

    def build_head(self, activation, model):
        self.head = keras.layers.Dense(1, dtype="float32")
        self.head.build((None, int(np.prod(activation.shape[1:]))))

    def loss(self, activation, batch):
        def rows(tensor):
            tensor = ops.cast(tensor, "float32")
            return ops.reshape(tensor, (ops.shape(tensor)[0], -1))

        size = ops.mean(ops.abs(rows(batch.module_input)) ** self.power, axis=1)
        told = self.head(rows(activation))[:, 0]
        return ops.square(told - ops.stop_gradient(size))


@keras.saving.register_keras_serializable("conformance")
def squared_error(y_true, y_pred):
    """A loss that a user wrote: a function, one value for each example."""
    return ops.mean(ops.square(ops.cast(y_true, y_pred.dtype) - y_pred), axis=-1)


@dataclass(frozen=True)
class ObjectiveCase:
    """One objective, on a model that it fits.

    Attributes:
        name: the test's id.
        make: makes the objective.
        model: the model's name in `models.BUILDERS`.
        hidden: activation function of the hidden layers.
        labels: makes the labels of a module from `(random, n, module)`.
        batch_statistics: whether an example's loss depends on the rest of its batch.
        draws: whether random numbers are drawn in a step. They are other ones under XLA
            than without.
        signal: whether it sends a signal in place of a loss, in `local` mode only.
    """

    name: str
    make: Callable[[], LocalObjective]
    model: str = "dense"
    hidden: str = "tanh"
    labels: Callable | None = None
    batch_statistics: bool = False
    draws: bool = False
    signal: bool = False

    @property
    def kind(self) -> str:
        """What comes before the variant in the name."""
        return self.name.split("-")[0]

    @property
    def mode(self) -> str:
        """The mode in which most is computed: all losses, or the signals."""
        return "local" if self.signal else "deep_supervision"

    def base(self, seed=1) -> keras.Model:
        """The stock model."""
        return models.build(self.model, seed, hidden=self.hidden)

    def modular(self, mode: Any = "local", seed=1) -> keras.Model:
        """The modular model, with an objective of its own at each boundary."""
        objectives = {name: self.make() for name in models.CUTS}
        return e2e.modularize(self.base(seed), objectives, training_mode=mode)

    def compiled(self, mode: Any = "local", optimizer=None, seed=1, **kwargs):
        """The modular model, compiled."""
        model = self.modular(mode, seed)
        optimizer = optimizer or keras.optimizers.SGD(0.1, momentum=0.9)
        model.compile(optimizer, **models.losses(self.model), **kwargs)
        return model

    def data(self, n=22, seed=0) -> tuple[Any, Any]:
        """`x` and `y`, the labels of the boundaries included."""
        y = models.targets(self.model, n, seed)
        if self.labels is not None:
            random = np.random.RandomState(2000 + seed)
            y = y if isinstance(y, dict) else {"out": y}
            y = {**y, **{m: self.labels(random, n, m) for m in models.CUTS}}
        return models.inputs(self.model, n, seed), y


def _classes(count):
    return lambda random, n, module: random.randint(0, count, n)


def _some_classes(count):
    return lambda random, n, module: random.randint(-2, count, n)


def _map_of_classes(count):
    sizes = {"first": 6, "second": 3}
    return lambda random, n, module: random.randint(
        -1, count, (n, sizes[module], sizes[module])
    )


def _zoom():
    """An augmentation without randomness: what is compared is the arithmetic."""
    return keras.layers.Rescaling(0.5, offset=0.1, name="zoom")


_seeded = keras.initializers.GlorotUniform


def _own_head():
    return keras.Sequential(
        [
            keras.layers.Dense(4, activation="tanh", kernel_initializer=_seeded(1)),
            keras.layers.Dense(models.CLASSES, kernel_initializer=_seeded(2)),
        ]
    )


def _momentum(**options):
    # Without ReLUs behind normalized values: finite differences.
    return Prediction(MomentumAuxiliary(head="gap_linear", **options))


def _decaying():
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 10, 0.1)
    return Mixture({"reconstruction": 0.5, "pred": 1.0}, weight=schedule)


def _some_numbers(count):
    def labels(random, n, module):
        numbers = random.randn(n, count).astype("float32")
        numbers[random.rand(n) < 0.3] = np.nan
        numbers[0, 0] = np.nan  # one number is missing: so is the label
        return numbers

    return labels


OBJECTIVES = [
    ObjectiveCase("prediction", Prediction),
    ObjectiveCase("prediction-linear", lambda: Prediction("linear"), "conv"),
    ObjectiveCase("prediction-gap_linear", lambda: Prediction("gap_linear"), "conv"),
    ObjectiveCase("prediction-mlp", lambda: Prediction("mlp")),
    ObjectiveCase(
        "prediction-conv1", lambda: Prediction("conv1"), "conv", batch_statistics=True
    ),
    ObjectiveCase(
        "prediction-conv_mlp", lambda: Prediction("conv_mlp"), "conv", batch_statistics=True
    ),
    ObjectiveCase("prediction-own-head", lambda: Prediction(_own_head())),
    ObjectiveCase("prediction-auglocal", lambda: Prediction(AugLocal()), "deep"),
    ObjectiveCase("prediction-momentum", _momentum, "deep"),
    ObjectiveCase(
        "prediction-momentum-scale", lambda: _momentum(learnable_scale=True), "deep"
    ),
    ObjectiveCase(
        "prediction-one-output", lambda: Prediction(output_name="kind"), "two_outputs"
    ),
    ObjectiveCase("prediction-all-outputs", Prediction, "two_outputs"),
    ObjectiveCase("prediction-mse", lambda: Prediction(loss="mse"), "regression"),
    ObjectiveCase(
        "prediction-own-function",
        lambda: Prediction(loss=squared_error),
        "regression",
    ),
    ObjectiveCase(
        "prediction-on-logits",
        lambda: Prediction(
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            activation="linear",
        ),
    ),
    ObjectiveCase("target", IntermediateTarget, hidden="softmax", labels=_classes(5)),
    ObjectiveCase(
        "target-head", lambda: IntermediateTarget(head="mlp", units=4), labels=_classes(4)
    ),
    ObjectiveCase(
        "target-head-conv",
        lambda: IntermediateTarget(head="gap_linear", units=4),
        "conv",
        labels=_classes(4),
    ),
    ObjectiveCase(
        "target-missing", IntermediateTarget, hidden="softmax", labels=_some_classes(5)
    ),
    ObjectiveCase(
        "target-per-position",
        lambda: IntermediateTarget(head="linear", units=4, per_position=True),
        "conv",
        labels=_map_of_classes(4),
    ),
    ObjectiveCase(
        "target-numbers-missing",
        lambda: IntermediateTarget(loss="mse"),
        labels=_some_numbers(5),
    ),
    ObjectiveCase("reconstruction", Reconstruction),
    ObjectiveCase(
        "reconstruction-conv",
        lambda: Reconstruction(head="decoder"),
        "conv",
        batch_statistics=True,
    ),
    ObjectiveCase("reconstruction-model_input", lambda: Reconstruction(of="model_input")),
    ObjectiveCase(
        "reconstruction-model_input-conv",
        lambda: Reconstruction(of="model_input"),
        "conv",
        batch_statistics=True,
    ),
    ObjectiveCase(
        "reconstruction-denoising",
        lambda: Reconstruction(
            of="model_input", loss="binary_crossentropy", corrupt=_zoom(), std=0.1, mean=0.5
        ),
    ),
    ObjectiveCase("sim", SimilarityMatching, batch_statistics=True),
    ObjectiveCase("predsim-conv", PredSim, "conv", batch_statistics=True),
    ObjectiveCase(
        # No ReLU in the head: projections near zero have no direction in half precision.
        "supcon",
        lambda: SupervisedContrastive("linear", temperature=0.5),
        batch_statistics=True,
    ),
    ObjectiveCase(
        "infopro-conv",
        lambda: InfoPro(std=0.1, mean=0.5, label=(1.0, 1.0), reconstruction=(2.0, 1.0)),
        "conv",
        batch_statistics=True,
    ),
    ObjectiveCase("feature_bank", lambda: FeatureBank(6, head="linear"), "conv"),
    ObjectiveCase("transport", lambda: Transport(tau=0.5)),
    ObjectiveCase("transport-conv", Transport, "conv"),
    ObjectiveCase("mixture-schedule", _decaying),
    # Without ReLUs, of few dimensions and a mild temperature: finite differences.
    ObjectiveCase(
        "barlow_twins",
        lambda: BarlowTwins(_zoom(), head="linear", projection_dim=8),
        batch_statistics=True,
    ),
    ObjectiveCase(
        "vicreg",
        lambda: VICReg(_zoom(), head="linear", projection_dim=8),
        batch_statistics=True,
    ),
    ObjectiveCase(
        "view_contrast",
        lambda: ViewContrast(_zoom(), head="linear", projection_dim=8, temperature=0.5),
        batch_statistics=True,
    ),
    ObjectiveCase(
        "infonce",
        lambda: InfoNCE(num_steps=2, num_negatives=4, seed=1),
        "conv",
        batch_statistics=True,
        draws=True,
    ),
    ObjectiveCase("forward_forward", lambda: ForwardForward(seed=1), draws=True),
    ObjectiveCase("synthetic_gradient", SyntheticGradient, signal=True),
    ObjectiveCase(
        "synthetic_gradient-conv",
        lambda: SyntheticGradient(conditional=False, head="linear"),
        "conv",
        signal=True,
    ),
    ObjectiveCase("feedback_alignment", FeedbackAlignment, signal=True),
    ObjectiveCase("direct_feedback", DirectFeedbackAlignment, "conv", signal=True),
    ObjectiveCase("user-written", lambda: InputNorm(power=1.5)),
]
# One for each class of objective, and for each head that keeps state of its own: what a
# run in a process of its own, on two devices or on JAX, tries. By name, for making an
# objective starts TensorFlow, and its devices are then what they are.
DISTINCT = [
    case
    for i, case in enumerate(OBJECTIVES)
    if case.kind not in {before.kind for before in OBJECTIVES[:i]}
    or case.name in ("prediction-auglocal", "prediction-momentum", "target-missing")
    or case.name == "prediction-momentum-scale"
]
BY_NAME = {case.name: case for case in OBJECTIVES}
# With each kind of head, and with losses in several passes: what XLA and mixed precision
# try. The rest of the registry varies what an objective predicts, not how it computes.
COMPUTED = [
    case
    for case in OBJECTIVES
    if case in DISTINCT
    or case.name.removeprefix("prediction-") in heads.KINDS
    or case.name in ("prediction-own-head", "reconstruction-conv", "target-per-position")
    or case.name in ("prediction-on-logits", "reconstruction-denoising")
]

QUANTITIES = {
    "loss": ModuleLoss,
    "skill": Skill,
    "grad_rms": GradRMS,
    "update_ratio": UpdateRatio,
    "signal_gain": SignalGain,
    "gradient_snr": GradientSNR,
    "descent": Descent,
    "signal_coherence": SignalCoherence,
    "dormant_fraction": DormantFraction,
    "loss_credit": LossCredit,
    "local_alignment": LocalAlignment,
    "reliability": Reliability,
    "noise_scale": NoiseScale,
    "probe_accuracy": ProbeAccuracy,
    "effective_rank": EffectiveRank,
    "rotation": Rotation,
}
# Measured on demand: from the weights of the model at an earlier time.
ON_DEMAND = {
    "reset_utility": lambda earlier: ResetUtility(),
    "frozen_utility": lambda earlier: FrozenUtility(3, batch_size=8),
    "jacobian_singular_values": lambda earlier: JacobianSingularValues(2, 2),
    "cka": CKA,
}

# On JAX `test_processes.py` repeats these tests, without the variants.
TRIED = OBJECTIVES if keras.backend.backend() == "tensorflow" else DISTINCT
each_loss = pytest.mark.parametrize(
    "case", [c for c in TRIED if not c.signal], ids=lambda c: c.name
)
each_computed = pytest.mark.parametrize(
    "case", [c for c in COMPUTED if c in TRIED], ids=lambda c: c.name
)
each_distinct = pytest.mark.parametrize("case", DISTINCT, ids=lambda c: c.name)
each_objective = pytest.mark.parametrize("case", TRIED, ids=lambda c: c.name)
each_quantity = pytest.mark.parametrize("quantity", QUANTITIES)
each_module = pytest.mark.parametrize("module", models.CUTS)


def quantities() -> list:
    """A fresh instance of every quantity that is measured whenever the callback does."""
    return [make() for make in QUANTITIES.values() if make.schedule is None]


def enough_for(case) -> list:
    """Those that are not expensive; GradientSNR on one objective only.

    It computes with what GradRMS reads, so other objectives show nothing more, and its
    graph is larger than that of the rest of the step.
    """
    return [
        q
        for q in quantities()
        if q.name not in ("gradient_snr", "descent") or case.name == "prediction"
    ]


def everything() -> list:
    """A fresh instance of every quantity."""
    return [make() for make in QUANTITIES.values()]


class Diagnose(keras.callbacks.Callback):
    """Computes quantities at the steps that `due` names; at all by default."""

    def __init__(self, due=lambda step: True, quantities=quantities):
        super().__init__()
        self.due = due
        self.quantities = quantities

    def on_train_begin(self, logs=None):
        self.recorder = self.model.instrument(self.quantities())

    def on_train_batch_begin(self, batch, logs=None):
        if self.due(batch):
            self.model.request_diagnostics([q.name for q in self.recorder.quantities])


def only(module: str | None) -> e2e.TrainingMode:
    """Local mode in which only one module's objective counts, or none at all.

    A model refuses it, as nothing would train some modules: see `force_mode`.
    """
    return e2e.TrainingMode(
        "local", weights={name: float(name == module) for name in models.CUTS}
    )


def force_mode(model, mode) -> None:
    """Puts a mode in force that the model may refuse, to take a loss apart."""
    model._modular.mode = e2e.TrainingMode.get(mode)


def fit(model, x, y, **kwargs):
    """One epoch in the order given, in batches of 8."""
    kwargs = {"batch_size": 8, "epochs": 1, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(x, y, **kwargs)


def seeds(model) -> list:
    """The states of the model's random generators."""
    weights = {id(v) for v in model.weights}
    return [v for v in model.variables if id(v) not in weights and "seed" in v.path]


def weights(model) -> list[np.ndarray]:
    """Every weight of the model, heads included."""
    return values(model.weights)


def values(variables) -> list[np.ndarray]:
    """The values of variables."""
    # By way of a tensor: NumPy does not take a number mirrored over devices.
    return [np.array(ops.convert_to_numpy(ops.convert_to_tensor(v))) for v in variables]


class Start:
    """Where a compiled model stands, to train it from there again without a new trace."""

    def __init__(self, model):
        self.model = model
        self.kept = self._variables()
        self.values = values(self.kept)

    def _variables(self) -> list:
        return [*self.model.variables, *self.model.optimizer.variables]

    def restore(self) -> None:
        """Puts every variable back; those that the optimizer has made since begin at 0."""
        for variable, value in zip(self.kept, self.values, strict=True):
            variable.assign(value)
        kept = {id(variable) for variable in self.kept}
        for variable in self._variables():
            if id(variable) not in kept:
                variable.assign(ops.zeros_like(variable))
