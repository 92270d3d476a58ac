"""What holds of every local objective, and what a user's own must do."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e.objectives import (
    Batch,
    IntermediateTarget,
    LocalObjective,
    ModelSpec,
    OutputSpec,
    Prediction,
    Reconstruction,
)

RNG = np.random.default_rng(0)
H = RNG.normal(size=(6, 4)).astype("float32")


def batch(**given):
    empty = dict.fromkeys(("x", "labels", "sample_weight", "module_input"))
    return Batch(**{"outputs": (), **empty, **given})


def spec(*outputs, module_input=(None, 5), inputs=((None, 5),)):
    return ModelSpec(
        keras.KerasTensor(module_input),
        [keras.KerasTensor(shape) for shape in inputs],
        tuple(OutputSpec(n, keras.KerasTensor(s), None) for n, s in outputs),
    )


@keras.saving.register_keras_serializable("test_objectives")
class Sparse(LocalObjective):
    """The example of the contract, with an argument."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def loss(self, activation, batch):
        return self.factor * ops.mean(ops.abs(activation), axis=-1)


@keras.saving.register_keras_serializable("test_objectives")
class Halving(LocalObjective):
    """Has a head, made in `build_head`."""

    requires_labels = True

    def build_head(self, activation, model):
        self.dense = layers.Dense(1, dtype=self.dtype_policy)
        self.dense.build(activation.shape)

    def loss(self, activation, batch):
        return ops.square(self.dense(activation)[:, 0] - batch.labels)


def test_a_loss_is_averaged_over_the_batch_as_keras_does():
    expected = np.abs(H).mean(-1)
    total = Sparse(2.0).compute_loss(H, batch())
    np.testing.assert_allclose(float(total), 2 * expected.mean(), rtol=1e-6)


def test_sample_weights_weigh_the_examples_as_keras_does():
    weight = RNG.uniform(size=6).astype("float32")
    total = Sparse().compute_loss(H, batch(sample_weight=weight))
    by_hand = (np.abs(H).mean(-1) * weight).sum() / 6
    np.testing.assert_allclose(float(total), by_hand, rtol=1e-6)
    stock = keras.losses.MeanAbsoluteError()(np.zeros_like(H), H, weight)
    np.testing.assert_allclose(float(total), float(stock), rtol=1e-6)


@pytest.mark.parametrize("positions", [(5,), (5, 3), (6,)], ids=str)
def test_sample_weights_weigh_whole_examples_of_many_values(positions):
    class Each(LocalObjective):
        def loss(self, activation, batch):
            return ops.abs(activation)

    h = RNG.normal(size=(6, *positions)).astype("float32")
    weight = RNG.uniform(size=6).astype("float32")
    by_hand = np.abs(h) * weight.reshape(6, *[1] * len(positions))
    total = Each().compute_loss(h, batch(sample_weight=weight))
    np.testing.assert_allclose(float(total), by_hand.sum() / h.size, rtol=1e-5)


def test_of_sample_weights_for_each_token_an_example_has_the_mean():
    weight = RNG.uniform(size=(6, 3)).astype("float32")
    total = Sparse().compute_loss(H, batch(sample_weight=weight))
    by_hand = (np.abs(H).mean(-1) * weight.mean(-1)).sum() / 6
    np.testing.assert_allclose(float(total), by_hand, rtol=1e-6)


def test_a_loss_of_half_precision_is_summed_in_float32():
    h = np.full((4096, 1), 40.0, "float16")  # their sum is beyond float16
    total = Sparse().compute_loss(ops.convert_to_tensor(h), batch())
    assert total.dtype == "float32"
    np.testing.assert_allclose(float(total), 40.0, rtol=1e-3)


