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
    assert row_of(text, "d1")[:6] == ["1", "d1", "2", "Reconstruction", "160", "44"]
    said = " ".join(text.split())
    assert f"{found.end_to_end / 2**20:.1f} MiB in mode 'end_to_end'" in said
    assert f"{found.splits[0].local / 2**20:.1f} MiB in mode 'local'" in said
    assert "without what heads take (44 parameters)" in said
    model.module_summary(lines.append, batch_size=2)
    assert "activations │" not in lines[1] and "KiB" in lines[1]
    model.compile("adam", "mse", jit_compile=True)
    model.module_summary(lines.append, batch_size=2)
    assert "and without XLA" in " ".join(lines[2].split())
    with pytest.raises(ValueError, match="batch_size=0"):
        model.module_summary(batch_size=0)


def test_no_column_stands_empty_in_a_narrow_terminal(monkeypatch, capsys):
    model = model_of()
    for width, kept in ("83", ["1", "d1", "2"]), ("76", ["1", "d1"]), ("70", ["d1"]):
        monkeypatch.setenv("COLUMNS", width)
        model.module_summary(batch_size=2)
        row = next(x for x in capsys.readouterr().out.splitlines() if "Recon" in x)
        cells = [cell.strip() for cell in row.split("│")[1:-1]]
        assert cells[: len(kept) + 2] == [*kept, "Reconstruction", "160"]


@pytest.mark.parametrize(
    ("mode", "optimizer", "said"),
    [
        ("end_to_end", "adam", "end of the step: no boundary stops the gradient."),
        ("deep_supervision", "adam", "end of the step: no boundary stops the gradient."),
        (TrainingMode("local", reach="all"), "adam", "no boundary stops the gradient."),
        ("sequential:first", "adam", "taken of one module; those before it keep nothing."),
        ("local", None, "In mode 'local' gradients are taken at each boundary that stops"),
        ("local", "adam", "boundary that stops them, and applied there."),
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
    assert said in text


def test_it_says_that_an_eager_step_keeps_all_activations():
    base = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="first")])
    base.add(layers.Dense(2, name="out"))
    model = e2e.modularize(base, ["first"], training_mode="local")
    model.compile("adam", "mse", run_eagerly=True)
    assert "keeps all activations to the end of the step" in " ".join(
        printed(model).split()
    )


def test_with_memory_it_fits_a_terminal_of_eighty_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    x = inputs = keras.Input((16, 16, 3))
    for number in range(1, 13):
        x = layers.Conv2D(8, 3, padding="same", name=f"block_{number}_convolution")(x)
        x = layers.BatchNormalization(name=f"block_{number}_normalization")(x)
    outputs = layers.Dense(3)(layers.GlobalAveragePooling2D()(x))
    e2e.modularize(keras.Model(inputs, outputs), 3).module_summary(batch_size=64)
    table = capsys.readouterr().out.split("└")[0].split("┡")[1].splitlines()
    assert len(table) == 1 + 4 and max(map(len, table)) <= 80


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
    found = e2e.estimate_memory(model, batch_size=2)
    (split,) = found.splits
    assert split.local < split.local_one_apply / 2
    told = split.local_one_apply if penalty else split.local
    said = f"{found.unit.of(told)} {found.unit.name} in mode 'local'"
    for each in (model, e2e.modularize(e2e.strip(model), ["a", "b", "c"])):  # not compiled
        lines = []
        each.module_summary(lines.append, batch_size=2)
        assert said in " ".join(lines[0].split())


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
