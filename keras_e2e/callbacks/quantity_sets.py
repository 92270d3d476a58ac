"""Which quantities a callback measures: a set by its name, or a list."""

from collections.abc import Iterable
from typing import Literal

from keras_e2e.diagnostics import Quantity, default_quantities, full_quantities
from keras_e2e.diagnostics.quantity_checks import check_quantities
from keras_e2e.utils.validation import did_you_mean

QuantitySet = Literal["default", "full"]
SETS = {"default": default_quantities, "full": full_quantities}


def quantities_of(who: str, quantities: QuantitySet | Iterable[Quantity]) -> list[Quantity]:
    """The quantities of a set, or those given; an error says what is wrong.

    Args:
        who: String, the class that was given them, for errors.
        quantities: The name of a set, or a list.
    """
    if isinstance(quantities, str):
        if quantities not in SETS:
            raise ValueError(
                f"{who}: quantities={quantities!r}: expected one of {list(SETS)}, or a "
                "list of Quantity objects." + did_you_mean(quantities, SETS)
            )
        return SETS[quantities]()
    if not isinstance(quantities, Iterable):
        raise TypeError(
            f"{who}: quantities={quantities!r}: expected one of {list(SETS)}, or a list of "
            "Quantity objects, such as [keras_e2e.diagnostics.GradRMS()]."
        )
    return check_quantities(who, quantities)
