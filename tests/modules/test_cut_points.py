"""Choosing cut points: every path crosses them, and the modules come out balanced."""

import itertools
import math
import random

import keras
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e.modules.cut_points import balanced, cut_points
from keras_e2e.modules.graph import Graph

WIDTH = 4
OPENERS = (layers.Dropout, layers.GaussianNoise)
KINDS = ["dense", "dense", "relu", "dropout", "norm", "add", "add"]


class Drawn:
    """A random model, with a record of its own of what leads where.

    Attributes:
        model: the model.
        feeds: for each layer's name, the names of the layers that it feeds.
        ends: names of the output layers.
        layers: the layers by name, in the order in which they were made.
    """

    def __init__(self, seed):
        draw = random.Random(seed)
        self.layers, self.feeds = {}, {}
        tensors, fresh = {}, []
        for number in range(draw.choice([1, 1, 2])):
            tensor = keras.Input((WIDTH,), name=f"in{number}")
            tensors[tensor.name] = tensor
            self.feeds[tensor.name] = []
            fresh.append(tensor.name)
        self.inputs = list(fresh)

        def add(layer, *given):
            values = [tensors[name] for name in given]
            tensors[layer.name] = layer(values[0] if len(given) == 1 else values)
            self.layers[layer.name] = layer
            self.feeds[layer.name] = []
            for name in given:
                self.feeds[name].append(layer.name)
                if name in fresh:
                    fresh.remove(name)
            fresh.append(layer.name)

        for number in range(draw.randint(4, 14)):
            name = f"n{number}"
            kind = draw.choice(KINDS)
            early = draw.choice(list(tensors))
            late = draw.choice(fresh)
            if kind == "add" and early != late:
                add(layers.Add(name=name), late, early)
            elif kind == "relu":
                add(layers.ReLU(name=name), late)
            elif kind == "dropout":
                add(layers.Dropout(0.5, name=name), late)
            elif kind == "norm":
                add(layers.BatchNormalization(name=name), late)
            else:
                add(layers.Dense(WIDTH, name=name), draw.choice([late, late, early]))
        if len(fresh) > 1 and draw.random() < 0.8:
            add(layers.Add(name="join"), *fresh)
        add(layers.Dense(2, name="end"), fresh[0])
        self.ends = list(fresh)
        outputs = [tensors[name] for name in self.ends]
        self.model = keras.Model([tensors[name] for name in self.inputs], outputs)

    def reached(self, start, without=None):
        """Names of what lies on paths from these layers, not through `without`."""
        found, pending = set(), [name for name in start if name != without]
        while pending:
            name = pending.pop()
            if name not in found:
                found.add(name)
                pending += [n for n in self.feeds[name] if n != without]
        return found

    def separates(self, name):
        """Whether every path from weights that are not behind it crosses this layer."""
        behind = self.reached([name])
        start = [n for n, x in self.layers.items() if x.weights and n not in behind]
        return not self.reached(start, without=name) & set(self.ends)

    def expected(self):
        """The cut points, by brute force."""
        weighted = {name for name, layer in self.layers.items() if layer.weights}
        runs = {}
        for name in self.layers:
            if name in self.ends or not self.separates(name):
                continue
            following = [self.layers[n] for n in self.feeds[name]]
            if all(isinstance(x, layers.BatchNormalization) for x in following):
                continue
            below = self.reached([name]) - {name}
            before = {n for n in self.layers if name in self.reached([n])}
            if before & weighted and below & weighted:
                runs.setdefault(frozenset(before & weighted), []).append(
                    (len(before), name)
                )
        kept = set()
        for run in runs.values():
            run = [name for _, name in sorted(run)]
            usual = [n for n in run if not isinstance(self.layers[n], OPENERS)]
            kept.add((usual or run)[-1])
        return kept


