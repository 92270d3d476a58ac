"""Whether sizes divide each other and a model is compiled with a loss that fits."""

from collections.abc import Mapping
from typing import Any

import keras

from keras_e2e.rewards.losses import PolicyLoss
from keras_e2e.utils.validation import check_integer

# Over how many steps a memory is trained by default.
DEFAULT_SEQUENCE_LENGTH = 16


def check_batch_size(steps: int, num_envs: int, batch_size: int) -> None:
    """Checks that batches of one size make up a rollout.

    Args:
        steps: Integer, the steps in each environment.
        num_envs: Integer, the number of environments.
        batch_size: Integer, the steps of a batch.

    Raises:
        ValueError: If they do not.
    """
    total = steps * num_envs
    if total % batch_size:
        raise ValueError(
            f"Rollouts: steps={steps} in each of {num_envs} environments are {total} "
            f"steps, which batch_size={batch_size} does not divide. Expected a divisor, "
            f"such as {_divisor_near(total, batch_size)}."
        )


def check_sequence_length(
    length: int | None, batch_size: int, remembers: bool
) -> int | None:
    """Returns the length of sequences; None of a model without memory.

    Args:
        length: Integer, as it was given, or None.
        batch_size: Integer, the steps of a batch.
        remembers: Boolean, whether the model has states.

    Raises:
        ValueError: If the model has no states, or the length does not divide a batch.
    """
    if not remembers:
        if length is not None:
            raise ValueError(
                f"Rollouts: sequence_length={length} is for models with a memory. Name its "
                "inputs and outputs in states, or leave it out."
            )
        return None
    given = DEFAULT_SEQUENCE_LENGTH if length is None else length
    found = check_integer("Rollouts: sequence_length", given, 1)
    if batch_size % found:
        raise ValueError(
            f"Rollouts: sequence_length={found} does not divide batch_size={batch_size}. "
            f"Expected a divisor, such as {_divisor_near(batch_size, found)}."
        )
    return found


def check_loss(model: keras.Model, wanted: str, space: Any) -> None:
    """Checks that the policy's loss reads what `Rollouts` yields for it.

    Args:
        model: The model.
        wanted: Name of the distribution of the actions.
        space: The action space, for the error.

    Raises:
        ValueError: If the loss is Keras's, or one of another distribution.
    """
    loss = _loss_of_policy(model)
    name = getattr(loss, "name", loss)
    kind = type(loss)
    stock = isinstance(loss, keras.losses.Loss) and kind.__module__.startswith("keras.")
    fitting = f"keras_e2e.rewards.PPO(distribution={wanted!r})"
    if isinstance(loss, str) or stock:
        raise ValueError(
            f"The model's policy is compiled with the loss {name!r}, which does not read "
            "what Rollouts yields for it: actions, their advantages and the logarithms of "
            f"their probabilities. Compile it with loss={{'policy': {fitting}, ...}}."
        )
    if isinstance(loss, PolicyLoss) and loss.distribution.name != wanted:
        raise ValueError(
            f"The model is compiled with {kind.__name__}(distribution="
            f"{loss.distribution.name!r}), but the action space is {space}. Compile it "
            f"with {kind.__name__}(distribution={wanted!r})."
        )


def _loss_of_policy(model: keras.Model) -> Any:
    """The loss that the policy is compiled with; None where there is none."""
    loss = getattr(model, "loss", None)
    names = list(getattr(model, "output_names", None) or [])
    if isinstance(loss, Mapping):
        # A model with a single output may call it what it likes.
        return loss.get("policy") or (loss.get(names[0]) if len(names) == 1 else None)
    if isinstance(loss, list | tuple):
        place = names.index("policy") if "policy" in names else 0
        return loss[place] if place < len(loss) else None
    return loss


def _divisor_near(total: int, size: int) -> int:
    """The divisor of a number that is nearest to another one."""
    divisors = (n for n in range(1, total + 1) if total % n == 0)
    return min(divisors, key=lambda n: abs(n - size))
