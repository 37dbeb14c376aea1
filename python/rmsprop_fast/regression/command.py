"""The commands fit and predict."""

from __future__ import annotations

import json
import sys
import warnings
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmsprop_fast.console import at_least, require_folder, stdout, write_file
from rmsprop_fast.regression.fitting import fit
from rmsprop_fast.regression.model import LinearModel
from rmsprop_fast.regression.table import read_features, read_table, split_names

if TYPE_CHECKING:
    import argparse

# The exit code of a fit that did not converge.
NOT_CONVERGED = 3


def add_to(commands: Any) -> None:
    """Add the two commands to argparse's subparsers."""
    parser = commands.add_parser(
        "fit",
        help="linear regression of a table's columns by RMSprop",
        description="Fits one target column to any number of feature columns by RMSprop, and shows the result beside "
        "the closed-form least squares. Without a CSV it fits NIST's Norris data, which ships with the package. Exit "
        "codes: 0 the fit converged, 3 it did not, 2 there is none.",
    )
    parser.set_defaults(run=_fit)
    add = parser.add_argument
    add("csv", nargs="?", metavar="CSV", help="a file with a header row, also gzipped; - is stdin (default: Norris)")
    add("--target", metavar="COLUMN", help="the column to explain (default: the last)")
    add("--features", metavar="A,B,...", help="the columns to explain it by (default: all others)")
    _add_format(parser)
    add("--lr", type=float, default=0.5, help="learning rate at the start; it decays (default: %(default)s)")
    add("--rho", type=float, default=0.99, help="decay rate of the mean squared gradient (default: %(default)s)")
    add("--eps", type=float, default=1e-8, help="added to the root of that mean (default: %(default)s)")
    add("--epochs", type=at_least(1), default=1000, help="passes over the data, at most (default: %(default)s)")
    add("--batch-size", type=at_least(1), metavar="ROWS", help="rows a step (default: all)")
    add("--seed", type=at_least(0), default=0, help="of the start weights and batches (default: %(default)s)")
    add("--plot", type=Path, metavar="FILE.png", help="draw the data and the fit, the residuals and the loss")
    add("--save", type=Path, metavar="MODEL.json", help="write the model, for predict")
    add("--json", action="store_true", help="print the result as JSON instead of a table")

    parser = commands.add_parser(
        "predict",
        help="what a saved model says of another table",
        description="Prints the predictions of a model that fit --save wrote, one for each row of the table, under the "
        "name of the target.",
    )
    parser.set_defaults(run=_predict)
    parser.add_argument("model", type=Path, metavar="MODEL.json", help="what fit --save wrote")
    parser.add_argument("csv", metavar="CSV", help="a file with the model's features among its columns; - is stdin")
    _add_format(parser)


def _add_format(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--separator", default=",", metavar="C", help=r"between columns, such as ';' or '\t' (default: ,)")
    add("--missing", choices=("error", "drop"), default="error", help="rows without a value (default: %(default)s)")


def _fit(options: argparse.Namespace) -> int | None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    if options.plot:
        import matplotlib  # before the work: it may be missing

        matplotlib.use("agg")
    require_folder("--plot", options.plot)
    require_folder("--save", options.save)

    how = {
        "target": options.target,
        "features": None if options.features is None else split_names(options.features),
        "separator": options.separator,
        "missing": options.missing,
    }
    if options.csv is not None:
        table = read_table(options.csv, **how)
    else:
        with as_file(files("rmsprop_fast") / "data" / "norris.csv") as norris:
            table = read_table(norris, **how)

    columns = (TextColumn("RMSprop"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.6g}"))
    console = Console(stderr=True)
    shown = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal)
    with shown as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # they are printed below
        task = progress.add_task("fit", total=options.epochs, loss=float("nan"))
        model = fit(
            table.features,
            table.target,
            lr=options.lr,
            rho=options.rho,
            eps=options.eps,
            epochs=options.epochs,
            batch_size=options.batch_size,
            seed=options.seed,
            feature_names=table.feature_names,
            target_name=table.target_name,
            report=lambda epoch, loss: progress.update(task, completed=epoch, loss=loss),
        )

    for warning in model.warnings:
        print(f"rmsprop-fast: {warning}", file=sys.stderr)
    if options.save:
        write_file("--save", lambda: model.save(options.save))
    if options.plot:
        from rmsprop_fast.regression.picture import draw

        figure = draw(model, table.features, table.target)
        write_file("--plot", lambda: figure.savefig(options.plot, dpi=150))
    with stdout():
        if options.json:
            print(json.dumps({**model.as_dict(), "dropped": table.dropped}, indent=2, allow_nan=False))
        else:
            _print_table(model, table.dropped)
    return None if model.converged else NOT_CONVERGED


def _print_table(model: LinearModel, dropped: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable

    console = Console()
    left_out = f" ({dropped:,} left out, for missing values)" if dropped else ""
    table = RichTable(title=f"{escape(model.target_name)}, {model.rows:,} rows{left_out}", title_justify="left")
    table.add_column("")
    for header in ("RMSprop", "standard error", "least squares"):
        table.add_column(header, justify="right")
    lines = [
        ("intercept", model.intercept, model.intercept_standard_error, model.least_squares_intercept),
        *zip(
            map(escape, model.feature_names),
            model.coefficients,
            model.standard_errors,
            model.least_squares_coefficients,
            strict=True,
        ),
    ]
    for name, value, error, exact in lines:
        table.add_row(name, f"{value:.12g}", "none" if error != error else f"{error:.6g}", f"{exact:.12g}")
    wide = console.options.update(width=10_000)
    console.width = max(console.width, console.measure(table, options=wide).maximum)  # or digits would be cut off
    console.print(table)

    is_known = model.residual_std == model.residual_std
    std = f"{model.residual_std:.12g}" if is_known else "none, with as many rows as coefficients"
    console.print(f"R2                  {model.r2:.12g}", highlight=False)
    console.print(f"residual std        {std}", highlight=False)
    converged = "converged" if model.converged else "not converged"
    console.print(f"{converged} after {model.epochs} epochs in {model.seconds:.2f} s", highlight=False)


def _predict(options: argparse.Namespace) -> None:
    import csv

    model = LinearModel.load(options.model)
    features, dropped = read_features(
        options.csv, model.feature_names, separator=options.separator, missing=options.missing
    )
    predictions = model.predict(features)
    if dropped:
        print(f"rmsprop-fast: no prediction for rows that lack a value: {dropped:,}", file=sys.stderr)
    with stdout():
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([model.target_name])
        writer.writerows([value] for value in predictions.tolist())
