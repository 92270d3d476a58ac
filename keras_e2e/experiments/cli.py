"""The keras-e2e command.

    keras-e2e demo [flags]

trains the k-tuple parity task end to end, under deep supervision, locally, and locally
then end to end, by plain model.fit; prints test accuracies and verdicts; writes
TensorBoard logs, a figure and the numbers below --output_dir.

    keras-e2e report LOGDIR [--output=report.html]

makes one HTML page of the runs that ModuleTensorBoard logged below LOGDIR: verdicts,
curves, heat maps and a comparison, in a file that opens without a network.

    keras-e2e limits [flags]

compares ways of training on modular tasks: trains each regime on each task with several
seeds, on all cores or on a Dask cluster, and writes tables, figures and an HTML page below
--output_dir. Interrupted, it goes on where it was when the same command is given again.
"""

import sys

from absl import app, flags

from keras_e2e.experiments.limits import arguments, command

FLAGS = flags.FLAGS

flags.DEFINE_enum("data", "digits", ["digits", "fashion_mnist"], "Images to use.")
flags.DEFINE_list("k", ["1", "2", "3", "4"], "Sizes of the tuples.")
flags.DEFINE_integer("epochs", 6, "Epochs of each run.", lower_bound=1)
flags.DEFINE_integer("tuples", 30000, "Training tuples.", lower_bound=128)
flags.DEFINE_integer("batch_size", 128, "Tuples in a batch.", lower_bound=1)
flags.DEFINE_float("learning_rate", 1e-3, "Learning rate of Adam.", lower_bound=0.0)
flags.DEFINE_integer("every", 50, "Steps between diagnostics.", lower_bound=1)
flags.DEFINE_integer("seed", 3, "Seed of the split, the weights and the batches.")
flags.DEFINE_bool("jit", False, "Compile the steps with XLA.")
flags.DEFINE_string("output_dir", "demo_output", "Where logs and figure go.")

# Apart from the flags of the demo, so that neither command takes those of the other.
DEMO_FLAGS = [
    flag.name for flag in FLAGS.flags_by_module_dict()["keras_e2e.experiments.cli"]
]
flags.DEFINE_string("output", "report.html", "The HTML file that report writes.")

HELP = {"-h", "--help", "-help", "--helpfull", "--helpshort"}


def _main(argv: list[str]) -> int:
    match argv[1:]:
        case ["demo"]:
            return _refuse_flags("demo", ["output"]) or _demo()
        case ["report", *logdirs]:
            return _refuse_flags("report", DEMO_FLAGS) or _report(logdirs)
        case [*_, "limits"]:
            print(
                "limits comes first and its flags after it, as in keras-e2e limits "
                "--k=3,4.",
                file=sys.stderr,
            )
            return 2
        case found:
            named = repr(" ".join(found)) if found else "nothing"
            print(
                f"Expected the command 'demo', 'report' or 'limits', found {named}.\n\n"
                f"{_help()}",
                file=sys.stderr,
            )
            return 2


def _refuse_flags(command: str, others: list[str]) -> int:
    """2, with a message, where a flag of another command was given."""
    given = [name for name in others if FLAGS[name].present]
    if given:
        print(
            f"{command} does not take --{given[0]}: leave it out, or see "
            "keras-e2e --help for what it takes.",
            file=sys.stderr,
        )
    return 2 if given else 0


def _report(logdirs: list[str]) -> int:
    if len(logdirs) != 1:
        found = f"{len(logdirs)} of them: {' '.join(logdirs)}" if logdirs else "none"
        print(
            f"report needs one log directory, found {found}. Give the log_dir of "
            "ModuleTensorBoard, or a folder above several, as in keras-e2e report logs.",
            file=sys.stderr,
        )
        return 2
    from keras_e2e.visualization import report

    try:
        runs, notices = report.write(logdirs[0], FLAGS.output)
    except report.ReportError as error:
        print(error, file=sys.stderr)
        return 2
    for notice in notices:
        print(f"Warning: {notice}", file=sys.stderr)
    print(f"{FLAGS.output}: {runs} run{'s' * (runs != 1)}.")
    return 0


def _demo() -> int:
    sizes = [int(k) if k.strip().isdecimal() else 0 for k in FLAGS.k]
    if not sizes or min(sizes) < 1:
        print(
            f"--k={','.join(FLAGS.k)}: expected numbers from 1 on, as in --k=1,4.",
            file=sys.stderr,
        )
        return 2
    # Needs the packages of the extra [demo]; --help does not.
    from keras_e2e.experiments import demo

    demo.run(
        demo.Settings(
            data=FLAGS.data,
            sizes=tuple(sizes),
            epochs=FLAGS.epochs,
            tuples=FLAGS.tuples,
            batch_size=FLAGS.batch_size,
            learning_rate=FLAGS.learning_rate,
            every=FLAGS.every,
            seed=FLAGS.seed,
            jit=FLAGS.jit,
            output_dir=FLAGS.output_dir,
        )
    )
    return 0


def _help() -> str:
    shared, limits = FLAGS.module_help("keras_e2e.experiments.cli"), arguments.flag_values()
    return (
        f"{__doc__.strip()}\n\nFlags of demo and report:\n{shared}\n\n"
        f"Flags of limits:\n{limits.module_help('keras_e2e.experiments.limits.arguments')}"
    )


def main() -> None:
    """Entry point of the `keras-e2e` command."""
    if HELP & set(sys.argv[1:]):
        print(_help())
    elif sys.argv[1:2] == ["limits"]:
        # Parsed apart: it has flags of the same names as the demo.
        sys.exit(command.main(sys.argv[2:]))
    else:
        app.run(_main)