@pytest.mark.parametrize("first", range(0, 120, 20))
def test_cut_points_are_those_that_brute_force_finds(first):
    found = 0
    for seed in range(first, first + 20):
        drawn = Drawn(seed)
        points = [point.layer.name for point in cut_points(Graph(drawn.model))]
        assert len(points) == len(set(points)), seed
        assert set(points) == drawn.expected(), seed
        found += len(points)
    assert found > 10, "the random models show nothing"


def test_cut_points_can_all_be_boundaries():
    for seed in range(25):
        drawn = Drawn(seed)
        points = [point.layer.name for point in cut_points(Graph(drawn.model))]
        if points:
            model = e2e.modularize(drawn.model, points)
            assert list(model.boundaries) == points


def cost_of(model, members, balance="memory"):
    """What a module of Dense layers, sums and normalizations costs."""
    found = [model.get_layer(name) for name in members]
    if balance == "parameters":
        return sum(layer.count_params() for layer in found)
    views = (keras.layers.InputLayer, layers.Flatten, layers.Reshape)
    found = [layer for layer in found if not isinstance(layer, views)]
    sizes = {layer.name: math.prod(layer.output.shape[1:]) for layer in found}
    if balance == "time":
        kernels = {x.name: x.kernel.shape for x in found if isinstance(x, layers.Dense)}
        return sum(math.prod(kernels.get(name, [sizes[name]])) for name in sizes)
    return 4 * sum(sizes.values())


def chain(widths):
    """A chain of Dense layers of these widths, `d0`, `d1` and so on."""
    x = inputs = keras.Input((widths[0],), name="input")
    for number, width in enumerate(widths[1:]):
        x = layers.Dense(width, name=f"d{number}")(x)
    return keras.Model(inputs, x)


BALANCES = ["memory", "parameters", "time"]


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("seed", range(8))
def test_balanced_cuts_are_the_best_of_all(seed, balance):
    draw = random.Random(seed)
    model = chain([draw.randint(1, 30) for _ in range(draw.randint(4, 9))])
    names = [layer.name for layer in model.layers]
    points = range(2, len(names) - 1)  # a module may end before any of these

    def largest(cuts):
        edges = [0, *cuts, len(names)]
        modules = [names[a:b] for a, b in itertools.pairwise(edges)]
        return max(cost_of(model, members, balance) for members in modules)

    assert len(cut_points(Graph(model))) == len(names) - 2
    for count in range(1, len(names) - 2):
        chosen = [layer.name for *_, layer in balanced(Graph(model), count, balance)]
        cuts = [names.index(name) + 1 for name in chosen]
        assert cuts == sorted(set(cuts))
        assert len(cuts) == count
        best = min(
            largest(c) for c in itertools.combinations([*points, len(names) - 1], count)
        )
        assert largest(cuts) == best


@pytest.mark.slow
@pytest.mark.parametrize("balance", BALANCES)
def test_balanced_cuts_of_random_models_are_the_best_of_all(balance):
    tried = 0
    for seed in range(60):
        drawn = Drawn(seed)
        points = [point.layer.name for point in cut_points(Graph(drawn.model))]
        if len(points) < 3:
            continue
        tried += 1
        everything = [*drawn.inputs, *drawn.layers]

        def largest(cuts, drawn=drawn, everything=everything):
            owner = {}
            for cut in cuts:
                for name in everything:
                    if set(cut) & drawn.reached([name]):
                        owner.setdefault(name, cut)
            modules = [[n for n in everything if owner.get(n) == c] for c in (*cuts, None)]
            return max(cost_of(drawn.model, members, balance) for members in modules)

        for count in (1, 2, 3):
            cuts = balanced(Graph(drawn.model), count, balance)
            chosen = [tuple(layer.name for layer in cut) for cut in cuts]
            single = [(name,) for name in points]
            best = min(map(largest, itertools.combinations(single, count)))
            # One boundary of several tensors may do better.
            exact = all(len(cut) == 1 and cut[0] in points for cut in chosen)
            assert (largest(chosen) == best) if exact else (largest(chosen) <= best)
    assert tried > 5


