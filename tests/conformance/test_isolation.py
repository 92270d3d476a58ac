"""Promise 2: in local mode a module learns from its own loss, and from no other.

The tests read gradients off the weights: a step of plain SGD at rate 1 subtracts them.
So they run on every backend; `test_processes.py` runs this file on JAX.
"""

import functools
import itertools

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e.objectives import IntermediateTarget, Prediction, Reconstruction

from . import cases, models

# Keras says so where an objective is off: its module is not trained, as it should be.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Gradients do not exist for variables:UserWarning"
)
on_tensorflow = keras.config.backend() == "tensorflow"
MODES = {
    "all": "local",
    "none": cases.only(None),
    **{m: cases.only(m) for m in models.CUTS},
}


def gradients(model, x, y, mode, sample_weight=None):
    """The gradient of each module and of its head, by the module's name.

    The model's weights are put back.
    """
    kept = [*model.weights, *cases.seeds(model)]
    start = cases.values(kept)
    cases.force_mode(model, mode)
    owned = {m.name: (m.trainable_variables, m.head_variables) for m in model.modules}
    before = {name: [cases.values(vs) for vs in groups] for name, groups in owned.items()}
    model.train_on_batch(x, y, sample_weight=sample_weight)
    after = {name: [cases.values(vs) for vs in groups] for name, groups in owned.items()}
    for variable, value in zip(kept, start, strict=True):
        variable.assign(value)
    return {
        name: [
            [old - new for old, new in zip(*pair, strict=True)]
            for pair in zip(before[name], after[name], strict=True)
        ]
        for name in owned
    }


def joined(groups):
    """The gradients of a module and of its head in one list."""
    return list(itertools.chain.from_iterable(groups))


# Their statistics take the mean away and with it the bias of the head, whose gradient is 0
# or what rounding leaves of it.
WITHOUT_MEAN = ("barlow_twins", "vicreg")


def moved(groups):
    """Which of a module's and its head's gradients are not exactly zero."""
    return [bool(np.any(g)) for group in groups for g in group]


def model_of(case):
    """The case's model, to be trained by plain SGD; no bias sits on a ReLU's kink."""
    # On JAX compiling would take most of the time.
    model = case.compiled(
        optimizer=keras.optimizers.SGD(1.0), run_eagerly=not on_tensorflow
    )
    random = np.random.RandomState(7)
    for variable in model.trainable_variables:
        if not np.any(cases.values([variable])[0]):
            variable.assign(0.3 * random.randn(*variable.shape))
    return model


@functools.cache
def local_gradients(name):
    """The gradients of a case with all, none or one of the objectives on."""
    case = cases.BY_NAME[name]
    model = model_of(case)
    x, y = case.data(8)
    return {key: gradients(model, x, y, mode) for key, mode in MODES.items()}


@cases.each_module
@cases.each_objective
def test_an_objective_moves_its_own_module_and_no_other(case, module):
    found = local_gradients(case.name)
    last = list(found["none"])[-1]
    for name, groups in found[module].items():
        if name == module:
            # With the signals of later modules off there is nothing to pass on.
            silent = case.name == "feedback_alignment" and module == "first"
            found_own = moved(groups)
            if case.name in WITHOUT_MEAN:
                del found_own[-1]
            assert silent or all(found_own), "no gradient in the module itself"
        elif name != last:
            assert not any(moved(groups)), f"a gradient in {name}"
    for new, old in zip(found[module][last][0], found["none"][last][0], strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)


@cases.each_objective
def test_the_task_loss_moves_the_last_module_and_no_other(case):
    found = local_gradients(case.name)["none"]
    last = list(found)[-1]
    for name, groups in found.items():
        if name == last:
            assert all(moved(groups))
        else:
            assert not any(moved(groups))


