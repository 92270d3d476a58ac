"""What `benchmarks/compatibility.py` finds of tiny models: good, wrong, refused."""

import keras
import numpy as np
import pytest


@pytest.fixture(scope="module")
def scripts(benchmark_script):
    """The cases, the checks, the steps and the report of the benchmark."""
    names = ("case", "checks", "steps", "report")
    return tuple(benchmark_script(f"_compatibility_{name}") for name in names)


def mlp(cls=keras.Model):
    inputs = keras.Input((4,))
    x = keras.layers.Dense(4, "relu", name="a")(inputs)
    return cls(inputs, keras.layers.Dense(3, "softmax", name="b")(x))


def found_of(scripts, folder, make, until=None):
    """What the checks find of a model."""
    case, checks, _, _ = scripts
    found: dict = {}
    checks.Checks(case.Case(make), folder, only=until).run(found.__setitem__)
    return found


def test_a_model_that_can_do_all(scripts, tmp_path):
    _, _, steps, report = scripts
    found = found_of(scripts, tmp_path, mlp)
    assert {name: f["result"] for name, f in found.items()} == {
        name: "" if name == "quarters" else report.YES for name in report.CHECKS
    }
    assert found["cuts"]["value"] == 1 and found["modularize"]["value"] == 2
    for name in found["saved"]["value"]:
        assert steps.outcome(lambda name=name: steps.load(tmp_path, name)) == {
            "result": report.YES
        }
    run = {"checks": found, "seconds": 1.0}
    assert report.verdict(run) == report.YES
    (row,) = report.rows({"mlp": run})
    assert len(row) == len(report.header())
    assert report.said({"mlp": run}) == []


def test_another_prediction_is_wrong(scripts, tmp_path):
    *_, report = scripts
    made = []

    def other_each_time():
        made.append(mlp())
        kernel = made[-1].layers[1].kernel
        kernel.assign(kernel + 0.1 * len(made))
        return made[-1]

    found = found_of(scripts, tmp_path, other_each_time, ("modularize", "predict"))
    assert found["predict"]["result"] == report.WRONG
    assert report.verdict({"checks": found}) == report.WRONG


class Overriding(keras.Model):
    """Its loss is a method of its own."""

    def compute_loss(self, x=None, y=None, y_pred=None, **kwargs):
        return keras.ops.mean(y_pred)


def test_a_refusal_is_told_from_a_crash(scripts, tmp_path):
    _, _, steps, report = scripts
    found = found_of(scripts, tmp_path, lambda: mlp(Overriding))
    assert list(found) == ["cuts", "halves", "quarters", "modularize"]
    assert found["modularize"]["result"] == report.REFUSED
    assert found["modularize"]["named"] and "compute_loss" in found["modularize"]["message"]

    def crashing():
        np.ones(3).reshape(2)

    assert steps.outcome(crashing)["result"] == report.CRASH


def test_tables_are_written_between_the_marks_of_a_document(scripts, tmp_path):
    *_, report = scripts
    file = tmp_path / "doc.md"
    file.write_text("before\n<!-- hub:begin -->\nold\n<!-- hub:end -->\nafter\n")
    checks = {"cuts": {"result": "yes", "value": 3}}
    checks["modularize"] = {"result": "refused", "message": "a 'layer'", "named": False}
    runs = {"one": {"checks": checks, "seconds": 2.0}}
    report.write(file, "hub", runs)
    text = file.read_text()
    assert text.startswith("before") and text.endswith("after\n") and "old" not in text
    assert "1 models: 1 refused." in text and "| one | refused | 3 |" in text
    assert "- one: K tried: refused: a 'layer', which names no layer" in text
    with pytest.raises(ValueError, match="no marks"):
        report.write(file, "structures", runs)
