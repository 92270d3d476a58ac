"""Results of runs as `run.run` gives them, made up."""

from keras_e2e.experiments.limits.setting import Setting

MODULES = ("symbols", "parity")


def setting(regime="end_to_end", k=3, seed=0, **changed):
    values = {"task": "parity", "steps": 300, "seed": seed, **changed}
    return Setting(k=k, regime=regime, **values)


def result(accuracy=0.9, *, labels=0, reached=200, ceiling=0.95, snr=(0.5, 0.001), **more):
    """A run; without success, and never above the mark, if its accuracy is below 0.75."""
    success = accuracy is not None and accuracy >= 0.75
    found = {
        "accuracy": accuracy,
        "validation": accuracy,
        "success": success,
        "reached": reached if success else None,
        "curve": [[100, 0.5], [200, accuracy], [300, accuracy]],
        "modules": {"symbols": {"purity": 0.8, "error": 0.05}},
        "snr": {name: [[10, snr[0]], [110, snr[1]]] for name in MODULES},
        "decisions": [],
        "ceiling": ceiling,
        "chance": 0.5,
        "mark": 0.75,
        "spent": {
            "steps": 300,
            "examples": 38400,
            "labels": labels,
            "parameters": 100,
            "seconds": 1.5,
        },
    }
    return found | more


def runs(regime, good, bad=0, *, first=0, reached=(200,), k=3, **changed):
    """So many runs that succeed, and then so many that break down, each with its seed.

    `reached` are the steps at which those that succeed do, in turn.
    """
    labels = 0 if regime == "end_to_end" else 90
    results = [
        result(0.9 + i / 1000, labels=labels, reached=reached[i % len(reached)])
        for i in range(good)
    ]
    broken = result(0.51, labels=labels, ceiling=0.52, snr=(0.0, 0.001))
    results += [broken] * bad
    return [
        (setting(regime, k, first + i, **changed), each) for i, each in enumerate(results)
    ]
