"""`early_exit_model`: a stock model that ends in a module's head."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e.objectives import (
    InfoPro,
    IntermediateTarget,
    LocalObjective,
    Mixture,
    Prediction,
    PredSim,
    Reconstruction,
    SimilarityMatching,
    SyntheticGradient,
)
from keras_e2e.objectives.base import Exit
from keras_e2e.objectives.heads.model_based import AugLocal, MomentumAuxiliary
from tests.conformance import models

LOADER = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "keras_e2e":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
sys.path.insert(0, sys.argv[1])
import keras, models, numpy as np
for case in sys.argv[3:]:
    model = keras.models.load_model(f"{sys.argv[2]}/{case}.keras")
    kind = case.split("-")[0]
    np.savez(f"{sys.argv[2]}/{case}.npz",
             *models.flat(model.predict(models.inputs(kind, 7), verbose=0)))
assert not [name for name in sys.modules if name.startswith("keras_e2e")]
"""


def own_head():
    return keras.Sequential(
        [
            layers.Dense(4),
            layers.BatchNormalization(momentum=0.5),
            layers.Dropout(0.5),
            layers.Dense(models.CLASSES),
        ]
    )


CASES = {
    "dense-mlp": lambda: Prediction("mlp"),
    "rich-own": lambda: Prediction(own_head()),
    "conv-conv1": lambda: Prediction("conv1"),
    "conv-predsim": PredSim,
    "conv-infopro": lambda: InfoPro("cross_entropy", label=(1.0, 1.0)),
    "deep-auglocal": lambda: Prediction(AugLocal()),
    "nested-linear": lambda: Mixture({"reconstruction": 1.0, "pred": 1.0}),
    "two_outputs-all": Prediction,
    "two_outputs-one": lambda: Prediction(output_name="kind"),
    "dense-target": lambda: IntermediateTarget(head="mlp", units=4),
    "dense-activation": IntermediateTarget,
}


def modular(kind, objective, mode="local"):
    objectives = {"first": "pred", "second": objective}
    if isinstance(objective, IntermediateTarget):
        mode = "end_to_end"
    model = e2e.modularize(models.build(kind), objectives, training_mode=mode)
    model.compile(keras.optimizers.Adam(0.01), **models.losses(kind))
    return model


