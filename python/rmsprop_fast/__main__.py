"""Command line: ``python -m rmsprop_fast`` or ``rmsprop-fast``; commands are fit, predict, family, info and bench."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import rmsprop_fast
from rmsprop_fast import presets
from rmsprop_fast.console import require_folder, stdout, write_file
from rmsprop_fast.errors import InputError
from rmsprop_fast.regression import command

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 3 if the fit did not converge, or 2 for bad input.

    The last two say why in a line on stderr. Raises SystemExit after --help and --version, for bad arguments, and with
    1 when stdout cannot be written.
    """
    options = _parser().parse_args(arguments)
    try:
        code: int | None = options.run(options)
    except (InputError, ModuleNotFoundError) as error:
        missing = isinstance(error, ModuleNotFoundError)
        hint = " (pip install 'rmsprop_fast[cli]' brings it)" if missing else ""
        print(f"rmsprop-fast: {error}{hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code or 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse would print the usage first."""
        self.exit(2, f"{self.prog}: {message}\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help and version, where argparse would ignore that it cannot."""
        if file is sys.stdout:
            with stdout():
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

    command.add_to(commands)
    return parser


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

    with stdout():
        print("rmsprop_fast.init(params" + "".join(f", {name}={value!r}" for name, value in hyper.items()) + ")\n")
        print(rmsprop_fast.equations(state))


def _info(_: argparse.Namespace) -> None:
    with stdout():
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
    require_folder("--json", options.json)
    require_folder("--plot", options.plot)
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
        with stdout():
            for key, value in result.machine.items():
                console.print(f"{key}: {value}", highlight=False, markup=False)
            for table in report.tables(result, targets(result)):
                console.print(table)
    finally:  # the files are wanted even when nobody reads stdout
        if options.json:
            found = result.as_dict()
            write_file("--json", lambda: options.json.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n"))
        if options.plot:
            write_file("--plot", lambda: report.plot(result, options.plot))


if __name__ == "__main__":
    sys.exit(main())
