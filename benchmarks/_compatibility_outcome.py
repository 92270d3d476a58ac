"""What came out of a check of `compatibility.py`: done, wrong, refused, or an error."""

import pathlib
import traceback
from collections.abc import Callable, Set
from typing import Any

import keras
import numpy as np
from _compatibility_report import CRASH, REFUSED, STOCK, WRONG, YES

import keras_e2e as e2e
from keras_e2e.utils import compat


class Wrong(Exception):
    """A result that is not what it should be."""


class StockFails(Exception):
    """The model itself cannot do this."""


class TooFew(Exception):
    """A graph that has not so many cut points."""


def same(one: Any, other: Any) -> bool:
    """Whether two structures of arrays are equal, to the bit."""
    pairs = zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def demand(found: bool, message: str) -> None:
    """Raises `Wrong` where something is not so."""
    if not found:
        raise Wrong(message)


def is_refusal(error: BaseException) -> bool:
    """Whether an error was raised on purpose, by keras_e2e itself."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    ours = pathlib.Path(e2e.__file__).parent in pathlib.Path(last).parents
    return ours and isinstance(error, ValueError | TypeError | NotImplementedError)


def names_of(model: keras.Model) -> set[str]:
    """The names that a refusal may give: of layers, operations and overridden methods."""
    found = {layer.name for layer in compat.all_layers(model)}
    found |= {operation.name for operation in getattr(model, "operations", ())}
    return found | {"compute_loss()", "train_step()", "predict_step()", "call()"}


def outcome(check: Callable[[], Any], names: Set[str] = frozenset()) -> dict:
    """What came out of a check.

    Args:
        check: Returns a value, or raises.
        names: What a refusal is to name.
    """
    try:
        value = check()
        return {"result": YES, **({} if value is None else {"value": value})}
    except TooFew:
        return {"result": ""}
    except Wrong as error:
        return {"result": WRONG, "message": str(error)}
    except StockFails as error:
        return {"result": STOCK, "message": str(error)}
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        if is_refusal(error):
            named = any(name in str(error) for name in names)
            return {"result": REFUSED, "message": message, "named": named}
        shown = "".join(traceback.format_exception(error))[-4000:]
        return {"result": CRASH, "message": message[:500], "traceback": shown}


def of_stock(run: Callable[[], Any]) -> Any:
    """What the model itself does; raises `StockFails` where it fails."""
    try:
        return run()
    except Exception as error:
        raise StockFails(f"{type(error).__name__}: {error}"[:500]) from error


def or_stock(ours: Callable[[], Any], stock: Callable[[], Any]) -> Any:
    """What `ours` returns; raises `StockFails` where the model itself fails, too."""
    try:
        return ours()
    except Wrong:
        raise
    except Exception as error:
        if not is_refusal(error):
            of_stock(stock)
        raise
