"""Columns of CSV files: what is read, and what is refused in which words; by csv alone, and through pyarrow."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import marks
import processes
from rmsprop_fast.errors import InputError
from rmsprop_fast.regression import csv_file
from rmsprop_fast.regression.table import Table, read_features, read_table, split_names

WAYS = ("csv", "pyarrow")


def go(way: str, patch: pytest.MonkeyPatch, block: int = 1) -> None:
    """Have files read in small blocks, of a line each unless told otherwise, by csv or, where it can, by pyarrow."""
    patch.setattr(csv_file, "BLOCK", block)
    if way == "csv":
        patch.setitem(sys.modules, "pyarrow", None)
    else:
        pytest.importorskip("pyarrow")


@pytest.fixture(params=WAYS)
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the current one; files are read each way."""
    go(request.param, monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(content: str | bytes, name: str = "data.csv", **options: Any) -> Table:
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(Path(name), **options)


def columns(table: Table) -> dict[str, list[float]]:
    """Return all columns by name, the target last."""
    features = dict(zip(table.feature_names, table.features.T.tolist(), strict=True))
    return {**features, table.target_name: table.target.tolist()}


def refusal(content: str | bytes, name: str = "data.csv", **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(content, name, **options)
    (line,) = str(caught.value).splitlines()
    return line


XY = {"x": [1.0, 2.0, 3.0], "y": [2.0, 4.0, 7.0]}


def test_the_last_column_is_the_target_and_the_others_are_features(folder: Path) -> None:
    table = read("a,b,y\n1,2,3\n4,5,6\n")
    assert (table.target_name, table.feature_names, table.dropped) == ("y", ["a", "b"], 0)
    assert columns(table) == {"a": [1, 4], "b": [2, 5], "y": [3, 6]}
    assert (table.target.shape, table.features.shape) == ((2,), (2, 2))
    for array in (table.target, table.features):
        assert array.dtype == np.float64
        assert array.flags.c_contiguous


def test_columns_by_name(folder: Path) -> None:
    text = "a,note,y,b\n1,x,6,9\n2,\u00e9,7,1\n3,,12,4\n"  # a column that is not used may hold anything
    assert columns(read(text, target="y", features=["b", "a"])) == {"b": [9, 1, 4], "a": [1, 2, 3], "y": [6, 7, 12]}
    assert list(columns(read(text, target="a", features=["y"]))) == ["y", "a"]
    features, dropped = read_features("data.csv", ["b", "y"])
    assert (features.tolist(), dropped) == ([[9, 6], [1, 7], [4, 12]], 0)
    assert features.flags.c_contiguous
    with pytest.raises(InputError, match="expected one of the columns a, note, y, b, got 'c'"):
        read_features("data.csv", ["c"])


def test_a_file_of_one_column_has_features_without_a_target(folder: Path) -> None:
    Path("data.csv").write_text("x\n1\n\n \n3\n")
    assert read_features("data.csv", ["x"])[0].tolist() == [[1], [3]]


@pytest.mark.parametrize(
    "content",
    [
        "x,y\n1,2\n2,4\n3,7",
        "\ufeffx,y\n1,2\n2,4\n3,7\n",
        "x,y\r\n1,2\r\n2,4\r\n3,7\r\n",
        "x,y\r1,2\r2,4\r3,7\r",
        "\n   \nx,y\n\n1,2\n  \n\n2,4\n \n3,7\n\n",
        " x , y \n 1 , 2 \n\t2,4\t\n3, 7.0\n",
        '"x","y"\n"1","2"\n"2", "4"\n"3\n",7\n',
        "x,y\n+1,2.\n2e0,.4E+1\n0.3e1,700e-2\n",
        gzip.compress(b"x,y\n1,2\n2,4\n3,7\n"),
    ],
)
def test_the_same_numbers_in_many_forms(folder: Path, content: str | bytes) -> None:
    assert columns(read(content)) == XY


def test_a_gzip_file_is_known_by_its_content(folder: Path) -> None:
    assert columns(read(gzip.compress(b"x,y\n1,2\n2,4\n3,7\n"), "data.csv.gz")) == XY
    assert columns(read("x,y\n1,2\n2,4\n3,7\n", "plain.csv.gz")) == XY


@pytest.mark.parametrize("content", [b"x,y\n1,2\n2,4\n", gzip.compress(b"x,y\n1,2\n2,4\n")])
def test_a_dash_is_stdin(content: bytes) -> None:
    code = """if True:
        from rmsprop_fast.errors import InputError
        from rmsprop_fast.regression.table import read_table
        table = read_table("-")
        print(table.features.tolist(), table.target.tolist())
        try:
            read_table("-")
        except InputError as error:
            print(error)
    """
    result = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True, check=True)
    assert result.stdout.decode().splitlines() == [
        "[[1.0], [2.0]] [2.0, 4.0]",
        "stdin: expected a header row and data, got an empty file",
    ]


@pytest.mark.parametrize(
    ("separator", "between"), [(";", ";"), ("\t", "\t"), ("\\t", "\t"), ("|", "|"), ("\u00a7",) * 2]
)
def test_the_separator(folder: Path, separator: str, between: str) -> None:
    assert columns(read("x,y\n1,2\n2,4\n3,7\n".replace(",", between), separator=separator)) == XY


@pytest.mark.parametrize("separator", ["", "ab", '"', "\n", "1", "e", ".", "-", "\0"])
def test_what_is_no_separator(folder: Path, separator: str) -> None:
    message = f"--separator: expected one character, as , or ; or \\t, got {separator!r}"
    assert refusal("x,y\n1,2\n", separator=separator) == message


@pytest.mark.parametrize(
    ("header", "given", "right"), [("x;y", ",", ";"), ("x\ty", ",", "\t"), ("x|y", ",", "|"), ("x,y", ";", ",")]
)
@pytest.mark.parametrize("target", [None, "y"])
def test_a_wrong_separator(folder: Path, header: str, given: str, right: str, target: str | None) -> None:
    message = refusal(f"{header}\n1{right}2\n", separator=given, target=target)
    assert message.endswith(f" (columns are separated by {given!r}; try --separator {right!r})")


def test_names_with_commas(folder: Path) -> None:
    text = '"height, m","weight, ""net"", kg"\n1,2\n2,4\n'
    assert columns(read(text)) == {"height, m": [1, 2], 'weight, "net", kg': [2, 4]}
    (name,) = split_names('"weight, ""net"", kg"')
    assert columns(read(text, target="height, m", features=[name])) == {name: [2, 4], "height, m": [1, 2]}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a", ["a"]),
        ("b, a", ["b", "a"]),
        ('"height, m",b', ["height, m", "b"]),
        (' b , "a, c" ', None),
        ('b, "a, c"', ["b", "a, c"]),
        ('5" pipe,b', ['5" pipe', "b"]),
        ("", [""]),
        ("a,", ["a", ""]),
        ('"a', None),
        ("a\nb", None),
    ],
)
def test_names_on_the_command_line(text: str, names: list[str] | None) -> None:
    if names is not None:
        assert split_names(text) == names
        return
    with pytest.raises(InputError) as caught:
        split_names(text)
    assert str(caught.value) == f'--features: expected names with commas between, as in a,"b, c", got {text!r}'