def residual(blocks=3):
    x = inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(x)
    for block in range(blocks):
        skip = x
        x = layers.Conv2D(4, 3, padding="same", name=f"conv{block}_0")(x)
        x = layers.BatchNormalization(name=f"bn{block}")(x)
        x = layers.ReLU(name=f"relu{block}")(x)
        x = layers.Conv2D(4, 3, padding="same", name=f"conv{block}_1")(x)
        x = layers.Add(name=f"add{block}")([skip, x])
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


def test_a_residual_block_is_never_cut_inside():
    model = residual()
    names = [point.layer.name for point in cut_points(Graph(model))]
    assert names == ["stem", "add0", "add1", "add2"]
    for count in range(1, 5):
        assert set(e2e.modularize(model, count).boundaries) <= set(names)
    with pytest.raises(ValueError, match="at most 4"):
        e2e.modularize(model, 5)


def test_a_module_ends_after_its_pooling_and_before_its_dropout():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(3, 3, name="conv"),
            layers.ReLU(name="relu"),
            layers.MaxPooling2D(name="pool"),
            layers.Dropout(0.5, name="drop"),
            layers.Flatten(name="flatten"),
            layers.Dense(5, name="dense"),
            layers.Dropout(0.5),
            layers.Dense(2, name="out"),
        ]
    )
    graph = Graph(keras.Model(model.inputs, model.outputs))
    assert [point.layer.name for point in cut_points(graph)] == ["pool", "dense"]


def test_a_layer_stays_with_its_batch_normalization():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(3, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Conv2D(3, 3, name="second"),
            layers.BatchNormalization(name="second_norm"),
            layers.Flatten(),
            layers.Dense(2, name="out"),
        ]
    )
    graph = Graph(keras.Model(model.inputs, model.outputs))
    points = [point.layer.name for point in cut_points(graph)]
    assert points == ["relu", "second_norm"]


def test_a_transformer_block_ends_after_its_normalization():
    inputs = keras.Input((5, 4))
    x = layers.Dense(4, name="project")(inputs)
    for block in ("one", "two", "three"):
        x = layers.Add()([x, layers.MultiHeadAttention(1, 4)(x, x)])
        x = layers.LayerNormalization(name=f"{block}_attended")(x)
        x = layers.Add()([x, layers.Dense(4, activation="gelu")(x)])
        x = layers.RMSNormalization(name=block)(x)
    graph = Graph(keras.Model(inputs, layers.Dense(1)(x)))
    blocks = ("one", "two", "three")
    expected = ["project", *(name for b in blocks for name in (f"{b}_attended", b))]
    assert [p.layer.name for p in cut_points(graph)] == expected


def test_no_cut_before_the_first_weights_or_after_the_last():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Rescaling(0.5, name="scale"),
            layers.Dense(3, name="only"),
            layers.Softmax(name="softmax"),
        ]
    )
    assert not cut_points(Graph(keras.Model(model.inputs, model.outputs)))
    for asked in (1, None):
        with pytest.raises(ValueError, match=r"is one module: .* are \['only'\]"):
            e2e.modularize(model, asked)


def test_a_model_without_cut_points_lists_none():
    inputs = keras.Input((4,))
    early = layers.Dense(4)(inputs)
    outputs = [early, layers.Dense(4)(early)]
    with pytest.raises(ValueError, match=r"no cut points \([^)]*\)\. Name layers yourself"):
        e2e.modularize(keras.Model(inputs, outputs))


def test_an_early_output_cannot_be_cut_off():
    inputs = keras.Input((4,))
    first = layers.Dense(4, name="first")(inputs)
    early = layers.Dense(2, name="early")(first)
    second = layers.Dense(4, name="second")(first)
    late = layers.Dense(2, name="late")(second)
    model = keras.Model(inputs, [early, late])
    assert [p.layer.name for p in cut_points(Graph(model))] == ["first"]
    assert list(e2e.modularize(model, 1).boundaries) == ["first"]