@cases.each_loss
def test_modules_trained_together_are_taught_as_each_alone(case):
    found = local_gradients(case.name)
    for module in models.CUTS:
        together, alone = found["all"][module], found[module][module]
        for left, right in zip(joined(together), joined(alone), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


def loss_value(model, x, y, mode):
    moving = [v for v in model.variables if not v.trainable]  # seeds and counters too
    start = cases.values(moving)
    cases.force_mode(model, mode)
    y_pred = model(x, training=True)
    loss = float(model.compute_loss(x=x, y=y, y_pred=y_pred, training=True))
    for variable, value in zip(moving, start, strict=True):
        variable.assign(value)
    return loss


def own_loss(model, module, x, y):
    """A module's local loss, told from the total by switching it off."""
    on, off = cases.only(module), cases.only(None)
    return loss_value(model, x, y, on) - loss_value(model, x, y, off)


def assert_is_gradient(loss, variables, found, step=5e-4):
    """Compares gradients with central differences of `loss()`.

    For each variable along one direction, half the gradient's and half random: along
    the gradient alone, a gradient that lacks some of its entries would pass.
    """
    random = np.random.RandomState(0)
    for variable, gradient in zip(variables, found, strict=True):
        noise = random.randn(*gradient.shape)
        unit = gradient / (np.linalg.norm(gradient) or 1.0)
        direction = unit + noise / np.linalg.norm(noise)
        start, (high, low) = cases.values([variable])[0], (0.0, 0.0)
        variable.assign(start + step * direction)
        high = loss()
        variable.assign(start - step * direction)
        low = loss()
        variable.assign(start)
        expected = (high - low) / (2 * step)
        along = np.sum(gradient * direction)
        # Each loss is off by half a unit in its last place.
        rounding = float(abs(high) * np.finfo("float32").eps / step)
        margin = 1e-3 + 2 * rounding
        assert along == pytest.approx(expected, rel=0.02, abs=margin), variable.path


@cases.each_module
@cases.each_loss
def test_a_module_s_gradient_is_that_of_its_loss(case, module):
    if case.name == "prediction-conv_mlp":
        pytest.skip("its head has ReLUs behind normalized maps: kinks all around")
    model = model_of(case)
    x, y = case.data(8)
    owner = next(m for m in model.modules if m.name == module)
    assert_is_gradient(
        lambda: own_loss(model, module, x, y),
        [*owner.trainable_variables, *owner.head_variables],
        joined(local_gradients(case.name)["all"][module]),
    )


@pytest.mark.parametrize("mode", ["end_to_end", "deep_supervision", "local"])
@pytest.mark.parametrize("name", ["prediction", "prediction-linear"])
def test_gradients_that_reach_all_modules_are_those_of_the_whole_loss(name, mode):
    case = cases.BY_NAME[name]
    model = model_of(case)
    x, y = case.data(8)
    found = gradients(model, x, y, mode)
    heads = mode != "end_to_end"
    for module in model.modules if mode != "local" else model.modules[-1:]:
        assert_is_gradient(
            lambda: loss_value(model, x, y, mode),
            [*module.trainable_variables, *(module.head_variables if heads else [])],
            joined(found[module.name][: 2 if heads else 1]),
        )
        assert heads or not any(moved(found[module.name][1:]))


@pytest.mark.parametrize("stop", models.CUTS)
@pytest.mark.parametrize("extra", [0.0, 0.5], ids=["", "supervised"])
def test_mixed_mode_isolates_where_it_says_and_nowhere_else(stop, extra):
    """Before the stop a module learns as in local mode, after it as end to end."""
    case = cases.BY_NAME["prediction"]
    model = model_of(case)
    x, y = case.data(8)
    other = next(name for name in models.CUTS if name != stop)
    weights = {other: extra} if extra else None
    mixed = gradients(model, x, y, e2e.TrainingMode("mixed", stop=[stop], weights=weights))
    whole = gradients(model, x, y, "end_to_end")
    both = gradients(model, x, y, e2e.TrainingMode("deep_supervision", weights=weights))
    local = gradients(model, x, y, "local")

    def close(left, right):
        return all(
            np.allclose(a, b, rtol=1e-4, atol=1e-6)
            for a, b in zip(left, right, strict=True)
        )

    assert close(mixed["out"][0], whole["out"][0])
    assert close(mixed[stop][1], local[stop][1])  # the head
    if stop == "first":
        assert close(mixed["first"][0], local["first"][0])
        expected = [
            a + extra * b
            for a, b in zip(whole["second"][0], local["second"][0], strict=True)
        ]
        assert close(mixed["second"][0], expected)
    else:
        # No gradient of the task loss reaches what lies before the stop.
        assert close(mixed["second"][0], local["second"][0])
        upstream = e2e.TrainingMode(
            "deep_supervision", weights={"second": 1.0, "first": extra}
        )
        with_task = gradients(model, x, y, upstream)["first"][0]
        expected = [a - b for a, b in zip(with_task, whole["first"][0], strict=True)]
        assert close(mixed["first"][0], expected)
    assert not close(mixed["first"][0], both["first"][0])
    assert any(moved(mixed[other][1:])) == bool(extra)


def _normalized():
    """BatchNorm and Dropout in each module, as a graph."""
    return models.build("rich"), {"first": "pred", "second": Reconstruction()}


def _subclassed():
    return models.build("subclassed"), {"first": "pred", "second": Prediction("mlp")}


def _labeled():
    return models.build("dense", hidden="softmax"), {
        "first": IntermediateTarget(),
        "second": "pred",
    }


def _sgd(**kwargs):
    return lambda: keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.1, **kwargs)