MISSING = ["", "  ", "NA", "N/A", "#N/A", "<NA>", "NaN", "nan", "NAN", "null", "NULL", "None", " na "]


@pytest.mark.parametrize("cell", MISSING)
@pytest.mark.parametrize("used", ["a", "y"])
def test_rows_that_lack_a_value_are_dropped_and_counted(folder: Path, cell: str, used: str) -> None:
    rows = [f"{i},{cell if i in (0, 2, 5) else 'text'},{10 * i}" for i in range(7)]
    rows[1] = rows[1].replace("1,", f"{cell},", 1)
    rows[4] = rows[4].replace(",40", f",{cell}")
    text = "\n".join(["a,note,y", *rows])
    table = read(text, features=["a"], missing="drop")
    assert columns(table) == {"a": [0, 2, 3, 5, 6], "y": [0, 20, 30, 50, 60]}
    assert table.dropped == 2
    features, dropped = read_features("data.csv", [used], missing="drop")
    assert (len(features), dropped) == (6, 1)


@pytest.mark.parametrize("cell", MISSING)
def test_a_missing_value_is_refused_with_the_remedy(folder: Path, cell: str) -> None:
    message = "row 2 (line 3), column 'x': expected a finite number, got "
    remedy = " (--missing drop leaves out rows that lack a value)"
    assert refusal(f"x,y\n1,2\n{cell},1\n") == f"data.csv: {message}{cell.strip()!r}{remedy}"


