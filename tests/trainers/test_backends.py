"""A backend is a folder of `trainers`: the same files with the same public names."""

import ast
import pathlib

import keras_e2e

TRAINERS = pathlib.Path(keras_e2e.__file__).parent / "trainers"
BACKENDS = ["jax", "tensorflow"]
# What `trainers.backend` takes from each; the others are a backend's own.
CONTRACT = {"instrumentation.py": ["instrument"], "step.py": ["ModularStep"]}


def signatures(path):
    """The public functions and methods of a file, with the names of their arguments."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        inner = node.body if isinstance(node, ast.ClassDef) else []
        for one in (node, *inner):
            if isinstance(one, ast.FunctionDef) and not one.name.startswith("_"):
                found[one.name] = [argument.arg for argument in one.args.args]
    return found


def test_every_backend_has_the_files_and_names_that_are_taken_from_it():
    for backend in BACKENDS:
        for file, names in CONTRACT.items():
            tree = ast.parse((TRAINERS / backend / file).read_text())
            there = {getattr(node, "name", "") for node in tree.body}
            assert set(names) <= there, (backend, file)


def test_no_backend_has_a_file_of_another_name():
    files = {b: {p.name for p in (TRAINERS / b).glob("*.py")} for b in BACKENDS}
    assert files["jax"] <= files["tensorflow"]


def test_functions_of_one_name_take_the_same_arguments():
    for file in CONTRACT:
        jax, tensorflow = (signatures(TRAINERS / b / file) for b in BACKENDS)
        for name in set(jax) & set(tensorflow) - {"train_step"}:
            assert jax[name] == tensorflow[name], (file, name)
