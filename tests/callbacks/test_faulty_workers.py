"""Workers that differ are refused by name; one that dies ends all, and all go on."""

import json
import signal

import pytest

from tests.callbacks.test_workers import free_addresses, started

pytestmark = pytest.mark.slow


def ended(what, folder):
    """How two workers ended, what they printed, and what they wrote of errors."""
    addresses = ",".join(free_addresses(2))
    names = [folder / f"{what}{index}" for index in range(2)]
    module = "tests.callbacks.faulty_worker"
    workers = [
        started(name, what, index, addresses, folder, module=module)
        for index, name in enumerate(names)
    ]
    try:
        status = [worker.wait(timeout=1800) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    lines = [name.with_name(f"{name.name}.out").read_text().splitlines() for name in names]
    found = [{k: v for line in each for k, v in json.loads(line).items()} for each in lines]
    errors = [name.with_name(f"{name.name}.err").read_text() for name in names]
    return status, found, errors


@pytest.fixture(scope="module")
def differed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    return folder, *ended("differs", folder)


@pytest.fixture(scope="module")
def resumed(differed):
    return ended("resumes", differed[0])


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("what", "said"),
    {
        "modules": ["the modules", "['a', 'b', 'out']", "['a', 'out']", "same program"],
        "objectives": ["the objectives", "a: {class: 'Prediction'", "'Reconstruction'"],
        "mode": ["training mode", "'local'", "'deep_supervision'", "model.training_mode"],
        "optimizer": ["the optimizer", "{beta_1: 0.9}", "{beta_1: 0.5}"],
        "package": ["keras-e2e", "'0.1'", "pip install keras-e2e=="],
        "compile": ["the arguments of compile", "{loss_weights: None}", "0.5"],
        "layers": ["the layers", "number 1, Dropout", "same program"],
        "values": ["the values of what trains", "number 0, kernel", "Load and set weights"],
        "rate": ["the learning rate", "[0.2", "learning rates on all workers alike"],
        "batches": ["the number of batches", "the chief has 4", "worker 1 has 3"],
        "epochs": ["the arguments of fit", "{epochs: 4}", "{epochs: 3}"],
        "predict": ["the arguments of predict", "[[64, 4]]", "[[48, 4]]"],
    }.items(),
)
def test_workers_that_differ_are_refused_on_all_of_them(differed, what, said):
    _, _, found, errors = differed
    for worker in found:
        assert "refused" in worker, errors
        for part in ("'net'", "the chief has", "worker 1 has", *said):
            assert part in worker["refused"][what]


def test_when_one_dies_all_end_and_go_on_from_the_chief_s_backup(differed, resumed):
    _, (chief, other), whole, errors = differed
    assert (chief, other) == (1, -signal.SIGKILL), errors[0][-3000:]
    assert "UnavailableError" in errors[0]
    _, found, errors = resumed
    for mine, undisturbed in zip(found, whole, strict=True):
        assert mine.get("epochs") == [2, 3], errors[0][-3000:]
        assert mine["resumed"] == undisturbed["whole"] == found[0]["resumed"]


def test_a_mode_that_one_worker_sets_is_named(resumed):
    status, _, (chief, other) = resumed
    assert status == [1, 1]
    assert "mode 'deep_supervision'" in other and "not all others have within" in other
    assert "UnavailableError" in chief
