"""Which layer and variable belongs to which module."""

import random

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e import ModuleBoundary
from keras_e2e.modules.cut_points import cut_points
from keras_e2e.modules.gate import Gate
from keras_e2e.modules.graph import Graph
from keras_e2e.modules.step_context import step_context
from keras_e2e.utils import compat


def assert_partitions(model, base):
    """Each variable of the base model belongs to exactly one module, heads to none."""
    owned = [v for module in model.modules for v in module.variables]
    assert len(owned) == len({id(v) for v in owned}), "a variable in two modules"
    assert {id(v) for v in owned} == {id(v) for v in base.weights}
    trainable = [v for module in model.modules for v in module.trainable_variables]
    assert {id(v) for v in trainable} == {id(v) for v in base.trainable_variables}
    assert len(trainable) == len(base.trainable_variables)
    assert sum(module.parameters for module in model.modules) == base.count_params()
    heads = {id(v) for module in model.modules for v in module.head_variables}
    assert not heads & {id(v) for v in owned}
    everything = {id(v) for v in model.trainable_variables}
    assert everything == heads | {id(v) for v in trainable}


def assert_isolated(model, x):
    """What a module ends in depends on the variables of no other, once cut.

    With every boundary stopped, the gradient of what a module puts out with respect to
    the variables of another must not exist.
    """
    import tensorflow as tf

    state = model._modular
    gate = Gate(state.boundary_ids, stopping=[m.name for m in state.modules])
    with tf.GradientTape(persistent=True) as tape, step_context(state, gate=gate):
        outputs = model(x, training=False)
    ends: dict = {module.name: [] for module in model.modules}
    for crossing in gate.record.crossings:
        ends[crossing.boundary.module].append(crossing.activation)
    ends[model.modules[-1].name] = keras.tree.flatten(outputs)
    for end in model.modules:
        for module in model.modules:
            gradients = tape.gradient(ends[end.name], module.trainable_variables)
            if module is end:
                assert all(g is not None for g in gradients), module.name
            else:
                assert all(g is None for g in gradients), (end.name, module.name)


def members(model):
    return {module.name: [x.name for x in module.layers] for module in model.modules}


def sources(model):
    return {module.name: module.inputs for module in model.modules}


