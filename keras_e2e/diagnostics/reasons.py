"""Why a module is unclear, in a sentence each."""

from collections.abc import Mapping, Sized

from keras_e2e.diagnostics.plateau import MEASUREMENTS

FROZEN = "The training mode does not train this module."
LACKING = (
    "A verdict takes the quantities gradient_snr and loss; one of them was not measured."
)
CONTRADICTING = (
    "The measurements contradict each other: some show a usable gradient, and the loss is "
    "where it began. Train longer."
)


def too_few(measured: Mapping[str, Sized]) -> str:
    """Says how many measurements there are, and how to get more.

    Args:
        measured: Dict from quantity, `loss` among them, to the measurements of a module.
    """
    count = len(measured["loss"])
    if not count and any(len(values) for values in measured.values()):
        return LACKING
    return (
        f"A verdict takes {MEASUREMENTS} measurements in one training mode; so far there "
        f"{'is' if count == 1 else 'are'} {count}. Lower update_freq or train longer."
    )
