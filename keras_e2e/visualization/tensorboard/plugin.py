"""TensorBoard's tab "Modules"."""

import bisect
import contextlib
import importlib.metadata
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

from tensorboard import errors, plugin_util
from tensorboard.backend import http_util
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from keras_e2e.diagnostics import states
from keras_e2e.modules.training_mode import TRAINED_BY
from keras_e2e.visualization.tensorboard.run_data import (
    UNKNOWN,
    RunData,
    named,
    plain,
)
from keras_e2e.visualization.tensorboard.run_reader import Runs

STATIC = Path(__file__).parent / "static"
# Each file has a route of its own: no path is ever made from a request.
FILES = {
    "api.js": "text/javascript",
    "chain.js": "text/javascript",
    "charts.js": "text/javascript",
    "curves.js": "text/javascript",
    "dom.js": "text/javascript",
    "grid.js": "text/javascript",
    "heatmap.js": "text/javascript",
    "index.js": "text/javascript",
    "meanings.js": "text/javascript",
    "panel.js": "text/javascript",
    "runs.js": "text/javascript",
    "scale.js": "text/javascript",
    "table.js": "text/javascript",
    "theme.js": "text/javascript",
    "style.css": "text/css",
}
DAY = 86_400


class ModulesPlugin(base_plugin.TBPlugin):
    """Shows what `ModuleTensorBoard` wrote: chain of modules, heat map, curves, verdicts.

    TensorBoard finds it by the entry point of this package. It reads scalars through the
    data provider only, so that it works with both of TensorBoard's loaders.

    Args:
        context: A `tensorboard.plugins.base_plugin.TBContext`.

    Example:

    >>> from tensorboard.plugins import base_plugin
    >>> from keras_e2e.visualization.tensorboard.plugin import ModulesPlugin
    >>> plugin = ModulesPlugin(base_plugin.TBContext())
    >>> plugin.is_active(), plugin.frontend_metadata().tab_name
    (False, 'Modules')
    """

    plugin_name = "keras_e2e_modules"

    def __init__(self, context: base_plugin.TBContext):
        self._provider = context.data_provider
        self._active = False

    def is_active(self) -> bool:
        # Called at each reload of the page; a log directory does not become empty again.
        if not self._active and self._provider is not None:
            # An error here would fail TensorBoard's list of all tabs; the page reports it.
            with contextlib.suppress(errors.PublicError):
                self._active = Runs(self._provider, RequestContext()).exist()
        return self._active

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        return base_plugin.FrontendMetadata(
            es_module_path="/index.js", tab_name="Modules", disable_reload=True
        )

    def get_plugin_apps(self) -> dict[str, Any]:
        files = {f"/{name}": _file(name, kind) for name, kind in FILES.items()}
        return {
            **files,
            "/plotly.min.js": _plotly,
            "/states": self._serve(_states),
            "/runs": self._serve(self._list),
            "/run": self._serve(self._read),
        }

    def _list(self, runs: Runs, request: wrappers.Request) -> dict[str, Any]:
        """All runs with data of modules, and which plotly is installed."""
        return {
            "plotly": plotly_version(),
            "runs": [{"name": run, **r._asdict()} for run, r in runs.listing().items()],
        }

    def _read(self, runs: Runs, request: wrappers.Request) -> dict[str, Any]:
        """The run that the request names.

        `quantity`, which may be given several times, is what the page would show, and
        `seen` the time up to which it has that of the run already.
        """
        name = request.args.get("run", "")
        found = runs.read(name, request.args.getlist("quantity"))
        if found is None:
            raise errors.NotFoundError(
                f"No data of modules in run {name!r}: it was deleted, or holds none yet."
            )
        seen = request.args.get("seen", 0.0, float)
        since = found.new_since(seen) if seen else None
        content = as_json(found.data, found.quantity, since)
        return {"stamp": found.listed.stamp, "newest": found.newest, **content}

    def _serve(self, answer: Any) -> Any:
        """A WSGI application: what `answer` returns, or its error, as JSON."""

        @wrappers.Request.application
        def serve(request: wrappers.Request) -> wrappers.Response:
            runs = Runs(
                self._provider,
                plugin_util.context(request.environ),
                plugin_util.experiment_id(request.environ),
            )
            code = 200
            try:
                content = answer(runs, request)
            except errors.PublicError as error:
                content, code = {"error": str(error)}, error.http_code
            text = json.dumps(content, allow_nan=False, separators=(",", ":"))
            return http_util.Respond(request, text, "application/json", code)

        return serve