def _adamw():
    return keras.optimizers.AdamW(0.01, weight_decay=0.1, clipnorm=1.0)


STANDING_STILL = {
    "batch-norm": (_normalized, _adamw),
    "subclassed": (_subclassed, _adamw),
    "labels": (_labeled, _adamw),
    "clipped": (_labeled, _sgd(global_clipnorm=1.0)),
    "accumulated": (_labeled, _sgd(gradient_accumulation_steps=2)),
}


def sequential_stages(make, optimizer):
    """Trains everything once, for momentum in every variable, then each module in turn.

    Yields for each stage the module and which of all modules have moved.
    """
    base, boundaries = make()
    model = e2e.modularize(base, boundaries)
    model.compile(optimizer(), **models.losses("dense"), metrics=["accuracy"])
    x, y = models.inputs("dense", 16), models.targets("dense", 16)
    y = {"out": y, "first": y} if make is _labeled else y
    model.training_mode = "deep_supervision"
    cases.fit(model, x, y)
    for active in [m.name for m in model.modules]:
        model.training_mode = f"sequential:{active}"
        before = {
            m.name: (cases.values(m.variables), cases.values(_head_weights(m)))
            for m in model.modules
        }
        cases.fit(model, x, y, epochs=2)
        after = {
            m.name: (cases.values(m.variables), cases.values(_head_weights(m)))
            for m in model.modules
        }
        yield (
            active,
            {
                name: not models.same(list(before[name]), list(after[name]))
                for name in before
            },
        )


def _head_weights(module):
    return [] if module.objective is None else module.objective.weights


@pytest.mark.slow
@pytest.mark.parametrize("name", STANDING_STILL)
def test_in_sequential_mode_the_other_modules_stand_still(name):
    """Weights, BatchNorm statistics and heads, before and after the active module."""
    for active, has_moved in sequential_stages(*STANDING_STILL[name]):
        expected = {module: module == active for module in has_moved}
        assert has_moved == expected, f"in sequential:{active}"


@pytest.mark.parametrize("make", [_normalized, _subclassed])
def test_in_sequential_mode_averaged_weights_are_refused(make):
    """Keras writes the averages over every variable, at the end of `fit`."""
    model = e2e.modularize(*make())
    averaging = keras.optimizers.Adam(0.01, use_ema=True)
    model.compile(averaging, **models.losses("dense"))
    with pytest.raises(ValueError, match="use_ema"):
        model.training_mode = "sequential"
    assert model.training_mode.name == "end_to_end"
    model.compile("adam", **models.losses("dense"))
    model.training_mode = "sequential"
    x, y = models.inputs("dense", 16), models.targets("dense", 16)
    before = model.get_weights()
    for optimizer in (averaging, keras.optimizers.LossScaleOptimizer(averaging)):
        model.compile(optimizer, **models.losses("dense"))
        with pytest.raises(ValueError, match=r"Adam.*use_ema"):
            model.fit(x, y, verbose=0)
        with pytest.raises(ValueError, match=r"Adam.*use_ema"):
            model.train_on_batch(x, y)
    for value, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.skipif(not on_tensorflow, reason="a graph of TensorFlow")
@pytest.mark.parametrize("kind", ["dense", "conv", "nested", "residual", "two_outputs"])
def test_in_sequential_mode_later_modules_are_not_computed(kind):
    import tensorflow as tf

    model = e2e.modularize(models.build(kind), models.CUTS)
    model.compile("sgd", **models.losses(kind))
    x, y = models.inputs(kind, 8), models.targets(kind, 8)
    x, y = keras.tree.map_structure(keras.ops.convert_to_tensor, (x, y))
    for place, active in enumerate(model.modules):
        model.training_mode = f"sequential:{active.name}"
        model.train_on_batch(x, y)
        step = tf.function(lambda x, y: model.train_step((x, y)), autograph=False)
        graph = step.get_concrete_function(x, y).graph
        read = {id(handle) for handle, _ in graph.captures}
        for other, module in enumerate(model.modules):
            used = [id(v.value.handle) in read for v in module.trainable_variables]
            assert used
            assert all(used) if other <= place else not any(used), module.name


