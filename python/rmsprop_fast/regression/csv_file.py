"""A CSV file, row by row: cells to numbers, and what is wrong with those that are none."""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import zlib
from contextlib import contextmanager
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

from rmsprop_fast.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import TextIO

    from numpy.typing import NDArray

# Cells that lack a value, in lower case; and as they are usually written.
MISSING = ("", "na", "n/a", "#n/a", "<na>", "nan", "null", "none")
USUAL_MISSING = sorted({"NaN", *MISSING, *map(str.upper, MISSING), *map(str.capitalize, MISSING)})

# Characters read at a time. More would cost memory and gain nothing.
BLOCK = 1 << 20

# Cells held as Python strings at a time.
CELLS = 50_000

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_GROUPED_DIGITS = re.compile(r"[+-]?\d*([.,'\u2019_ \u00a0\u2009\u202f]\d+)+(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


@contextmanager
def opened(source: Path | str, where: str) -> Iterator[TextIO]:
    """Around all reading: gives the text, unpacked, and says it when the file cannot be read."""
    try:
        with open(0, "rb", closefd=False) if str(source) == "-" else open(source, "rb") as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            with io.TextIOWrapper(gzip.open(file) if packed else file, encoding="utf-8-sig", newline="") as text:
                yield text
    except EOFError:
        raise InputError(f"{where}: expected a whole gzip file, got one that ends too early") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{where}: expected a sound gzip file, got {error}") from None
    except OSError as error:
        raise InputError(f"{where}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: expected a CSV file in UTF-8, got the byte 0x{error.object[error.start]:02x}"
        ) from None


class CsvFile:
    """A CSV file that is being read. `row` counts the rows of data so far, `line` the lines."""

    def __init__(self, text: TextIO, where: str, separator: str, missing: str) -> None:
        self.text = text
        self.where = where
        self.separator = separator
        self.missing = missing
        self.row = self.line = self.dropped = 0

        header = next(self._cells(text), None)
        if header is None:
            raise InputError(f"{where}: expected a header row and data, got an empty file")
        self.names = [name.strip() for name in header]
        if len(set(self.names)) < len(self.names):
            raise InputError(f"{where}: expected columns of different names, got {listed(self.names)}")
        if all(_number(name) is not None for name in self.names):
            raise InputError(f"{where}: expected a header row with column names, got the numbers {listed(self.names)}")

    def require(self, names: Sequence[str]) -> None:
        """Refuse names that no column has, and names given twice."""
        for name in names:
            if name not in self.names:
                raise InputError(
                    f"{self.where}: expected one of the columns {listed(self.names)}, got {name!r}"
                    + (self.remedy() if len(self.names) == 1 else "")
                )
        if len(set(names)) < len(names):
            raise InputError(f"--features: expected each column once, got {listed(names)}")

    def remedy(self) -> str:
        """Return what may help when there is one column only."""
        for other in ",;\t|":
            if other in self.names[0]:
                return f" (columns are separated by {self.separator!r}; try --separator {other!r})"
        return f" (columns are separated by {self.separator!r}; --separator changes that)"

    def rows(self, columns: Sequence[int]) -> Iterator[NDArray[np.float64]]:
        """Yield the numbers in these columns, some rows at a time, without the rows that lack values."""
        while block := self.text.read(BLOCK) + self.text.readline():
            quoted = '"' in block
            values = None if quoted or len(block) < BLOCK else self._fast(block, columns)
            if values is not None:
                yield values
                continue
            # Quotes may hold the end of the block, so that from there on all lines are read as one stream.
            lines = io.StringIO(block, newline="")
            cells = self._cells(chain(lines, self.text) if quoted else lines)
            numbered = ((self.line, row) for row in cells)
            while rows := list(islice(numbered, max(1, CELLS // len(self.names)))):
                yield self._convert(rows, columns)

    def _cells(self, lines: Iterable[str]) -> Iterator[list[str]]:
        """Yield the cells of each row that is not blank."""

        def counted() -> Iterator[str]:
            for line in lines:
                self.line += 1
                if "\0" in line:
                    raise InputError(f"{self.where}: line {self.line}: expected text, got a NUL byte")
                yield line

        spaces = self.separator != " "
        try:
            for row in csv.reader(counted(), delimiter=self.separator, skipinitialspace=spaces, strict=True):
                if len(row) > 1 or "".join(row).strip():
                    yield row
        except csv.Error as error:
            raise InputError(f"{self.where}: line {self.line}: expected CSV, got an error: {error}") from None

    def _convert(self, rows: Sequence[tuple[int, list[str]]], columns: Sequence[int]) -> NDArray[np.float64]:
        """Return the numbers in these columns of some rows, each with the number of its last line."""
        first, width = self.row + 1, len(self.names)
        self.row += len(rows)
        if all(len(row) == width for _, row in rows):
            plain = _plain_numbers([row[column] for _, row in rows for column in columns])
            if plain is not None:
                return plain.reshape(len(rows), len(columns))

        values = np.empty((len(rows), len(columns)))
        for index, (line, row) in enumerate(rows):
            where = f"{self.where}: row {first + index} (line {line})"
            if len(row) != width:
                raise InputError(f"{where}: expected {width} columns, got {len(row)}")
            for position, column in enumerate(columns):
                values[index, position] = self._value(f"{where}, column {self.names[column]!r}", row[column])
        return self._complete(values)

    def _value(self, where: str, cell: str) -> float:
        """Return the number in a cell, or NaN for a missing one that is allowed."""
        number = _number(cell)
        if number is not None:
            return number
        text, remedy = cell.strip(), ""
        if text.lower() in MISSING:
            if self.missing == "drop":
                return math.nan
            remedy = " (--missing drop leaves out rows that lack a value)"
        elif _GROUPED_DIGITS.fullmatch(text) and not _NUMBER.fullmatch(text):
            remedy = " (numbers are as 1234.5: no decimal comma, no thousands separators)"
        raise InputError(f"{where}: expected a finite number, got {shown(text)}{remedy}")

    def _complete(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the rows without NaN, and count the others."""
        complete = ~np.isnan(values).any(axis=1)
        self.dropped += len(values) - int(complete.sum())
        return values[complete]

    def _fast(self, block: str, columns: Sequence[int]) -> NDArray[np.float64] | None:
        """Return what `_convert` would for the rows of a block, through pyarrow; None where it might not."""
        try:
            import pyarrow
            from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, read_csv
        except ImportError:
            return None
        if "\0" in block or not self.separator.isascii() or not hasattr(pyarrow.RecordBatch, "to_tensor"):  # since 16
            return None
        text = block.encode()
        used = [str(column) for column in columns]
        names = [str(column) for column in range(len(self.names))]
        try:
            table = read_csv(
                pyarrow.BufferReader(text),
                ReadOptions(column_names=names, block_size=len(text) + 1, use_threads=False),
                ParseOptions(delimiter=self.separator, quote_char=False),
                ConvertOptions(
                    include_columns=used,
                    column_types=dict.fromkeys(used, pyarrow.float64()),
                    null_values=USUAL_MISSING,
                    check_utf8=False,
                ),
                memory_pool=pyarrow.system_memory_pool(),
            )
        except pyarrow.ArrowInvalid:
            return None
        if not table.num_rows:
            return None
        (batch,) = table.combine_chunks().to_batches()
        values: NDArray[np.float64] = batch.to_tensor(null_to_nan=True).to_numpy()  # a column's would import pandas
        nulls = sum(column.null_count for column in batch.columns)
        if np.count_nonzero(~np.isfinite(values)) != nulls or (nulls and self.missing == "error"):
            return None
        self.row += len(values)
        self.line += block.count("\n") + block.count("\r") - block.count("\r\n")
        return self._complete(values) if nulls else values


def _plain_numbers(cells: list[str]) -> NDArray[np.float64] | None:
    """Return the numbers in the cells if all are finite ones, in one go."""
    text = "".join(cells)
    if not text.isascii() or "_" in text:  # of what `float` takes, this and values not finite are no numbers here
        return None
    try:
        values = np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _number(cell: str) -> float | None:
    """Return the finite number that the cell holds, if it does."""
    cell = cell.strip()
    number = float(cell) if _NUMBER.fullmatch(cell) else math.inf
    return number if math.isfinite(number) else None


def shown(cell: str) -> str:
    """Return the cell in quotes, on one line, cut where it is long."""
    return repr(cell if len(cell) <= 40 else cell[:40] + "...")


def listed(names: Sequence[str]) -> str:
    """Return the first names, on one line."""
    return " ".join(", ".join([*names[:20], *(["..."] if len(names) > 20 else [])]).split())
