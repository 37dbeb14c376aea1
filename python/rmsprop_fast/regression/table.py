"""Columns of numbers from a CSV file: a target and features, or features alone."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from rmsprop_fast.errors import InputError
from rmsprop_fast.regression.csv_file import CsvFile, opened, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Table:
    """One target column of n rows and k feature columns.

    Attributes
    ----------
    target_name, feature_names : str, list of str
        As the header has them.
    target : ndarray
        Shape (n,), float64.
    features : ndarray
        Shape (n, k), float64, C-contiguous.
    dropped : int
        How many rows were left out as they lacked a value.
    """

    target_name: str
    feature_names: list[str]
    target: NDArray[np.float64]
    features: NDArray[np.float64]
    dropped: int


def read_table(
    source: Path | str,
    *,
    target: str | None = None,
    features: Sequence[str] | None = None,
    separator: str = ",",
    missing: Literal["error", "drop"] = "error",
) -> Table:
    r"""Read a target column and feature columns from a CSV file with a header row.

    Parameters
    ----------
    source : Path or str
        The file, UTF-8, as it is or packed by gzip; `"-"` is stdin.
    target : str, optional
        Name of the target column; default is the last one.
    features : sequence of str, optional
        Names of the feature columns; default are all but the target.
    separator : str, default ","
        The character between columns; `r"\t"` also stands for a tab.
    missing : {"error", "drop"}, default "error"
        Whether a row that lacks one of the values is refused, or left out and counted.

    Raises
    ------
    InputError
        When the file cannot be read, a column is missing, or a cell in use is no finite number; names row and column.
    """

    def choose(file: CsvFile) -> tuple[list[str], list[str]]:
        name = file.names[-1] if target is None else target
        others = [other for other in file.names if other != name] if features is None else list(features)
        if name in others:
            raise InputError(f"--features: expected columns other than the target, got {name!r}")
        file.require([name])
        file.require(others)
        if not others:
            raise InputError(
                f"{file.where}: expected a feature column beside the target {name!r}, got none{file.remedy()}"
            )
        return [name], others

    (names, others), (column, columns), dropped = _read(source, choose, separator, missing)
    return Table(names[0], others, column[:, 0], columns, dropped)


def read_features(
    source: Path | str, features: Sequence[str], *, separator: str = ",", missing: Literal["error", "drop"] = "error"
) -> tuple[NDArray[np.float64], int]:
    """Read feature columns alone, of shape (n, k), and the number of rows left out; arguments as of `read_table`."""

    def choose(file: CsvFile) -> tuple[list[str]]:
        file.require(features)
        return (list(features),)

    _, (columns,), dropped = _read(source, choose, separator, missing)
    return columns, dropped


def split_names(text: str) -> list[str]:
    """Split the text of `--features` at its commas; a name that contains some stands in double quotes."""
    try:
        (names,) = csv.reader([text], skipinitialspace=True, strict=True)
    except csv.Error:
        raise InputError(f'--features: expected names with commas between, as in a,"b, c", got {shown(text)}') from None
    return [name.strip() for name in names] or [""]


def _read(
    source: Path | str, choose: Callable[[CsvFile], Sequence[list[str]]], separator: str, missing: str
) -> tuple[Sequence[list[str]], list[NDArray[np.float64]], int]:
    """Return the groups of columns that `choose` names, an array for each group, and the number of rows left out."""
    separator = "\t" if separator == "\\t" else separator
    if len(separator) != 1 or separator.isalnum() or separator in '"\r\n\0+-.':
        raise InputError(f"--separator: expected one character, as , or ; or \\t, got {separator!r}")
    where = "stdin" if str(source) == "-" else str(source)
    with opened(source, where) as text:
        file = CsvFile(text, where, separator, missing)
        groups = choose(file)
        arrays = [np.empty((0, len(group))) for group in groups]
        for values in file.rows([file.names.index(name) for group in groups for name in group]):
            begin = 0
            for array in arrays:  # they grow in place: a list of blocks, joined at the end, would need twice the memory
                count, width = array.shape
                array.resize((count + len(values), width), refcheck=False)
                array[count:] = values[:, begin : begin + width]
                begin += width
    if file.row == 0:
        raise InputError(f"{where}: expected rows of data below the header, got none")
    if file.row == file.dropped:
        raise InputError(f"{where}: expected rows with all values, got {file.row} that lack some")
    return groups, arrays, file.dropped