def test_dropping_does_not_hide_what_is_wrong(folder: Path) -> None:
    assert "(line 2), column 'y': expected a finite number, got 'four'" in refusal("x,y\n,four\n1,2\n", missing="drop")
    assert "(line 2), column 'x': expected a finite number, got 'inf'" in refusal("x,y\ninf,2\n1,2\n", missing="drop")
    assert "(line 2), column 'x': expected a finite number, got '-nan'" in refusal("x,y\n-nan,2\n", missing="drop")
    assert "row 1 (line 2): expected 2 columns, got 1" in refusal("x,y\nNA\n1,2\n", missing="drop")


def test_nothing_is_left(folder: Path) -> None:
    message = "data.csv: expected rows with all values, got 2 that lack some"
    assert refusal("x,y\n,1\n2,NA\n", missing="drop") == message
    assert refusal("x,y\n \n") == "data.csv: expected rows of data below the header, got none"


GROUPED = [
    "3,14",
    "-3,14",
    "1,234",
    "1,234.5",
    "1.234,5",
    "1.234.567",
    "1 234",
    "1'234",
    "1\u2019234.5",
    "1\u00a0234",
    "1_0",
]


@pytest.mark.parametrize("cell", GROUPED)
def test_decimal_commas_and_thousands_separators(folder: Path, cell: str) -> None:
    where = "data.csv: row 2 (line 3), column 'x': expected a finite number, got "
    remedy = " (numbers are as 1234.5: no decimal comma, no thousands separators)"
    assert refusal(f'x,y\n1,2\n"{cell}",1\n') == f"{where}{cell!r}{remedy}"
    assert refusal(f"x;y\n1;2\n{cell};1\n", separator=";") == f"{where}{cell!r}{remedy}"


