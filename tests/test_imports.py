"""What `import keras_e2e` loads, and what it leaves until it is used."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
{code}
print(json.dumps(sorted(sys.modules)))
"""
EXPERIMENTS = (
    "keras_e2e.experiments",
    "tensorboard",
    "matplotlib.pyplot",
    "dask",
    "optuna",
)


def run(code, backend="tensorflow"):
    """The output of a script in a process of its own."""
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": backend},
        timeout=1800,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    return found.stdout


def loaded(code, backend="tensorflow"):
    """The modules that are loaded once the code has run."""
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    return set(json.loads(run(SCRIPT.format(code=code), backend).splitlines()[-1]))


def under(modules, package):
    return {name for name in modules if f"{name}.".startswith(f"{package}.")}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_the_import_loads_no_experiment_and_no_tensorboard(backend):
    modules = loaded("import keras_e2e", backend)
    # TensorFlow itself has parts of TensorBoard loaded.
    alone = loaded("import keras", backend)
    for package in EXPERIMENTS:
        assert not under(modules, package) - alone
    if backend == "jax":
        assert not under(modules, "tensorflow")


@pytest.mark.slow
def test_on_jax_nothing_that_is_exported_imports_tensorflow():
    code = "import keras_e2e as e2e; [getattr(e2e, name) for name in e2e.__all__]"
    modules = loaded(code, "jax")
    assert under(modules, "keras_e2e.experiments.tasks")
    assert not under(modules, "tensorflow")


def test_every_public_name_is_there_and_listed():
    run(
        "import keras_e2e as e2e\n"
        "assert set(e2e.__all__) <= set(dir(e2e))\n"
        "assert all(hasattr(e2e, name) for name in e2e.__all__)\n"
        "assert e2e.tasks.parity and e2e.regimes.train and e2e.__version__\n"
        "from keras_e2e import *\n"
        "assert tasks is e2e.tasks and regimes is e2e.regimes\n"
        "assert not hasattr(e2e, 'task')\n"
    )


@pytest.mark.slow
def test_the_import_alone_registers_what_a_file_holds(tmp_path):
    path = str(tmp_path / "modular.keras")
    run(
        "import keras, keras_e2e as e2e\n"
        "base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name='a'),\n"
        "                         keras.layers.Dense(1)])\n"
        "model = e2e.modularize(base, {'a': e2e.objectives.Reconstruction()})\n"
        "model.compile(e2e.ModuleOptimizers('adam'), 'mse')\n"
        f"model.save({path!r})\n"
    )
    found = run(
        "import keras_e2e, keras\n"
        f"model = keras.saving.load_model({path!r})\n"
        "print(type(model).__name__, type(model.optimizer).__name__)\n"
    )
    assert found.split() == ["ModularModel", "ModuleOptimizers"]


def test_a_command_registers_what_the_import_does():
    """The command's own process does without `import keras_e2e`, to answer at once."""
    shown = (
        "import keras\n"
        "found = keras.saving.get_custom_objects().items()\n"
        "print(*sorted(k for k, v in found if v.__module__.startswith('keras_e2e.')))\n"
    )
    by_command = run(
        "import sys\n"
        "sys.argv[0] = 'keras-e2e'\n"
        "from keras_e2e.experiments import saved_model\n"
        "assert 'keras' not in sys.modules\n"
        f"saved_model._register()\n{shown}"
    )
    assert by_command.split() == run(f"import keras_e2e\n{shown}").split()
    assert "keras_e2e>ObservationNormalization" in by_command
