"""Command line: ``python -m rmsprop_fast`` or ``rmsprop-fast``, with the commands fit, family, info and bench."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import os
import sys
import zlib
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import rmsprop_fast
from rmsprop_fast import presets
from rmsprop_fast.fit import Data, Fit, InputError, fit, read_csv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 after a line about bad input on stderr.

    Raises SystemExit after --help and --version, for bad arguments, and with 1 when stdout cannot be written.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (InputError, ModuleNotFoundError) as error:
        missing = isinstance(error, ModuleNotFoundError)
        hint = " (pip install 'rmsprop_fast[cli]' brings it)" if missing else ""
        print(f"rmsprop-fast: {error}{hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


@contextmanager
def _stdout() -> Iterator[None]:
    """Around whatever prints: when stdout cannot be written, the command ends with exit code 1 and no traceback.

    Quietly when the reader of a pipe has gone, as Python's documentation recommends and rich does by itself; otherwise,
    as on a full disk, after a line on stderr.
    """
    try:
        yield
        print(end="", flush=True)  # or the error would come at exit
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left, which is flushed at exit
        if not isinstance(error, BrokenPipeError):
            print(f"rmsprop-fast: stdout: {error.strerror}", file=sys.stderr)
        raise SystemExit(1) from None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse would print the usage first."""
        self.exit(2, f"{self.prog}: {message}\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help and version, where argparse would ignore that it cannot."""
        if file is sys.stdout:
            with _stdout():
                print(message, end="")
        else:
            super()._print_message(message, file)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rmsprop-fast", description=rmsprop_fast.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"%(prog)s {rmsprop_fast.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("info", help="what this build is and how it runs").set_defaults(run=_info)

    bench_parser = commands.add_parser(
        "bench",
        help="how fast a step is here, beside everything else that is installed, and beside this machine's limits",
        description="Measures training loops, and steps of arrays and of whole models by rmsprop_fast and every other "
        "package found, and what memory and processor allow, in a quarter of an hour. docs/performance.md says how.",
    )
    bench_parser.set_defaults(run=_bench)
    bench_parser.add_argument("--quick", action="store_true", help="fewer cases, less exactly, in under a minute")
    bench_parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    bench_parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw all that was measured")

    family_parser = commands.add_parser(
        "family",
        help="the equations that a framework's RMSprop obeys",
        description="Prints the hyper-parameters of a preset, or of rmsprop_fast's own defaults, and the equations in "
        "force with them.",
    )
    family_parser.set_defaults(run=_family)
    names = ", ".join(presets.__all__)
    family_parser.add_argument("preset", nargs="?", metavar="PRESET", help=f"{names} (default: our own)")
    family_parser.add_argument("options", nargs="*", metavar="NAME=VALUE", help="an argument of it, as momentum=0.9")

    fit_parser = commands.add_parser(
        "fit",
        help="linear regression of a CSV file's columns by RMSprop",
        description="Fits one target column to any number of feature columns by RMSprop, and shows the result beside "
        "the closed-form least squares. Without a CSV it fits NIST's Norris data, which ships with the package.",
    )
    fit_parser.set_defaults(run=_fit)
    add = fit_parser.add_argument
    add("csv", nargs="?", type=Path, metavar="CSV", help="a file with a header row (default: NIST's Norris data)")
    add("--target", metavar="COLUMN", help="the column to explain (default: the last)")
    add("--features", metavar="A,B,...", help="the columns to explain it by (default: all others)")
    add("--lr", type=float, default=0.01, help="learning rate at the start; it decays (default: %(default)s)")
    add("--rho", type=float, default=0.99, help="decay rate of the mean squared gradient (default: %(default)s)")
    add("--eps", type=float, default=1e-8, help="added to the root of that mean (default: %(default)s)")
    add("--epochs", type=_at_least(1), default=20_000, help="passes over the data, at most (default: %(default)s)")
    add("--batch-size", type=_at_least(1), metavar="ROWS", help="rows a step (default: all)")
    add("--seed", type=_at_least(0), default=0, help="of the start weights and batches (default: %(default)s)")
    add("--plot", type=Path, metavar="FILE.png", help="draw the loss and, with one feature, the data and the line")
    add("--json", action="store_true", help="print the result as JSON instead of a table")
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
        return int(text)

    return convert


def _family(options: argparse.Namespace) -> None:
    preset, given = options.preset, options.options
    if preset and "=" in preset:
        preset, given = None, [preset, *given]
    if preset not in (None, *presets.__all__):
        raise InputError(f"family: expected a preset among {', '.join(presets.__all__)}, got {preset!r}")
    hyper = {}
    for text in given:
        name, _, value = text.partition("=")
        if name in hyper:
            raise InputError(f"{name}: expected once, got {text!r} after another")
        try:
            hyper[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise InputError(f"{name}: expected NAME=VALUE, with a number, True, False or None, got {text!r}") from None
    if preset:
        convention = getattr(presets, preset)
        known = list(inspect.signature(convention).parameters)
        for name in hyper:
            if name not in known:
                raise InputError(f"{preset}: expected options among {', '.join(known)}, got {name!r}")
        hyper = convention(**hyper)
    try:
        state = rmsprop_fast.init((), **hyper)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from None

    with _stdout():
        print("rmsprop_fast.init(params" + "".join(f", {name}={value!r}" for name, value in hyper.items()) + ")\n")
        print(rmsprop_fast.equations(state))


def _info(_: argparse.Namespace) -> None:
    with _stdout():
        for key, value in rmsprop_fast.info().items():
            print(f"{key + ':':<10} {' '.join(value) if isinstance(value, list) else value}")


def _bench(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from rmsprop_fast.bench import report
    from rmsprop_fast.bench.suite import Suite
    from rmsprop_fast.bench.targets import targets

    if options.plot:
        import matplotlib  # noqa: F401  # before the work: it may be missing
    _require_folder("--json", options.json)
    _require_folder("--plot", options.plot)
    suite = Suite(options.quick)
    tasks = list(suite.tasks())
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    progress_console = Console(stderr=True)
    # Drawn when something changes and not all the time: its thread would run beside what is measured.
    with Progress(
        *columns,
        console=progress_console,
        transient=True,
        auto_refresh=False,
        disable=not progress_console.is_terminal,
    ) as progress:
        bar = progress.add_task("", total=len(tasks))
        for name, task in tasks:
            progress.update(bar, description=name, refresh=True)
            suite.run(name, task)
            progress.advance(bar)

    result = suite.result
    console = Console() if sys.stdout.isatty() else Console(width=140)  # a file has no width
    try:
        with _stdout():
            for key, value in result.machine.items():
                console.print(f"{key}: {value}", highlight=False, markup=False)
            for table in report.tables(result, targets(result)):
                console.print(table)
    finally:  # the files are wanted even when nobody reads stdout
        if options.json:
            found = result.as_dict()
            _write("--json", lambda: options.json.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n"))
        if options.plot:
            _write("--plot", lambda: report.plot(result, options.plot))


def _require_folder(option: str, path: Path | None) -> None:
    if path and not path.parent.is_dir():
        raise InputError(f"{option}: expected a file in an existing folder, got {path}")


def _write(option: str, write: Callable[[], object]) -> None:
    try:
        write()
    except (OSError, ValueError) as error:  # a folder that is not writeable, a format that is not known
        raise InputError(f"{option}: {' '.join(str(error).split())}") from None
    except zlib.error as error:  # matplotlib tidies up a PDF that did not fit on the disk, and fails again
        raise InputError(f"{option}: {error.__context__}") from None


def _fit(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    if options.plot:
        import matplotlib  # before the work: it may be missing

        matplotlib.use("agg")
        _require_folder("--plot", options.plot)

    features = [name.strip() for name in options.features.split(",")] if options.features is not None else None
    if options.csv:
        data = read_csv(options.csv, options.target, features)
    else:
        with as_file(files("rmsprop_fast") / "data" / "norris.csv") as norris:
            data = read_csv(norris, options.target, features)

    columns = (TextColumn("RMSprop"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.6g}"))
    console = Console(stderr=True)
    shown = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal)
    with shown as progress:
        task = progress.add_task("fit", total=options.epochs, loss=float("nan"))
        try:
            result = fit(
                data,
                lr=options.lr,
                rho=options.rho,
                eps=options.eps,
                epochs=options.epochs,
                batch_size=options.batch_size,
                seed=options.seed,
                report=lambda epoch, loss: progress.update(task, completed=epoch, loss=loss),
            )
        except ValueError as error:  # an option that rmsprop_fast.init refuses
            raise InputError(str(error)) from None

    if options.plot:
        _plot(data, result, options.plot)
    with _stdout():
        if options.json:
            print(json.dumps(result.as_dict(), indent=2, allow_nan=False))
        else:
            _print_table(data, result)


def _print_table(data: Data, result: Fit) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(title=f"{escape(data.target_name)}, {len(data.target)} rows", title_justify="left")
    table.add_column("")
    for header in ("RMSprop", "least squares"):
        table.add_column(header, justify="right")
    table.add_row("intercept", f"{result.line.intercept:.12g}", f"{result.least_squares.intercept:.12g}")
    for name, value in result.line.coefficients.items():
        table.add_row(escape(name), f"{value:.12g}", f"{result.least_squares.coefficients[name]:.12g}")
    console.print(table)

    std = "none, with as many rows as columns" if result.residual_std is None else f"{result.residual_std:.12g}"
    console.print(f"R2                  {result.r2:.12g}", highlight=False)
    console.print(f"residual std        {std}", highlight=False)
    converged = "converged" if result.converged else "not converged"
    advice = "" if result.converged else "; more --epochs, or no --batch-size, come nearer"
    console.print(f"{converged} after {result.epochs} epochs in {result.seconds:.2f} s{advice}", highlight=False)


def _plot(data: Data, result: Fit, path: Path) -> None:
    import numpy as np
    from matplotlib.figure import Figure

    one_feature = len(data.feature_names) == 1
    figure = Figure(figsize=(10, 4) if one_feature else (6, 4), layout="constrained")
    axes = figure.subplots(1, 2 if one_feature else 1, squeeze=False)[0]
    axes[0].plot(result.losses)
    axes[0].set(xlabel="epoch", ylabel="mean squared residual, standardised", xscale="symlog", yscale="log")
    axes[0].set_title("loss")
    if one_feature:
        ((name, slope),) = result.line.coefficients.items()
        ends = np.array([data.features.min(), data.features.max()])
        axes[1].plot(data.features[:, 0], data.target, "o", markersize=4, label="data")
        axes[1].plot(ends, result.line.intercept + slope * ends, label=f"{result.line.intercept:.6g} + {slope:.6g} x")
        axes[1].set(xlabel=name.replace("$", r"\$"), ylabel=data.target_name.replace("$", r"\$"))  # no formulas
        axes[1].legend()
    _write("--plot", lambda: figure.savefig(path, dpi=150))


if __name__ == "__main__":
    sys.exit(main())