@pytest.mark.parametrize(
    "cell",
    [
        *("four", "1e", "e1", ".", "-", "+-1", "1 e5", "0x10", "0x1p3", "1d5", "1f", "1j", "1e999", "-1.5e999"),
        *("inf", "-inf", "Infinity", "nan(1)", "\u0663", "\uff11", "\u22121", "\u00bd", "5 %", "$5", "True"),
    ],
)
def test_what_is_no_number(folder: Path, cell: str) -> None:
    message = f"data.csv: row 1 (line 2), column 'x': expected a finite number, got {cell!r}"
    assert refusal(f"x,y\n{cell},2\n") == message


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "expected a header row and data, got an empty file"),
        (gzip.compress(b""), {}, "expected a header row and data, got an empty file"),
        ("\n \n", {}, "expected a header row and data, got an empty file"),
        ("1,2\n2,4\n3,7\n", {}, "expected a header row with column names, got the numbers 1, 2"),
        ("x,x,y\n1,2,3\n", {}, "expected columns of different names, got x, x, y"),
        (
            "y\n1\n2\n",
            {},
            "expected a feature column beside the target 'y', got none (columns are separated by ','; "
            "--separator changes that)",
        ),
        ("x,y\n1,2\n", {"target": "z"}, "expected one of the columns x, y, got 'z'"),
        ("x,y\n1,2\n", {"features": ["x", "w"]}, "expected one of the columns x, y, got 'w'"),
        ("x,y\n1,2\n", {"features": [""]}, "expected one of the columns x, y, got ''"),
        ('"a\nb",y\n1,2\n', {"target": "z"}, "expected one of the columns a b, y, got 'z'"),
        ("x,y\n1,2\n2,4\n3,7\nfour,5\n", {}, "row 4 (line 5), column 'x': expected a finite number, got 'four'"),
        ("x,y\n1,2\n\n2,b\n", {}, "row 2 (line 4), column 'y': expected a finite number, got 'b'"),
        ("x,y\r1,2\r\r2,b\r", {}, "row 2 (line 4), column 'y': expected a finite number, got 'b'"),
        ("x,y\r\n1,2\r\n\r\n2,b", {}, "row 2 (line 4), column 'y': expected a finite number, got 'b'"),
        (
            'x,n,y\n1,"a\n\nb",2\n2,,b\n',
            {"features": ["x"]},
            "row 2 (line 5), column 'y': expected a finite number, got 'b'",
        ),
        ("x,y\n1,2\n2\n", {}, "row 2 (line 3): expected 2 columns, got 1"),
        ("x,y\n1,2\n3,14,2\n", {}, "row 2 (line 3): expected 2 columns, got 3"),
        (
            "x,y\n" + "a" * 100 + ",2\n",
            {},
            f"row 1 (line 2), column 'x': expected a finite number, got '{'a' * 40}...'",
        ),
        ('x,y\n1,2\n2,"4\n', {}, "line 3: expected CSV, got an error: unexpected end of data"),
        ('x,y\n1,2\n2,"4"5\n', {}, "line 3: expected CSV, got an error: ',' expected after '\"'"),
        ("x,y\n1,2\n3,\x004\n", {}, "line 3: expected text, got a NUL byte"),
        (b"\x00\x01\x02" * 100, {}, "line 1: expected text, got a NUL byte"),
        (b"x,y\n\xff\xfe,1\n", {}, "expected a CSV file in UTF-8, got the byte 0xff"),
        ("x,y\n1,2\n".encode("utf-16"), {}, "expected a CSV file in UTF-8, got the byte 0xff"),
        (gzip.compress(b"x,y\n1,2\n")[:-9], {}, "expected a whole gzip file, got one that ends too early"),
        (gzip.compress(b"x,y\n1,2\n")[:5], {}, "expected a whole gzip file, got one that ends too early"),
        (gzip.compress(b"x,y\n1,2\n")[:-8] + bytes(8), {}, "expected a sound gzip file, got CRC check failed"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\0\xff\xff\xff", {}, "expected a sound gzip file, got Error -3"),
    ],
)
def test_what_is_refused(folder: Path, content: str | bytes, options: dict[str, Any], message: str) -> None:
    assert refusal(content, **options).startswith(f"data.csv: {message}")


def test_features_that_cannot_be(folder: Path) -> None:
    text = "x,y\n1,2\n"
    message = "--features: expected columns other than the target, got 'y'"
    assert refusal(text, features=["x", "y"]) == refusal(text, features=["y", "y"]) == message
    assert refusal(text, features=["x", "x"]) == "--features: expected each column once, got x, x"


def test_many_names_are_not_all_listed(folder: Path) -> None:
    names = [f"column{i}" for i in range(1000)]
    message = refusal(",".join(names) + "\n", target="z")
    assert message == f"data.csv: expected one of the columns {', '.join(names[:20])}, ..., got 'z'"


def test_files_that_cannot_be_opened(folder: Path) -> None:
    for source, message in ((Path("none.csv"), "none.csv: No such file or directory"), (folder, "Is a directory")):
        with pytest.raises(InputError, match=message):
            read_table(source)