@pytest.mark.parametrize("make", [_normalized, _subclassed])
def test_in_sequential_mode_frozen_modules_run_in_inference_mode(make):
    """Their Dropout is off: what the active module learns has nothing random in it."""
    x, y = models.inputs("dense", 16), models.targets("dense", 16)
    results = []
    for seed in (1, 2):
        base, boundaries = make()
        found = {layer.name: layer for layer in base.layers}
        (found["drop"] if "drop" in found else found["first"]).seed_generator.state.assign(
            [seed, seed]
        )
        model = e2e.modularize(base, boundaries, training_mode="sequential:second")
        if "second" in found and isinstance(found["second"], layers.Dropout):
            found["second"].rate = 0.0
        model.compile(keras.optimizers.SGD(0.1), **models.losses("dense"))
        cases.fit(model, x, y)
        results.append(cases.values(base.weights))
    assert models.same(*results)
    assert not models.same(results[0], cases.values(make()[0].weights))


def _labels(kind, n):
    random = np.random.RandomState(5)
    if kind == "classes":
        return random.randint(0, 5, n)
    return random.randn(n, 5).astype("float32")


def _without(labels, absent):
    labels = labels.copy()
    labels[absent] = np.nan if labels.dtype.kind == "f" else -1
    return labels


def _target_model(kind, head):
    loss = {"classes": "sparse_categorical_crossentropy", "numbers": "mse"}[kind]
    options = {"head": "mlp", "units": 5} if head else {}
    base = models.build("dense", hidden="softmax" if kind == "classes" else "tanh")
    model = e2e.modularize(
        base, {"first": IntermediateTarget(loss, **options), "second": None}
    )
    model.compile(keras.optimizers.SGD(1.0), **models.losses("dense"))
    return model


LABELED = e2e.TrainingMode("mixed", stop=["first"])
each_kind = pytest.mark.parametrize("kind", ["classes", "numbers"])
each_head = pytest.mark.parametrize("head", [False, True], ids=["bare", "head"])


@each_kind
@each_head
def test_a_batch_without_labels_has_no_loss_and_no_gradient(kind, head):
    model = _target_model(kind, head)
    x, y = models.inputs("dense", 8), models.targets("dense", 8)
    y = {"out": y, "first": _without(_labels(kind, 8), np.ones(8, bool))}
    off = e2e.TrainingMode("mixed", stop=["first"], weights={"first": 0.0})
    assert loss_value(model, x, y, LABELED) == loss_value(model, x, y, off)
    found = gradients(model, x, y, LABELED)
    assert not any(moved(found["first"]))
    assert all(moved(found["out"]))


@each_kind
@each_head
def test_a_missing_label_counts_as_one_of_weight_zero(kind, head):
    model = _target_model(kind, head)
    x, y = models.inputs("dense", 8), models.targets("dense", 8)
    complete, absent = _labels(kind, 8), np.arange(8) % 3 == 0
    missing = gradients(model, x, {"out": y, "first": _without(complete, absent)}, LABELED)
    weighted = gradients(
        model,
        x,
        {"out": y, "first": complete},
        LABELED,
        sample_weight={"first": 1.0 - absent.astype("float32")},
    )
    full = gradients(model, x, {"out": y, "first": complete}, LABELED)
    found = [joined(g["first"]) for g in (missing, weighted, full)]
    for a, b, c in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        assert not np.allclose(a, c, rtol=1e-2)


@pytest.mark.skipif(not on_tensorflow, reason="reads gradients off a TensorFlow tape")
@cases.each_loss
def test_on_a_tape_no_gradient_leaves_its_module(case):
    """The same, without a training step: a tape over the call and `compute_loss`."""
    import tensorflow as tf

    model = model_of(case)
    x, y = case.data(8)
    last = model.modules[-1]
    for module in (*model.modules[:-1], None):
        cases.force_mode(model, cases.only(module and module.name))
        with tf.GradientTape(persistent=True) as tape:
            y_pred = model(x, training=True)
            loss = model.compute_loss(x=x, y=y, y_pred=y_pred, training=True)
        taught = [last, module] if module else [last]
        for other in model.modules:
            variables = [*other.trainable_variables, *other.head_variables]
            found = tape.gradient(loss, [v.value for v in variables])
            if other in taught:
                if case.name in WITHOUT_MEAN and other is module:
                    del found[-1]
                assert all(g is not None and np.any(g.numpy()) for g in found)
            else:
                assert all(g is None or not np.any(g.numpy()) for g in found)