def as_json(
    run: RunData, shown: str | None = None, since: int | None = None
) -> dict[str, Any]:
    """A run for the page: NaN and infinity as texts, equal lists of steps only once.

    Args:
        run: The run.
        shown: String, the quantity whose measurements go along. Defaults to `None`: those
            of all.
        since: Integer, the step from which on measurements go along. Defaults to `None`:
            from the first on.

    Example:

    >>> from keras_e2e.visualization.tensorboard.run_data import Scalar, gather
    >>> from keras_e2e.visualization.tensorboard.plugin import as_json
    >>> run = gather("a", [Scalar("e2e_loss/01_encoder", [1, 11], [0.7, float("nan")])])
    >>> as_json(run)["quantities"][0]["series"], as_json(run)["steps"]
    ({'01_encoder': {'steps': 0, 'values': [0.7, 'nan']}}, [[1, 11]])
    """
    steps: dict[tuple[int, ...], int] = {}  # most tags have the same

    def series(all_steps: list[int], values: list[float]) -> dict[str, Any]:
        first = 0 if since is None else bisect.bisect_left(all_steps, since)
        index = steps.setdefault(tuple(all_steps[first:]), len(steps))
        # A float32 in double precision has digits that nobody measured.
        return {"steps": index, "values": [float(f"{v:.6g}") for v in values[first:]]}

    quantities = [
        {
            "name": quantity,
            "about": run.about.get(quantity, ""),
            "band": run.bands.get(quantity),
            "series": {module: series(*s) for module, s in by_module.items()}
            if shown in (None, quantity)
            else None,
        }
        for quantity, by_module in run.quantities.items()
    ]
    return plain(
        {
            "name": run.name,
            "since": since,
            "first": run.first_step(),
            "last": run.last_step(),
            "modules": [_module(run, module) for module in run.modules],
            "switches": run.switches(),
            "quantities": quantities,
            "steps": list(steps),
        }
    )


def _states(runs: Runs, request: wrappers.Request) -> list[dict[str, Any]]:
    """What each state means, for the page to explain it."""
    return [
        {"name": s.name, "alarm": s.alarm, "meaning": s.meaning, "advice": s.advice}
        for s in states.STATES
    ]


def _module(run: RunData, module: str) -> dict[str, Any]:
    number, name = module.split("_", 1)
    trained_by = run.trained_by.get(module)
    return {
        "id": module,
        "number": int(number),
        "name": name,
        "parameters": run.parameters.get(module),
        "trained_by": named(trained_by.values[-1], TRAINED_BY) if trained_by else None,
        "verdict": _verdict(run, module),
    }


def _verdict(run: RunData, module: str) -> dict[str, Any] | None:
    found = run.verdict(module)
    if found is None:
        return None
    code, step = run.verdicts[module].values[-1], run.verdicts[module].steps[-1]
    state = named(code, list(states.BY_NAME))
    if state == UNKNOWN:
        message = (
            f"Unknown verdict (code {code:g}): the log is damaged, or comes from a newer "
            "version of keras_e2e."
        )
        return {
            "state": state,
            "alarm": False,
            "confidence": None,
            "step": step,
            "message": message,
        }
    return {
        "state": state,
        "alarm": found.alarm,
        "cause": found.cause,
        "confidence": found.confidence if math.isfinite(found.confidence) else None,
        "step": step,
        "message": found.message,
    }


def plotly_version() -> str | None:
    """The version of plotly that is installed; None without it."""
    if _plotly_file() is None:
        return None
    try:
        return importlib.metadata.version("plotly")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _plotly_file() -> Path | None:
    """plotly.js as the wheel of plotly ships it. Importing plotly would take a second."""
    spec = importlib.util.find_spec("plotly")
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder) / "package_data" / "plotly.min.js"
        if file.is_file():
            return file
    return None


@wrappers.Request.application
def _plotly(request: wrappers.Request) -> wrappers.Response:
    file = _plotly_file()
    if file is None:
        text = 'plotly is not installed: pip install "keras-e2e[dashboard]"'
        return http_util.Respond(request, text, "text/plain", 404)
    # The page puts the version into the address, so a cached copy is never out of date.
    content = file.read_bytes()
    return http_util.Respond(request, content, "text/javascript", expires=DAY)


def _file(name: str, kind: str) -> Any:
    @wrappers.Request.application
    def serve(request: wrappers.Request) -> wrappers.Response:
        return http_util.Respond(request, (STATIC / name).read_bytes(), kind)

    return serve