def chain():
    x = inputs = keras.Input((4,))
    x = layers.Rescaling(0.5, name="scale")(x)
    for name in "abc":
        x = layers.Dense(5, name=name)(x)
        x = layers.BatchNormalization(name=f"{name}_norm")(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
        x = layers.Dropout(0.1, name=f"{name}_drop")(x)
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


def test_modules_come_in_order_and_hold_what_lies_between_boundaries():
    base = chain()
    model = e2e.modularize(base, ["b_relu", "a_relu"])
    assert members(model) == {
        "a_relu": ["scale", "a", "a_norm", "a_relu"],
        "b_relu": ["a_drop", "b", "b_norm", "b_relu"],
        "out": ["b_drop", "c", "c_norm", "c_relu", "c_drop", "out"],
    }
    assert sources(model) == {"a_relu": (), "b_relu": ("a_relu",), "out": ("b_relu",)}
    assert list(model.boundaries) == ["a_relu", "b_relu"]
    assert_partitions(model, base)
    assert_isolated(model, np.ones((2, 4)))


def test_the_last_module_has_no_boundary_and_no_objective():
    *first, last = e2e.modularize(chain(), ["a"]).modules
    assert (last.boundary, last.objective, last.head_variables) == (None, None, [])
    for module in first:
        assert module.boundary.module == module.name
        assert module.objective is module.boundary.objective
        assert module.head_variables


def test_a_frozen_layer_is_in_its_module_but_not_trainable():
    base = chain()
    base.get_layer("a").trainable = False
    model = e2e.modularize(base, ["a_relu"])
    assert_partitions(model, base)
    first = model.modules[0]
    kernel = base.get_layer("a").kernel
    assert any(v is kernel for v in first.variables)
    assert not any(v is kernel for v in first.trainable_variables)
    base.get_layer("a").trainable = True
    assert any(v is kernel for v in first.trainable_variables)


def random_model(seed):
    """A graph with skip connections and its strict cut points, some of them chosen."""
    draw = random.Random(seed)
    x = inputs = keras.Input((4,))
    number = 0
    for _ in range(draw.randint(2, 4)):
        skip = x = layers.Dense(4, name=f"n{number}")(x)
        number += 1
        for _ in range(draw.randint(0, 3)):
            kind = draw.choice([layers.Dense, layers.Dense, layers.BatchNormalization])
            options = {"units": 4} if kind is layers.Dense else {}
            x = kind(name=f"n{number}", **options)(x)
            number += 1
        if x is not skip and draw.random() < 0.7:
            x = layers.Add(name=f"n{number}")([skip, x])
            number += 1
    base = keras.Model(inputs, layers.Dense(2, name="out")(x))
    points = [point.layer.name for point in cut_points(Graph(base))]
    return base, draw.sample(points, draw.randint(1, len(points)))


@pytest.mark.parametrize("seed", range(12))
def test_modules_partition_the_variables_of_random_models(seed):
    base, chosen = random_model(seed)
    model = e2e.modularize(base, chosen)
    assert set(model.boundaries) == set(chosen)
    assert_partitions(model, base)
    assert_isolated(model, np.ones((2, 4)))


def two_towers():
    left, right = keras.Input((4,), name="left"), keras.Input((3,), name="right")
    towers = []
    for name, x in (("p", left), ("q", right)):
        x = layers.Dense(5, name=f"{name}0")(x)
        towers.append(layers.Dense(5, name=f"{name}1")(x))
    x = layers.Concatenate(name="pair")(towers)
    x = layers.Dense(6, name="mix")(x)
    return keras.Model([left, right], layers.Dense(2, name="out")(x))


def test_each_of_two_towers_is_a_module():
    base = two_towers()
    model = e2e.modularize(base, ["p1", "q1"])
    assert members(model) == {
        "p1": ["p0", "p1"],
        "q1": ["q0", "q1"],
        "out": ["pair", "mix", "out"],
    }
    assert sources(model) == {"p1": (), "q1": (), "out": ("p1", "q1")}
    assert_partitions(model, base)
    assert_isolated(model, [np.ones((2, 4)), np.ones((2, 3))])


def test_a_boundary_in_one_tower_leaves_the_other_to_the_last_module():
    base = two_towers()
    model = e2e.modularize(base, ["p1"])
    (first, last) = model.modules
    assert [layer.name for layer in first.layers] == ["p0", "p1"]
    assert {layer.name for layer in last.layers} == {"q0", "q1", "pair", "mix", "out"}
    assert_isolated(model, [np.ones((2, 4)), np.ones((2, 3))])


def test_the_towers_can_reconstruct_what_each_was_given():
    objective = e2e.objectives.Reconstruction
    model = e2e.modularize(
        two_towers(), {"p1": objective(), "q1": objective()}, training_mode="local"
    )
    shapes = [b.objective.network.output_shape for b in model.boundaries.values()]
    assert shapes == [(None, 4), (None, 3)]
    model.compile("sgd", "mse")
    x = [np.ones((8, 4)), np.zeros((8, 3))]
    model.fit(x, np.zeros((8, 2)), verbose=0)


def test_an_encoder_called_twice_is_one_module_crossed_twice():
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    encoder = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, name="e0"), layers.Dense(3, name="e1")],
        name="encoder",
    )
    x = layers.Concatenate(name="pair")([encoder(left), encoder(right)])
    base = keras.Model([left, right], layers.Dense(2, name="out")(x))
    for name in ("encoder", "e1"):
        model = e2e.modularize(base, [name], training_mode="local")
        (first, last) = model.modules
        assert [module.name for module in model.modules] == [name, "out"]
        assert {id(v) for v in first.variables} == {id(v) for v in encoder.weights}
        assert last.inputs == (name,)
        assert_partitions(model, base)
        assert_isolated(model, [np.ones((2, 4)), np.zeros((2, 4))])


def test_the_local_loss_of_a_module_crossed_twice_is_the_mean_of_both():
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    encoder = layers.Dense(3, name="encoder")
    x = layers.Concatenate(name="pair")([encoder(left), encoder(right)])
    base = keras.Model([left, right], layers.Dense(2, name="out")(x))
    model = e2e.modularize(base, ["encoder"], training_mode="local")
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    one, other, y = (rng.normal(size=(6, n)).astype("float32") for n in (4, 4, 2))
    outputs = model([one, other], training=True)
    total = model.compute_loss(x=[one, other], y=y, y_pred=outputs, training=True)
    (network,) = model.boundaries["encoder"].objective.networks
    local = [np.mean((np.asarray(network(encoder(x))) - y) ** 2) for x in (one, other)]
    task = np.mean((np.asarray(outputs) - y) ** 2)
    np.testing.assert_allclose(float(total), task + np.mean(local), rtol=1e-5)


def test_a_raw_input_may_enter_a_later_module_again():
    inputs = keras.Input((4,))
    first = layers.Dense(5, name="a")(inputs)
    again = layers.Concatenate(name="again")([first, layers.Rescaling(2.0)(inputs)])
    base = keras.Model(inputs, layers.Dense(2, name="out")(again))
    model = e2e.modularize(base, ["a"])
    assert_partitions(model, base)
    assert_isolated(model, np.ones((2, 4)))


