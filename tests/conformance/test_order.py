"""In the graph that TensorFlow runs, no step reads a weight while it writes it.

Its graph optimizer loses this order where a step does not see to it: see `_forward` in
`trainers/tensorflow/step.py`.
"""

import functools
import pathlib

import keras
import pytest
import tensorflow as tf

from . import cases

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="about graphs of TensorFlow"
)


def graphs_of(step, folder: pathlib.Path) -> list:
    """The graphs that TensorFlow made of the functions called for the first time."""
    # Once it has noted graphs it goes on with it: those of tests before this one go first.
    _noted(lambda: None, folder / "before")
    folder = _noted(step, folder / "step")
    run = tf.compat.v1.RunMetadata()
    for path in map(str, folder.iterdir()):
        for record in tf.data.TFRecordDataset(path):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                run.MergeFromString(value.tensor.string_val[0])
    return [
        graph for function in run.function_graphs for graph in function.partition_graphs
    ]


def _noted(step, folder: pathlib.Path) -> pathlib.Path:
    """The folder, with what TensorFlow has noted of graphs up to the end of a step."""
    writer = tf.summary.create_file_writer(str(folder))
    tf.summary.trace_on(graph=True, profiler=False)
    step()
    with writer.as_default():
        tf.summary.trace_export("step", step=0)
    writer.close()
    return folder


def accesses(graph) -> dict[str, tuple[list, list]]:
    """The reads and the writes of each variable of a graph."""
    found: dict[str, tuple[list, list]] = {}
    for node in graph.node:
        writes = node.op.startswith("Assign") and node.op.endswith("VariableOp")
        if writes or node.op == "ReadVariableOp":
            variable = node.input[0].split(":")[0]
            found.setdefault(variable, ([], []))[writes].append(node.name)
    return found


def unordered(graph) -> list[tuple[str, str]]:
    """Reads and writes of a variable of which neither waits for the other."""
    inputs = {
        node.name: [name.lstrip("^").split(":")[0] for name in node.input]
        for node in graph.node
    }

    @functools.cache
    def before(name):
        return frozenset(inputs[name]).union(*map(before, inputs[name]))

    return [
        (read, write)
        for reads, writes in accesses(graph).values()
        for read in reads
        for write in writes
        if read not in before(write) and write not in before(read)
    ]


# With a clean pass beside the one that teaches, too.
TRIED = [*cases.DISTINCT, cases.BY_NAME["reconstruction-denoising"]]


OPTIMIZERS = {
    "at the boundary": lambda: keras.optimizers.SGD(0.1),
    "at the end": lambda: keras.optimizers.SGD(0.1, global_clipnorm=100.0),
}


# All where it is the rule, every third where the optimizer needs all gradients at once.
RUNS = [(case, "at the boundary") for case in TRIED]
RUNS += [(case, "at the end") for case in TRIED[::3]]


@pytest.mark.parametrize(("case", "applied"), RUNS, ids=lambda v: getattr(v, "name", v))
def test_every_read_of_a_weight_is_before_or_after_its_update(case, applied, tmp_path):
    model = case.compiled(optimizer=OPTIMIZERS[applied](), run_eagerly=False)
    model.training_mode = "local"
    x, y = case.data(8)
    graphs = graphs_of(lambda: model.train_on_batch(x, y), tmp_path)
    written = sum(
        bool(reads and writes)
        for graph in graphs
        for reads, writes in accesses(graph).values()
    )
    assert written >= len(model.trainable_variables)
    assert [pair for graph in graphs for pair in unordered(graph)] == []