@pytest.mark.parametrize(("width", "end"), [(16, "after"), (2, "between")])
def test_a_layer_is_cut_between_its_calls_only_for_balance(width, end):
    inputs = keras.Input((4,))
    twice = layers.Dense(4, name="twice")
    x = layers.Dense(4, name="between")(twice(inputs))
    x = layers.Dense(4, name="after")(twice(x))
    model = keras.Model(inputs, layers.Dense(width, name="out")(x))
    assert [p.layer.name for p in cut_points(Graph(model))] == ["after"]
    assert list(e2e.modularize(model, 1).boundaries) == [end]


def test_siamese_towers_are_cut_where_they_have_joined():
    inputs = [keras.Input((4,), name=name) for name in ("left", "right")]
    encoder = layers.Dense(4, name="encoder")
    x = layers.Concatenate(name="pair")([encoder(x) for x in inputs])
    x = layers.Dense(3, name="hidden")(x)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    assert [p.layer.name for p in cut_points(Graph(model))] == ["pair", "hidden"]


def test_cut_points_lie_inside_nested_models_too():
    def block(name):
        parts = [keras.Input((6,)), *(layers.Dense(6, name=f"{name}{n}") for n in "01")]
        return keras.Sequential(parts, name=name)

    inside = keras.Input((6,))
    deep = keras.Model(inside, layers.Dense(6, name="c")(block("b")(inside)), name="d")
    model = keras.Sequential(
        [keras.Input((6,)), block("a"), deep, layers.Dense(2, name="out")]
    )
    assert list(e2e.modularize(model, 5).boundaries) == ["a0", "a1", "b0", "b1", "c"]
    assert list(e2e.modularize(model, 1).boundaries) == ["b0"]
    with pytest.raises(ValueError, match="at most 5"):
        e2e.modularize(model, 6)


def test_a_shared_layers_parameters_count_once():
    inputs = keras.Input((20,))
    twice = layers.Dense(20, name="twice")
    x = layers.Dense(20, name="first")(twice(twice(inputs)))
    x = layers.Dense(20, name="second")(x)
    x = layers.Dense(20, name="third")(x)
    model = keras.Model(inputs, layers.Dense(20, name="out")(x))
    # 420 parameters each; counted twice, `twice` would be a module with no other.
    modular = e2e.modularize(model, 1, balance="parameters")
    assert list(modular.boundaries) == ["first"]


def narrowing():
    """Large maps first, large kernels last, as in many networks for images."""
    x = inputs = keras.Input((32, 32, 3))
    for number, width in enumerate([8, 16, 32, 64, 128, 256]):
        x = layers.Conv2D(width, 3, padding="same", name=f"c{number}")(x)
        x = layers.MaxPooling2D(name=f"p{number}")(x) if number < 5 else x
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(inputs, layers.Dense(10, name="out")(x))


def test_it_may_be_said_what_to_balance():
    chosen = {
        balance: list(e2e.modularize(narrowing(), 1, balance=balance).boundaries)
        for balance in BALANCES
    }
    # Made: 8 maps of 32 x 32 and 16 x 16 first, then less and less. Parameters: 295,168 of
    # 395,930 in the last convolution. Multiplications: 221,184, then 294,912 each.
    assert chosen == {"memory": ["p0"], "parameters": ["p4"], "time": ["p2"]}
    assert list(e2e.modularize(narrowing(), 1).boundaries) == chosen["memory"]


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_half_the_bytes_are_half_the_memory(policy):
    """Of two halves alike but for the dtype, the one in float32 takes two thirds."""
    x = inputs = keras.Input((64,))
    for number in range(12):
        dtype = policy if number < 6 else "float32"
        x = layers.Dense(64, dtype=dtype, name=f"d{number}")(x)
    model = keras.Model(inputs, layers.Dense(1, name="out")(x))
    expected = "d5" if policy == "float32" else "d7"  # 6 * 2 + 2 * 4 = 20 of 36 bytes
    assert list(e2e.modularize(model, 1).boundaries) == [expected]
