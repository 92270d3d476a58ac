"""The table of modules."""

import keras
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e import TrainingMode
from keras_e2e.objectives import Reconstruction


def model_of(depth=2):
    x = inputs = keras.Input((4,))
    for number in range(depth):
        x = layers.Dense(10, name=f"d{number}")(x)
    x = layers.Dense(3, name="plain")(x)
    base = keras.Model(inputs, layers.Dense(2, name="out")(x), name="net")
    objectives = {f"d{depth - 1}": Reconstruction(), "plain": None}
    return e2e.modularize(base, objectives)


def printed(model):
    lines = []
    assert model.module_summary(print_fn=lines.append) is None
    (text,) = lines
    return text


def row_of(text, module):
    """The cells of the row of a module."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.replace("┃", "│").split("│")][1:-1]
        if len(cells) > 1 and cells[1] == module:
            return cells
    raise AssertionError(f"no row of {module}:\n{text}")


def test_each_module_has_a_row():
    text = printed(model_of())
    assert "'net'" in text
    # parameters: 4*10+10 + 10*10+10; 10*3+3; 3*2+2. The decoder: 10*4+4.
    assert row_of(text, "d1") == ["1", "d1", "d0, d1", "Reconstruction", "160", "44"]
    assert row_of(text, "plain") == ["2", "plain", "plain", "none", "33", "-"]
    assert row_of(text, "out") == ["3", "out", "out", "task loss", "8", "-"]


def test_memory_is_told_for_a_batch_size():
    model = model_of()
    lines = []
    model.module_summary(lines.append, batch_size=65536)
    (text,) = lines
    found = e2e.estimate_memory(model, batch_size=65536)
    # Linear layers keep what they are given: d0 and d1 make 10 numbers, plain makes 3.
    assert row_of(text, "d1")[6:] == ["2.5", f"{10 / 25:.2f}"]
    assert row_of(text, "d1")[:6] == row_of(printed(model), "d1")
    assert f"{found.end_to_end / 2**20:.1f} MiB end to end" in text
    assert f"{found.splits[0].local / 2**20:.1f} MiB locally" in " ".join(text.split())
    with pytest.raises(ValueError, match="batch_size=0"):
        model.module_summary(batch_size=0)


@pytest.mark.parametrize(
    ("mode", "optimizer", "said"),
    [
        ("end_to_end", "adam", None),
        ("deep_supervision", "adam", None),
        ("local", None, "In mode 'local' gradients are taken at each boundary."),
        ("local", "adam", "are taken at each boundary and applied there."),
        ("local", "nadam", "and applied at the end of the step: a step of Nadam is not"),
        (TrainingMode("mixed", stop=["first"]), "sgd", "(stop first)' gradients are taken"),
    ],
)
def test_it_says_where_gradients_are_taken_and_applied(mode, optimizer, said):
    layer_sizes = [keras.Input((4,)), layers.Dense(3, name="first"), layers.Dense(3)]
    base = keras.Sequential([*layer_sizes, layers.Dense(2, name="out")])
    model = e2e.modularize(base, {"first": Reconstruction()}, training_mode=mode)
    if optimizer is not None:
        model.compile(optimizer, "mse")
    text = " ".join(printed(model).split())
    assert said in text if said else "gradients" not in text


@pytest.mark.parametrize(
    ("objective", "why"),
    [
        ("vicreg", "VICReg at 'first' compares passes over the whole model"),
        ("feedback_alignment", "each loss waits for a signal from the next module"),
    ],
)
def test_it_says_why_gradients_are_taken_at_the_end(objective, why):
    base = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="first"), layers.Dense(2, name="out")]
    )
    model = e2e.modularize(base, ["first"], objective=objective, training_mode="local")
    text = " ".join(printed(model).split())
    assert f"gradients are taken at the end of the step: {why}." in text


@pytest.mark.parametrize("penalty", [None, "l2"])
def test_the_memory_told_is_that_of_where_gradients_are_applied(penalty):
    """With few examples and large layers it matters whether all gradients wait."""
    sizes = [layers.Dense(256, kernel_regularizer=penalty, name=n) for n in "abcd"]
    model = e2e.modularize(keras.Sequential([keras.Input((256,)), *sizes]), ["a", "b", "c"])
    model.compile("adam", "mse")
    (split,) = e2e.estimate_memory(model, batch_size=2).splits
    assert split.local < split.local_one_apply / 2
    lines = []
    model.module_summary(lines.append, batch_size=2)
    told = split.local_one_apply if penalty else split.local
    assert f"{told / 2**20:.1f} MiB locally" in " ".join(lines[0].split())


def test_modules_that_are_not_known_yet_are_announced():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__(name="sub")
            self.first, self.last = layers.Dense(3, name="first"), layers.Dense(2)

        def call(self, x):
            return self.last(self.first(x))

    model = e2e.modularize(Subclassed(), ["first"])
    assert "'sub': known after the first batch, or after model.examine(x)" in printed(model)
    model.examine(keras.ops.ones((2, 4)))
    assert row_of(printed(model), "first")[4] == "15"


def test_many_layers_are_not_all_named():
    row = row_of(printed(model_of(depth=6)), "d5")
    assert row[2].startswith("d0")
    assert "d3" not in row[2]
    assert row[4] == "600"  # 50 + 5 * 110


def test_large_numbers_are_grouped():
    inputs = keras.Input((1000,))
    x = layers.Dense(100, name="wide")(inputs)
    model = e2e.modularize(keras.Model(inputs, layers.Dense(1)(x)), ["wide"])
    assert row_of(printed(model), "wide")[4] == "100,100"


def test_it_prints_to_the_terminal_by_default(capsys):
    model = model_of()
    model.module_summary()
    out = capsys.readouterr().out
    for word in ("net", "module", "plain", "task loss"):
        assert word in out


def test_long_names_are_kept_whole():
    name = "a_layer_with_quite_a_long_name_that_somebody_took_from_a_paper"
    inputs = keras.Input((4,))
    base = keras.Model(inputs, layers.Dense(1)(layers.Dense(3, name=name)(inputs)))
    text = printed(e2e.modularize(base, [name]))
    rows = [line.replace("┃", "│").split("│") for line in text.splitlines()]
    column = "".join(cells[2].strip() for cells in rows if len(cells) > 3)
    assert name in column