def test_plain_numbers_go_through_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the tests of both ways would test one of them twice."""
    monkeypatch.chdir(tmp_path)
    go("pyarrow", monkeypatch)
    monkeypatch.setattr(csv_file.CsvFile, "_convert", None)
    text = "x,y\n1,-2.5e3\n0.1,4\r\n3,7\n"
    assert columns(read(text)) == {"x": [1, 0.1, 3], "y": [-2500, 4, 7]}
    assert columns(read("x,y\n1,2\n,4\n3,NA\n3,NaN\n", missing="drop")) == {"x": [1], "y": [2]}


def decimals() -> st.SearchStrategy[str]:
    """Decimal numbers of up to 30 digits, many of them near the middle of two doubles."""
    digits = st.integers(-(10**30), 10**30)
    exponents = st.integers(-345, 310)
    middle = st.integers(2**53, 2**54).flatmap(
        lambda n: st.integers(-2, 2).map(lambda e: f"{(2 * n + 1) * 10**25 + e}")
    )
    return (
        st.builds("{}e{}".format, digits, exponents)
        | middle
        | st.floats(allow_nan=False, allow_infinity=False).map("{:.17g}".format)
        | st.integers().map(str)
    )


def outcome(way: str, block: int, text: str, **options: Any) -> Any:
    """Return the bytes of what is read, or the refusal."""
    with pytest.MonkeyPatch.context() as patch:
        go(way, patch, block)
        try:
            table = read(text, **options)
        except InputError as error:
            return str(error)
        return table.target.tobytes(), table.features.tobytes(), table.features.shape, table.dropped


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@given(st.lists(st.tuples(decimals(), decimals()), min_size=1), st.sampled_from(WAYS))
def test_numbers_are_rounded_as_by_float(shared_folder: Path, rows: list[tuple[str, str]], way: str) -> None:
    exact = np.array([[float(x), float(y)] for x, y in rows])
    if not np.isfinite(exact).all():
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shared_folder)
        text = "\n".join(["x,y", *map(",".join, rows), ""])
        assert outcome(way, 1, text) == (exact[:, 1].tobytes(), exact[:, 0].tobytes(), (len(rows), 1), 0)


plain_cells = decimals()
odd_cells = st.sampled_from(
    [
        *MISSING,
        *GROUPED,
        "inf",
        "-nan",
        "+1",
        "1.",
        ".5",
        "1e999",
        "1e-999",
        "-0",
        "-0e-5",
        "0x1",
        "four",
        '"1"',
        '"',
        "\0",
    ]
) | st.text(" \t\n\r\v\f\x1c\x850123456789.,;eE+-_'\"", max_size=6)
cells = st.one_of(plain_cells, plain_cells, plain_cells, odd_cells)
ends = st.sampled_from(["\n", "\n", "\n", "\r\n", "\r", "\n\n", "\n  \n"])


@settings(max_examples=400)
@given(
    st.lists(st.tuples(plain_cells, st.text(max_size=3) | odd_cells, cells, ends), max_size=12),
    st.sampled_from([1, 1, 40, 200]),
    st.sampled_from([",", ";", "\t", " "]),
    st.sampled_from(["error", "drop"]),
    st.sampled_from([None, ["a"]]),
)
def test_both_ways_give_the_same(
    shared_folder: Path,
    rows: list[tuple[str, str, str, str]],
    block: int,
    separator: str,
    missing: str,
    features: list[str] | None,
) -> None:
    lines = [f"a{separator}b{separator}c\n", *(separator.join(row[:3]) + row[3] for row in rows)]
    options = {"separator": separator, "missing": missing, "features": features}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shared_folder)
        text = "".join(lines)
        assert outcome("pyarrow", block, text, **options) == outcome("csv", block, text, **options)


@marks.linux
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("quotes", [False, True])
def test_memory_and_time(tmp_path: Path, way: str, quotes: bool) -> None:
    """100,000 rows of 11 numbers of 17 digits: memory within 3 times theirs, and a fixed cost."""
    if way == "pyarrow":
        pytest.importorskip("pyarrow")
    numbers = np.random.default_rng(0).normal(size=(100_000, 11))
    with (tmp_path / "data.csv").open("w") as file:
        file.write('"a",b,c,d,e,f,g,h,i,j,k\n')
        for row in numbers.tolist():
            file.write(
                ",".join([f'"{row[0]:.17g}"' if quotes else f"{row[0]:.17g}", *map("{:.17g}".format, row[1:])]) + "\n"
            )
    code = f"""
        import sys, time
        if {way!r} == "csv":
            sys.modules["pyarrow"] = None
        else:
            import pyarrow.csv
        from rmsprop_fast.regression.table import read_table

        def peak():  # unlike ru_maxrss, not that of the process that started this one
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

        before, started = peak(), time.process_time()
        table = read_table({str(tmp_path / "data.csv")!r})
        print((peak() - before) * 1024, time.process_time() - started, table.features.sum())
    """
    memory, seconds, total = map(float, processes.run(code).stdout.split())
    assert total == pytest.approx(numbers[:, :10].sum())
    assert memory < 3 * numbers.nbytes + 24e6
    assert seconds < 3