def test_what_a_boundary_puts_out_may_enter_two_modules():
    inputs = keras.Input((4,))
    first = layers.Dense(5, name="a")(inputs)
    second = layers.Dense(5, name="b")(first)
    joined = layers.Add(name="join")([first, second])
    base = keras.Model(inputs, layers.Dense(2, name="out")(joined))
    model = e2e.modularize(base, ["a", "b"])
    assert sources(model) == {"a": (), "b": ("a",), "out": ("a", "b")}
    assert_partitions(model, base)
    assert_isolated(model, np.ones((2, 4)))


def conditional(shared):
    """A trunk whose later part sees a condition, which the earlier may see too."""
    inputs, condition = keras.Input((4,)), keras.Input((3,), name="condition")
    embedded = layers.Dense(5, name="embed")(condition)
    x = layers.Dense(5, name="a")(inputs)
    if shared:
        x = layers.Multiply(name="early")([x, embedded])
    x = layers.Dense(5, name="b")(x)
    x = layers.Multiply(name="late")([x, embedded])
    return keras.Model([inputs, condition], layers.Dense(2, name="out")(x))


def test_a_second_input_may_enter_after_a_boundary():
    base = conditional(shared=False)
    model = e2e.modularize(base, ["b"])
    assert set(members(model)["b"]) == {"a", "b"}
    assert set(members(model)["out"]) == {"embed", "late", "out"}
    assert_partitions(model, base)
    assert_isolated(model, [np.ones((2, 4)), np.ones((2, 3))])


def test_a_trained_second_input_may_not_enter_before_and_after_a_boundary():
    with pytest.raises(ValueError, match="'b' is bypassed: layer 'embed'"):
        e2e.modularize(conditional(shared=True), ["b"])


def test_the_last_module_goes_by_the_output_layer_or_outputs():
    inputs = keras.Input((4,))
    code = layers.Dense(5, name="code")(inputs)
    one, two = layers.Dense(2, name="one")(code), layers.Dense(3, name="two")(code)
    single = e2e.modularize(keras.Model(inputs, one), ["code"])
    assert [module.name for module in single.modules] == ["code", "one"]
    double = e2e.modularize(keras.Model(inputs, [one, two]), ["code"])
    assert [module.name for module in double.modules] == ["code", "outputs"]
    assert set(members(double)["outputs"]) == {"one", "two"}


def test_boundaries_by_hand_go_by_their_own_names():
    inputs = keras.Input((4,))
    x = ModuleBoundary(name="first")(layers.Dense(5)(inputs))
    x = ModuleBoundary(name="mark", module="second")(layers.Dense(5)(x))
    model = e2e.ModularModel(inputs, layers.Dense(2, name="out")(x))
    assert [m.name for m in model.modules] == ["first", "second", "out"]
    assert_isolated(model, np.ones((2, 4)))


def test_a_nested_model_without_boundaries_is_one_layer_of_its_module():
    inner = keras.Sequential(
        [keras.Input((5,)), layers.Dense(5), layers.Dense(5)], name="inner"
    )
    base = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, name="a"), inner, layers.Dense(2, name="o")]
    )
    model = e2e.modularize(base, ["a"])
    assert members(model) == {"a": ["a"], "o": ["inner", "o"]}
    assert_partitions(model, base)


def test_random_state_and_statistics_are_variables_of_their_module():
    base = chain()
    model = e2e.modularize(base, ["a_norm"])
    first, last = model.modules
    norm = base.get_layer("a_norm")
    for variable in (norm.moving_mean, norm.moving_variance):
        assert any(v is variable for v in first.variables)
        assert not any(v is variable for v in first.trainable_variables)
    assert any(v is base.get_layer("b_norm").moving_mean for v in last.variables)


def test_operations_without_weights_belong_to_no_list_of_layers():
    inputs = keras.Input((4,))
    x = ops.tanh(layers.Dense(5, name="a")(inputs))
    base = keras.Model(inputs, layers.Dense(2, name="out")(ops.multiply(x, 2.0)))
    model = e2e.modularize(base, ["a"])
    assert members(model) == {"a": ["a"], "out": ["out"]}
    assert_isolated(model, np.ones((2, 4)))


def test_the_calls_of_a_graph_come_inputs_first():
    made = set()
    for call in compat.graph_calls(chain()):
        assert all(id(t) in made for t in call.inputs)
        made |= {id(t) for t in call.outputs}
