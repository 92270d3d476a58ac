"""A training by reward that is killed goes on with the policy; episodes begin anew."""

import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.rewards.kept_policy import EPOCHS, backup, policy_and_rollouts
from tests.rewards.worlds import weights_of


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on_with_its_policy(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.rewards.kept_policy", str(tmp_path)],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    with np.load(tmp_path / "weights.npz") as file:
        left = [file[name] for name in file.files]
    model, rollouts = policy_and_rollouts()
    first = next(iter(policy_and_rollouts()[1]))
    found = {}

    def note(epoch, logs):
        found.setdefault(epoch, weights_of(model))

    def look(batch, logs):
        found.setdefault("observations", rollouts[0][0])

    watch = keras.callbacks.LambdaCallback(on_epoch_begin=note, on_train_batch_begin=look)
    model.fit(rollouts, epochs=EPOCHS, verbose=0, callbacks=[backup(tmp_path), watch])
    # Two epochs were whole, and the third one begins from their weights.
    assert [key for key in found if key != "observations"] == [2, 3]
    for ours, theirs in zip(found[2], left, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert int(model.optimizer.iterations) == EPOCHS * rollouts.num_batches
    # Environments restart, the numbers that are drawn do not.
    assert rollouts.env_steps == 2 * 16
    assert not np.array_equal(found["observations"], first[0])
