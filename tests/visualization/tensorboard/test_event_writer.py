"""Event files: what a reader finds in them, however they were written."""

import math

import numpy as np
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

from keras_e2e.visualization.tensorboard.event_writer import Writer

ABOUT = {"a": "About a.", "b": "About b.", "c": ""}


def events(folder):
    return [
        (event.step, value.tag, tensor_util.make_ndarray(value.tensor).item(), value)
        for path in sorted(folder.iterdir())
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    ]


def test_scalars_written_again_and_again_are_each_there(tmp_path):
    writer = Writer(str(tmp_path), ABOUT)
    for step in range(4):
        writer.scalars(step, [("a", step / 2), ("b", np.float32(step))])
        writer.scalars(step, [("c", 7)])
    writer.scalars(4, [("a", math.inf)])
    writer.scalars(5, iter([("b", 1e300)]))  # infinite in single precision
    writer.close()
    found = [event[:3] for event in events(tmp_path)]
    expected = [
        each
        for step in range(4)
        for each in [(step, "a", step / 2), (step, "b", float(step)), (step, "c", 7.0)]
    ]
    assert found == [*expected, (4, "a", math.inf), (5, "b", math.inf)]


def test_a_tag_is_described_where_it_is_first_written(tmp_path):
    writer = Writer(str(tmp_path), ABOUT)
    writer.scalars(1, [("a", 1.0)])
    writer.scalars(2, [("a", 2.0), ("b", 2.0)])
    writer.scalars(3, [("a", 3.0), ("b", 3.0)])
    writer.close()
    first = {}
    for _, tag, _, value in events(tmp_path):
        first.setdefault(tag, value.metadata)
    assert {tag: m.summary_description for tag, m in first.items()} == {
        "a": "About a.",
        "b": "About b.",
    }
    assert all(m.plugin_data.plugin_name == "scalars" for m in first.values())
