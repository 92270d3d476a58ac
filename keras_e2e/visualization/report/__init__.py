"""One HTML page of finished runs, from the logs of `ModuleTensorBoard`.

write           the whole way from log directory to page
event_files     event files -> runs
downsampling    which measurements of a long series are drawn
figures         runs -> Plotly figures
facts           runs -> texts and numbers
page            facts and figures -> HTML, by the templates
saving          HTML -> file, all or nothing
"""

import os

from keras_e2e.visualization.report import event_files, saving
from keras_e2e.visualization.report.event_files import ReportError

__all__ = ["ReportError", "write"]


def write(
    logdir: str | os.PathLike[str], output: str | os.PathLike[str] = "report.html"
) -> tuple[int, list[str]]:
    """Writes the report: one file that needs no other and no network.

    Args:
        logdir: Path of the folder where `ModuleTensorBoard` logged; all folders below it
            are searched.
        output: Path of the HTML file. A file that exists is replaced when the new one is
            complete. Defaults to `"report.html"`.

    Returns:
        A tuple: the number of runs, and a list of sentences about what could not be read;
        they are on the page, too.

    Raises:
        ReportError: If there is nothing to report, the file cannot be written, or Jinja2
            or Plotly is not installed. Then nothing is written.

    Example:

    >>> import os, tempfile
    >>> from keras_e2e.visualization import report
    >>> from keras_e2e.visualization.tensorboard.event_writer import Writer
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = Writer(f"{folder}/logs/a/modules", {"e2e_loss/01_encoder": "`loss`."})
    ...     log.scalars(1, [("e2e_loss/01_encoder", 0.7)])
    ...     log.close()
    ...     found = report.write(f"{folder}/logs", f"{folder}/report.html")
    ...     found, os.listdir(folder).count("report.html")
    ((1, []), 1)
    """
    try:
        # Needs the packages of the extra [report].
        from keras_e2e.visualization.report import page
    except ImportError as error:
        if (error.name or "").split(".")[0] not in ("jinja2", "markupsafe", "plotly"):
            raise
        raise ReportError(
            f"The report needs the package {error.name!r}, which is not installed: "
            "pip install 'keras-e2e[report]'."
        ) from error
    # To read the logs may take long: an invalid output is refused before.
    target = saving.checked(output)
    logs = event_files.read(logdir)
    saving.save(target, page.render(logs))
    return len(logs.runs), [str(notice) for notice in logs.notices]
