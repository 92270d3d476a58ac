"""`diagnose` judges the modules of a model and leaves it as it was."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_e2e as e2e
from keras_e2e.diagnostics import CKA, FrozenUtility, GradRMS, JacobianSingularValues
from keras_e2e.diagnostics.verdicts import Verdict
from keras_e2e.models.diagnosis import Diagnosis

RNG = np.random.default_rng(0)
X = RNG.normal(size=(256, 8)).astype("float32")
Y = (X[:, 0] > 0).astype("int32") + (X[:, 1] > 0)


def network(**first):
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, activation="relu", name="a", **first),
            layers.Dropout(0.1, seed=1),
            layers.Dense(16, activation="tanh", name="b"),
            layers.Dense(3, activation="softmax", name="out"),
        ]
    )


def modular(optimizer=None, **first):
    model = e2e.modularize(network(**first), ["a", "b"])
    optimizer = optimizer or keras.optimizers.Adam(0.01)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def everything(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def same(left, right):
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.slow
def test_a_model_that_learns_raises_no_alarm():
    found = e2e.diagnose(modular(), X, Y, steps=100, batch_size=32)
    assert list(found.verdicts) == ["a", "b", "out"]
    assert not any(verdict.alarm for verdict in found.verdicts.values())
    assert found.steps[-1] == 96
    assert found.history["loss"]["out"][-1] < 0.7 * found.history["loss"]["out"][0]


@pytest.mark.slow
def test_the_model_is_as_it_was_and_trains_on_as_if_nothing_had_been():
    models = modular(), modular()
    models[1].set_weights(models[0].get_weights())
    for model in models:
        keras.utils.set_random_seed(3)
        model.fit(X, Y, batch_size=32, verbose=0)
    model, other = models
    before, mode, history = everything(model), model.training_mode, model.history
    measured = [JacobianSingularValues(1, 1), CKA(model.get_weights())]
    e2e.diagnose(model, X, Y, steps=60, mode="local", batch_size=32, on_demand=measured)
    assert same(before, everything(model))
    assert model.training_mode == mode
    assert model.history is history
    assert not model.stop_training
    for each in models:
        keras.utils.set_random_seed(4)
        each.fit(X, Y, batch_size=32, verbose=0)
    assert same(everything(model), everything(other))


@pytest.mark.slow
def test_diagnostics_of_one_s_own_go_on_after_it():
    model = modular()
    recorder = model.instrument([GradRMS()])
    model.request_diagnostics()
    model.fit(X, Y, batch_size=256, verbose=0)
    e2e.diagnose(model, X, Y, steps=50, batch_size=32)
    model.request_diagnostics()
    model.fit(X, Y, batch_size=256, verbose=0)
    assert model._modular.recorder is recorder
    assert recorder.read()["grad_rms"]["a"] > 0


def test_what_fails_is_put_back_too():
    model = modular()
    before = model.get_weights()

    class Fails(Exception):
        pass

    def batches():
        for _ in range(3):
            yield X[:32], Y[:32]
        raise Fails

    with pytest.raises(Exception, match=r"Fails|batches"):
        e2e.diagnose(model, batches(), steps=50)
    assert same(before, model.get_weights())
    assert int(model.optimizer.iterations) == 0


@pytest.mark.slow
def test_faults_are_reported_in_a_table_and_in_words():
    model = modular()
    bias = np.full(16, -50.0)
    bias[0] = 0.0  # one unit of sixteen ever acts
    model.get_layer("a").bias.assign(bias)
    model.get_layer("b").trainable = False
    found = e2e.diagnose(model, X, Y, steps=100, batch_size=32)
    assert {m: v.state for m, v in found.verdicts.items() if v.alarm} == {
        "a": "dormant",
        "b": "frozen",
    }
    text = str(found)
    for said in (
        "dormant",
        "frozen",
        "a: Dormant",
        "leaky ReLU",
        "Modules after 100 steps",
    ):
        assert said in text


class Chain(keras.Model):
    """Code, not a graph: two units that all must pass, and two more after them."""

    def __init__(self):
        super().__init__()
        self.narrow = layers.Dense(2, activation="tanh", name="narrow")
        self.spare = layers.Dense(2, kernel_initializer="identity", name="spare")
        self.hidden = layers.Dense(16, activation="tanh", name="hidden")
        self.out = layers.Dense(3, activation="softmax", name="out")

    def call(self, x):
        return self.out(self.hidden(self.spare(self.narrow(x))))


@pytest.mark.slow
def test_a_module_that_is_not_needed_is_distinguished_from_one_that_is():
    model = e2e.modularize(Chain(), ["narrow", "spare"])
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(0.03), loss, jit_compile=False)
    assert not model.modules  # found by the first examples
    # With 300 steps at most .013 and at least .70 for eight seeds; with 60 two seeds fail.
    found = e2e.diagnose(model, X, Y, steps=50, on_demand=[FrozenUtility(300)])
    utility = found.measured["frozen_utility"]
    assert utility["spare"] < 0.02 < 0.2 < utility["narrow"]
    states = {module: verdict.state for module, verdict in found.verdicts.items()}
    assert states["spare"] == "idle"
    assert states["narrow"] in ("healthy", "converged")
    assert found.verdicts["narrow"].numbers["frozen_utility"] == utility["narrow"]
    text = str(found)
    for said in ("frozen_utility", "spare: Idle", "Leave it frozen"):
        assert said in text
    model.fit(X, Y, verbose=0)  # the optimizer knows the variables


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"steps": 40}, ValueError, "50 or more"),
        ({"steps": 50.0}, ValueError, r"steps=50\.0"),
        ({"update_freq": 0}, ValueError, "update_freq=0"),
        ({"callbacks": []}, TypeError, "'callbacks' cannot be given"),
        ({"epochs": 3}, TypeError, "'epochs' cannot be given"),
        ({"every": 3}, TypeError, "unknown argument 'every'"),
        ({"quantities": None}, TypeError, "unknown argument 'quantities'"),
        ({"batchsize": 3}, TypeError, "Did you mean 'batch_size'"),
        ({"every": 5}, TypeError, r"'every'\. Expected .*'update_freq'"),
        ({"step": 100}, TypeError, "Did you mean 'steps'"),
        ({"update_frq": 5}, TypeError, "Did you mean 'update_freq'"),
        ({"epoch": 5}, TypeError, r"'epoch'\. Expected"),  # 'epochs' is refused, too
        ({"mode": "backwards"}, ValueError, "backwards"),
        ({"on_demand": [GradRMS()]}, TypeError, "expected OnDemand objects"),
        ({"on_demand": [CKA([]), CKA([])]}, ValueError, "different names"),
        ({"on_demand": [CKA([])], "class_weight": {0: 2}}, ValueError, "sample_weight"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_anything_moves(arguments, error, message):
    model = modular()
    before = model.get_weights()
    with pytest.raises(error, match=message):
        e2e.diagnose(model, X, Y, **arguments)
    assert same(before, model.get_weights())


def test_the_steps_are_those_of_the_diagnosis():
    model = modular()
    model.fit(X, Y, verbose=0)
    found = e2e.diagnose(model, X, Y, steps=52)
    assert found.trained_steps == 52 and found.steps[-1] != 52
    assert "Modules after 52 steps" in str(found)


def test_quantities_on_demand_take_arrays():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(32)
    with pytest.raises(ValueError, match=r"frozen_utility: .*expected arrays"):
        e2e.diagnose(modular(), data, on_demand=[FrozenUtility()])


def test_missing_data_is_refused_before_anything_moves():
    model = modular()
    before = everything(model)
    with pytest.raises(ValueError, match="x is None"):
        e2e.diagnose(model, None, Y)
    only_inputs = tf.data.Dataset.from_tensor_slices(X).batch(32)
    for x in (X, only_inputs):
        with pytest.raises(ValueError, match=r"no targets, .*'sparse_categorical_cross"):
            e2e.diagnose(model, x)
    assert same(before, everything(model))


def test_a_notebook_shows_the_tables_and_messages():
    verdict = e2e.diagnostics.Verdict(
        "dormant", 0.9, {"loss": 0.5, "dormant_fraction": 1.0}
    )
    unclear = e2e.diagnostics.Verdict("unclear", 0.0, {})
    name = "<b>[bold]a&b"
    found = Diagnosis(
        {name: verdict, "out": unclear},
        {},
        [96],
        {"reset_utility": {name: 0.1, "out": math.nan}},
        100,
    )
    page = found._repr_html_()
    assert "<b>" not in page
    assert page.count("&lt;b&gt;[bold]a&amp;b") == 3  # two tables and a message
    assert page.count("<table>") == page.count("</table>") == 2
    for cell in ("confidence", "dormant", "90%", "0.5", "reset_utility", "0.1"):
        assert f">{cell}<" in page
    assert '"></td>' in page and "Blank: " in page and "Blank: " in str(found)
    assert "Modules after 100 steps" in page
    assert name in str(found)  # no markup of rich's
    assert repr(found) == f"<Diagnosis after 100 steps: {name}: dormant, out: unclear>"


def test_what_is_no_model_or_is_not_compiled_is_refused():
    for wrong in (None, "model"):
        with pytest.raises(TypeError, match=r"needs a keras\.Model; found a"):
            e2e.diagnose(wrong, X, Y)
    for model in (network(), e2e.modularize(network(), ["a"])):
        with pytest.raises(ValueError, match="not compiled"):
            e2e.diagnose(model, X, Y)


def test_causes_come_first_and_their_effects_in_one_line():
    verdicts = {
        "b1": Verdict("frozen", 0.9, {}),
        "b2": Verdict("dormant", 0.9, {}),
        "b3": Verdict("vanishing", 0.9, {}, cause="b2"),
        "cls": Verdict("starved", 0.9, {}, cause="b2"),
    }
    found = Diagnosis(verdicts, {}, [], {}, 50)
    text = str(found)
    assert "(vanishing)" in text and "(starved)" in text and "No alarm" not in text
    assert "b3: (vanishing), cls: (starved)>" in repr(found)
    lines = ["b1: Frozen", "b2: Dormant", "b3, cls: effects of b2", "In parentheses"]
    assert sorted(map(text.index, lines)) == [*map(text.index, lines)]
    assert "b3: " not in text and "cls: Starved" not in text
    assert found.to_dict()["verdicts"]["cls"]["cause"] == "b2"
    assert "<p>b3, cls: effects of b2</p>" in found._repr_html_()


def test_without_an_alarm_it_says_so():
    verdicts = {
        "a": Verdict("healthy", 0.9, {}),
        "b": Verdict("unclear", 0.0, {}, why="Why."),
    }
    text = str(Diagnosis(verdicts, {}, [], {}, 50))
    assert text.index("No alarm: ") < text.index("b: Unclear. Why.")


def test_what_is_no_longer_a_number_is_shown_as_such():
    numbers = {"loss": 2.3, "update_ratio": 0.5}
    history = {
        "loss": {"a": [math.nan] * 12},  # it never had one: the number is that of the task
        "update_ratio": {"a": [0.5, 0.5, *[math.nan] * 10]},
    }
    found = Diagnosis({"a": Verdict("exploding", 0.9, numbers)}, history, [], {}, 50)
    row = next(line for line in str(found).splitlines() if "exploding" in line)
    assert row.split()[-2:] == ["2.3", "NaN"]


def test_the_layers_behind_the_names_are_told():
    names = [f"d{i}" for i in range(8)]
    stack = [layers.Dense(4, name=name) for name in names]
    model = keras.Sequential([keras.Input((8,)), *stack])
    model.compile("sgd", "mse")
    found = e2e.diagnose(model, X, X[:, :4], steps=10, update_freq=1, verbose=0)
    last = [*found.verdicts][-1]
    assert last == "d7" and " to d7)" in found.notes[0]
