"""Which models of others can be split, trained and saved: one row for each.

The smallest model of every family of keras.applications, tasks of keras-hub from small
configurations (no download), and small models of stock layers with the structures that
models have. Each is a case, in a process of its own: a crash or a lapse of time is a row,
not the end. What each is asked:

- cut points: how many boundaries find a place at the same time;
- largest: the memory of the largest of two and of four modules, of its fair share;
- K tried: with how many modules all else is tried (four, or as many as there can be);
- inference: `predict` is that of the model, to the bit;
- end to end: logs and weights after three steps are those of the model, to the bit;
- local: three local steps in a graph train each module, and no loss is infinite;
- isolated: a module is trained alike, to the bit, whatever those downstream are like;
- XLA: local steps with `jit_compile=True`, and how far their loss is off;
- strip: the same prediction, to the bit, and the class, where it is not the model's;
- saved: both models, loaded in a fresh process, predict the same, to the bit.

keras-hub is not needed otherwise: `pip install keras-hub sentencepiece` (0.32 was tried).
Results are kept in a JSON file as they come; a case that is there is not run again, but for
those named by `--cases`.

    python benchmarks/compatibility.py [--only=applications,hub,structures] [--cases=...]
        [--skip=xla] [--timeout=900] [--docs=docs/compatibility.md]
"""

import importlib.util
import json
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from _compatibility_report import CHECKS, CRASH, RUNNING, STOCK, YES, show, verdict, write
from absl import app, flags

GROUPS = {
    "applications": "keras.applications",
    "hub": "keras-hub",
    "structures": "structures",
}
FLAGS = flags.FLAGS
# Forks processes that have imported everything and made nothing.
CONTEXT = multiprocessing.get_context("forkserver")


def define_flags() -> None:
    """Defines the flags; not on import, for the tests import this."""
    flags.DEFINE_list("only", list(GROUPS), "Which groups.")
    flags.DEFINE_list("cases", [], "Which cases; they are run again. By default all.")
    flags.DEFINE_list("skip", [], "Which checks to leave out: xla takes the longest.")
    flags.DEFINE_integer("timeout", 900, "Seconds for a case.", lower_bound=1)
    flags.DEFINE_string("docs", None, "A document in which to write the tables.")
    flags.DEFINE_string("output", "benchmarks/results", "Folder of the JSON file.")


def _run(sender: Any, step: str, args: tuple) -> None:
    import _compatibility_steps

    getattr(_compatibility_steps, step)(lambda *found: sender.send(found), *args)


def reported(step: str, *args: Any, timeout: float) -> dict[str, dict]:
    """What a step of `_compatibility_steps` reports from a process of its own.

    If the process ends early or takes too long, that is what is found of the check that
    was running, or of `"made"`.
    """
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_run, args=(sender, step, args))
    process.start()
    sender.close()
    until, found, end = time.monotonic() + timeout, {}, ""
    try:
        while receiver.poll(max(0.0, until - time.monotonic())):
            check, result = receiver.recv()
            found[check] = result
        end = f"not done after {timeout:.0f} seconds"
        process.kill()
    except EOFError:
        process.join()
        if process.exitcode:
            end = f"the process ended with {process.exitcode}"
    process.join()
    if end:
        check = next((c for c, f in found.items() if f.get("result") == RUNNING), "made")
        found[check] = {"result": CRASH, "message": end}
    return found


def measured(group: str, name: str, checks: list[str], timeout: float) -> dict:
    """What is found of a case."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = reported("send_checks", group, name, checks, folder, timeout=timeout)
        saved = found.get("saved", {})

        def loaded(model: str) -> dict:
            left = max(1.0, timeout - (time.monotonic() - begun))
            args = (group, model, folder)
            return next(iter(reported("send_loaded", *args, timeout=left).values()))

        for model in saved.pop("value", ()):
            result = loaded(model)
            if result["result"] != YES:
                if loaded("stock")["result"] == result["result"]:
                    result["result"] = STOCK
                found["saved"] = {**saved, **result}
                break
    return {"checks": found, "seconds": round(time.monotonic() - begun, 1)}


def names_of(group: str) -> list[str]:
    """The names of the cases of a group."""
    (found,) = reported("send_names", group, timeout=FLAGS.timeout).values()
    return found["value"]


def wanted(group: str, checks: list[str], results: dict[str, dict]) -> list[str]:
    """The cases of a group that are to be run."""
    if group == "hub" and importlib.util.find_spec("keras_hub") is None:
        print("keras-hub is not installed: left out.", file=sys.stderr)
        return []

    def is_done(name: str) -> bool:
        run = results.get(f"{group}/{name}")
        # What is refused early has no further checks.
        return bool(run) and (verdict(run) != YES or set(checks) <= set(run["checks"]))

    names = names_of(group)
    return [n for n in names if n in FLAGS.cases or not (FLAGS.cases or is_done(n))]


def main(_: list[str]) -> None:
    """Runs the cases."""
    # Packages that are installed: a fork server finds nothing else, and passes over what
    # is not there.
    CONTEXT.set_forkserver_preload(["keras_e2e", "keras_hub"])
    file = pathlib.Path(FLAGS.output) / "compatibility.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(file.read_text()) if file.exists() else {}
    checks = [name for name in CHECKS if name not in FLAGS.skip]
    for group in FLAGS.only:
        for name in wanted(group, checks, results):
            key = f"{group}/{name}"
            results[key] = measured(group, name, checks, FLAGS.timeout)
            file.write_text(json.dumps(results, indent=1))
            print(key, results[key], file=sys.stderr, flush=True)
    for group, title in GROUPS.items():
        runs = {
            key.split("/", 1)[1]: run
            for key, run in results.items()
            if key.startswith(f"{group}/")
        }
        if runs:
            show(title, runs)
            if FLAGS.docs:
                write(pathlib.Path(FLAGS.docs), group, runs)


if __name__ == "__main__":
    define_flags()
    app.run(main)