def by_the_head(model, x):
    """What the head of `second` predicts in inference mode, by the objective itself."""
    module = model.modules[1]
    names = [output.name for output in model._modular.outputs]
    outputs = tuple(e2e.objectives.Output(name, None, None, None) for name in names)
    (activation,) = model.forward_record(x).activations("second")
    return [way.predict(activation) for way in module.objective.exits(outputs)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The exit models of all cases, saved after some training, and their predictions."""
    folder = tmp_path_factory.mktemp("exits")
    predicted = {}
    for case, make in CASES.items():
        kind = case.split("-")[0]
        model = modular(kind, make())
        model.fit(models.inputs(kind, 16), models.targets(kind, 16), verbose=0)
        early = model.early_exit_model("second")
        some = models.inputs(kind, 7)
        predicted[case] = models.flat(early.predict(some, verbose=0))
        by_hand = models.flat(by_the_head(model, some))
        for found, expected in zip(predicted[case], by_hand, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        early.save(folder / f"{case}.keras")
    return folder, predicted


@pytest.mark.slow
def test_it_predicts_the_same_where_keras_e2e_is_not_installed(saved):
    folder, predicted = saved
    here = str(pathlib.Path(models.__file__).parent)
    run = subprocess.run(
        [sys.executable, "-c", LOADER, here, str(folder), *CASES],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        cwd=folder,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    for case in CASES:
        with np.load(folder / f"{case}.npz") as file:
            for found, expected in zip(file.values(), predicted[case], strict=True):
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_it_ends_as_the_model_ends_and_in_its_structure(saved):
    _, predicted = saved
    np.testing.assert_allclose(predicted["dense-mlp"][0].sum(axis=1), 1.0, rtol=1e-5)
    early = modular("two_outputs", "pred").early_exit_model("second")
    assert {k: t.shape for k, t in early.output.items()} == {
        "kind": (None, models.CLASSES),
        "size": (None, 1),
    }
    assert predicted["dense-activation"][0].shape == (7, 5)


def test_it_shares_the_weights_and_leaves_the_model_usable(tmp_path):
    model = modular("conv", Prediction("conv1"))
    x, y = models.inputs("conv", 16), models.targets("conv", 16)
    early = model.early_exit_model("second")
    before = early.predict(x, verbose=0)
    kept = {id(v) for v in model.weights}
    assert early.weights and all(id(v) in kept for v in early.weights)
    assert not any(type(z).__module__.startswith("keras_e2e") for z in early.layers)
    assert not any("third" in z.name or z.name == "out" for z in early.layers)
    model.fit(x, y, verbose=0)
    assert not np.allclose(before, early.predict(x, verbose=0))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = loaded.early_exit_model("second").predict(x, verbose=0)
    np.testing.assert_allclose(again, early.predict(x, verbose=0), rtol=1e-5)


def test_it_trains_as_a_stock_model():
    early = modular("dense", "pred").early_exit_model("first")
    stock = keras.models.clone_model(early)
    stock.set_weights(early.get_weights())
    before, histories = early.get_weights(), []
    for model in (early, stock):
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        x, y = models.inputs("dense", 16), models.targets("dense", 16)
        fit = model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
        histories.append(fit.history)
    assert histories[0] == histories[1]
    for old, ours, theirs in zip(
        before, early.get_weights(), stock.get_weights(), strict=True
    ):
        assert not np.array_equal(old, ours)
        np.testing.assert_array_equal(ours, theirs)


def test_a_mask_reaches_the_head():
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Embedding(9, 5, mask_zero=True, name="words")(inputs)
    x = layers.LSTM(3)(x)
    base = keras.Model(inputs, layers.Dense(2, activation="softmax", name="out")(x))
    model = e2e.modularize(base, {"words": Prediction("gap_linear")})
    model.compile("adam", "sparse_categorical_crossentropy")
    tokens = np.array([[1, 2, 0, 0], [3, 4, 5, 0]])
    predicted = np.asarray(model.early_exit_model("words")(tokens))
    head = model.modules[0].objective.networks[0]
    embedded = np.asarray(model.get_layer("words")(tokens))
    mean = np.stack([embedded[0, :2].mean(axis=0), embedded[1, :3].mean(axis=0)])
    expected = keras.ops.softmax(head.layers[-1](mean))
    np.testing.assert_allclose(predicted, expected, rtol=1e-5)


@pytest.mark.slow
def test_padding_counts_as_little_as_in_the_model():
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Embedding(9, 16, mask_zero=True, name="words")(inputs)
    x = layers.LSTM(3, return_sequences=True, name="context")(x)
    base = keras.Model(inputs, layers.Dense(2, activation="softmax", name="out")(x))
    model = e2e.modularize(base, ["words", "context"], training_mode="local")
    compiled = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    model.compile("adam", **compiled)
    tokens = np.random.RandomState(0).randint(1, 9, (16, 4))
    tokens[:8, 2:] = 0
    labels = tokens % 2
    labels[:4, 2:] = 1  # one label for half of the padding, another for the rest
    model.fit(tokens, labels, verbose=0)
    found = model.evaluate_modules(
        tokens, labels, probe_data=(tokens, labels), probe_epochs=60
    )
    for name in ("words", "context"):
        early = model.early_exit_model(name)
        early.compile(**compiled)
        expected = early.evaluate(tokens, labels, verbose=0, return_dict=True)
        numbers = {k: v for k, v in found[name].items() if "probe" not in k}
        assert numbers == pytest.approx(expected, rel=1e-5)
    # The word predicts its label; padding, which could not, is not asked.
    assert found["words"]["probe_accuracy"] > 0.95


@pytest.mark.slow
def test_names_that_a_loaded_model_has_taken_are_no_obstacle(tmp_path):
    keras.backend.clear_session()
    base = keras.Sequential([keras.Input((6,)), layers.Dense(5), layers.Dense(3)])
    model = e2e.modularize(base, {"dense": Prediction("mlp")})
    model.save(tmp_path / "model.keras")
    keras.backend.clear_session()
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = models.inputs("dense", 7)
    found = loaded.early_exit_model("dense").predict(x, verbose=0)
    expected = model.early_exit_model("dense").predict(x, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


class OwnExit(LocalObjective):
    """What a user might write: a head that predicts the only output."""

    requires_targets = True

    def build_head(self, activation, model):
        self.head = layers.Dense(models.CLASSES, name="mine")
        self.head.build(activation.shape)

    def exits(self, outputs):
        return (Exit(outputs[0].name, self.head, keras.activations.softmax),)


def test_a_users_objective_joins_by_exits():
    early = modular("dense", OwnExit()).early_exit_model("second")
    assert early.output.shape == (None, models.CLASSES)


@pytest.mark.parametrize(
    ("objective", "name", "message"),
    [
        ("pred", "secnd", "no boundary is named 'secnd'. Did you mean 'second'"),
        ("pred", "out", "the last module.*strip"),
        (None, "second", "has no objective"),
        (Reconstruction(), "second", "Reconstruction of boundary 'second' has no head"),
        (SimilarityMatching(), "second", "SimilarityMatching of boundary 'second'"),
        (SyntheticGradient(), "second", "SyntheticGradient of boundary 'second'"),
        (Prediction(MomentumAuxiliary()), "second", "the class MomentumAuxiliary"),
    ],
)
def test_where_there_is_no_way_out_it_says_so(objective, name, message):
    model = modular("deep", objective, "end_to_end")
    with pytest.raises(ValueError, match=message):
        model.early_exit_model(name)


def test_a_subclassed_model_is_refused():
    model = e2e.modularize(models.build("subclassed"), ["first"])
    with pytest.raises(ValueError, match=r"no graph of layers.*evaluate_modules"):
        model.early_exit_model("first")


def test_a_boundary_crossed_twice_is_refused():
    left, right = keras.Input((4,)), keras.Input((4,))
    shared = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="code")])
    boundary = e2e.ModuleBoundary(name="code_end")
    joined = layers.Concatenate()([boundary(shared(left)), boundary(shared(right))])
    model = e2e.ModularModel([left, right], layers.Dense(2, name="out")(joined))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="crossed 2 times"):
        model.early_exit_model("code_end")
