"""What stands in the way of a report."""


class ReportError(Exception):
    """The report cannot be made; the message names the file and the way out."""
