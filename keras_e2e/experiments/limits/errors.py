"""What stands in the way of a sweep."""


class LimitsError(Exception):
    """The sweep cannot be run; the message names what was found and the way out."""