def test_an_objective_must_say_what_its_loss_is():
    class Empty(LocalObjective):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty must implement loss\("):
        Empty().compute_loss(H, batch())
    assert not Empty().requires_targets


def test_a_head_is_built_once():
    objective = Halving()
    assert not objective.built
    activation = keras.KerasTensor((None, 4))
    objective.build_for(activation, spec())
    kernel = objective.dense.kernel
    objective.build_for(activation, spec())
    assert objective.dense.kernel is kernel
    assert [v is kernel for v in objective.trainable_weights] == [True, False]


def model_with(objective, **options):
    inputs = keras.Input((5,))
    code = layers.Dense(4, name="code")(inputs)
    base = keras.Model(inputs, layers.Dense(2, name="out")(code))
    model = e2e.modularize(base, {"code": objective}, **options)
    model.compile("sgd", "mse")
    return model


def test_an_objective_of_ones_own_trains_its_module(tmp_path):
    x, y = np.ones((8, 5)), np.zeros((8, 2))
    model = model_with(Sparse(3.0), training_mode="sequential:code")
    before = np.abs(model.get_layer("code")(x)).mean()
    for _ in range(3):
        model.fit(x, y, verbose=0)
    assert np.abs(model.get_layer("code")(x)).mean() < before
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.boundaries["code"].objective.factor == 3.0


def test_a_head_of_ones_own_is_trained_and_saved(tmp_path):
    x, y = np.ones((8, 5)), {"out": np.zeros((8, 2)), "code": np.ones(8)}
    model = model_with(Halving(), training_mode="local")
    objective = model.boundaries["code"].objective
    before = np.asarray(objective.dense.kernel)
    model.fit(x, y, verbose=0)
    after = np.asarray(objective.dense.kernel)
    assert (before != after).any()
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    kernel = again.boundaries["code"].objective.dense.kernel
    np.testing.assert_array_equal(np.asarray(kernel), after)


@pytest.mark.parametrize(
    "objective",
    [
        Prediction(),
        Prediction("mlp", output_name="out", loss="mse", activation="tanh"),
        Prediction(loss=keras.losses.Huber(delta=0.3)),
        Reconstruction(),
        Reconstruction("model_input", head="mlp"),
        IntermediateTarget(),
        IntermediateTarget("mse", head="gap_linear", units=3, activation="relu"),
        IntermediateTarget(head="mlp", units=5, per_position=True),
        IntermediateTarget(keras.losses.Huber(delta=0.3)),
        Sparse(0.5),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_an_objective_survives_its_config(objective):
    config = keras.saving.serialize_keras_object(objective)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(objective)
    assert again.requires_targets == objective.requires_targets
    ours, others = objective.get_config(), again.get_config()
    assert ours == others
    if type(objective) is IntermediateTarget and objective.head is not None:
        assert again.activation is objective.activation


def test_a_head_takes_the_precision_policy_in_force():
    keras.config.set_dtype_policy("mixed_float16")
    objective = Prediction("mlp")
    activation = keras.KerasTensor((None, 4), dtype="float16")
    objective.build_for(activation, spec(("out", (None, 2))))
    *hidden, last = [x for x in objective.networks[0].layers if x.weights]
    assert {layer.compute_dtype for layer in hidden} == {"float16"}
    assert last.compute_dtype == "float32"


def test_a_head_is_named_after_its_boundary():
    model = model_with(None)
    for variable in model.modules[0].head_variables:
        assert variable.path.startswith("code_boundary/")


def test_labels_given_to_a_mode_that_does_not_use_them_change_nothing():
    x, y = RNG.normal(size=(8, 5)), np.zeros((8, 2))
    losses = []
    for given in (y, {"out": y, "code": np.ones(8)}):
        keras.utils.set_random_seed(2)
        model = model_with(Halving())
        losses.append(model.fit(x, given, shuffle=False, verbose=0).history)
    assert losses[0] == losses[1]


WRONG = {
    "None": lambda activation: None,
    "a scalar": ops.mean,
    r"values of shape \(3,\)": lambda activation: ops.mean(activation, axis=0),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_loss_without_values_of_examples_is_named(what):
    class Forgetful(LocalObjective):
        def loss(self, activation, batch):
            return WRONG[what](activation)

    base = keras.Sequential([keras.Input((2,)), layers.Dense(3, name="a"), layers.Dense(1)])
    model = e2e.modularize(base, {"a": Forgetful()}, training_mode="local")
    model.compile("sgd", "mse")
    before = model.get_weights()
    expected = (
        rf"Boundary 'a': Forgetful\.loss returned {what}; expected .*\(batch, \.\.\.\)"
    )
    with pytest.raises(ValueError, match=expected):
        model.fit(np.ones((4, 2)), np.ones(4), verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("eagerly", [False, True])
def test_a_head_that_is_built_in_the_loss_is_refused(eagerly):
    """The optimizer would not know its weights, nor a loaded model."""

    class Late(LocalObjective):
        def build_head(self, activation, model):
            self.head = layers.Dense(1, name="late_head")

        def loss(self, activation, batch):
            return ops.square(self.head(activation)[:, 0])

    base = keras.Sequential([keras.Input((2,)), layers.Dense(3, name="a"), layers.Dense(1)])
    model = e2e.modularize(base, {"a": Late()}, training_mode="local")
    model.compile("sgd", "mse", run_eagerly=eagerly)
    before = base.get_weights()
    for _ in range(2):  # it is not forgotten
        with pytest.raises(ValueError, match=r"Boundary 'a': Late.*late_head.*build_head"):
            model.fit(np.ones((4, 2)), np.ones(4), verbose=0)
    for old, new in zip(before, base.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_what_a_user_adds_to_a_built_head_is_no_fault_of_the_loss():
    base = keras.Sequential([keras.Input((2,)), layers.Dense(3, name="a"), layers.Dense(1)])
    model = e2e.modularize(base, {"a": e2e.objectives.Prediction("mlp")})
    model.compile("sgd", "mse")
    heads = model.boundaries["a"].objective.networks[0].layers
    for layer in (each for each in heads if isinstance(each, layers.Dense)):
        layer.enable_lora(1)
    numbers = model.evaluate_modules(np.ones((4, 2)), np.ones(4), verbose=0)
    assert np.isfinite(numbers["a"]["loss"])
