"""Linear regressions whose coefficients are known: NIST's certified ones, and others, solved in fractions.

https://www.itl.nist.gov/div898/strd/lls/lls.shtml
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_diabetes


class Problem(NamedTuple):
    """Features (n, k) and target (n,); coefficients and their standard errors start with the intercept."""

    features: NDArray[np.float64]
    target: NDArray[np.float64]
    coefficients: list[float]
    standard_errors: list[float]
    residual_std: float


# Employment, GNP deflator, GNP, unemployment, armed forces, population, year.
_LONGLEY = np.array(
    [
        (60323, 83, 234289, 2356, 1590, 107608, 1947),
        (61122, 88.5, 259426, 2325, 1456, 108632, 1948),
        (60171, 88.2, 258054, 3682, 1616, 109773, 1949),
        (61187, 89.5, 284599, 3351, 1650, 110929, 1950),
        (63221, 96.2, 328975, 2099, 3099, 112075, 1951),
        (63639, 98.1, 346999, 1932, 3594, 113270, 1952),
        (64989, 99, 365385, 1870, 3547, 115094, 1953),
        (63761, 100, 363112, 3578, 3350, 116219, 1954),
        (66019, 101.2, 397469, 2904, 3048, 117388, 1955),
        (67857, 104.6, 419180, 2822, 2857, 118734, 1956),
        (68169, 108.4, 442769, 2936, 2798, 120445, 1957),
        (66513, 110.8, 444546, 4681, 2637, 121950, 1958),
        (68655, 112.6, 482704, 3813, 2552, 123366, 1959),
        (69564, 114.2, 502601, 3931, 2514, 125368, 1960),
        (69331, 115.7, 518173, 4806, 2572, 127852, 1961),
        (70551, 116.9, 554894, 4007, 2827, 130081, 1962),
    ]
)

_LOADS = np.tile(np.arange(1, 21) * 150_000.0, 2)
_DEFLECTIONS = [
    *(0.11019, 0.21956, 0.32949, 0.43899, 0.54803, 0.65694, 0.76562, 0.87487, 0.98292, 1.09146),
    *(1.20001, 1.30822, 1.41599, 1.52399, 1.63194, 1.73947, 1.84646, 1.95392, 2.06128, 2.16844),
    *(0.11052, 0.22018, 0.32939, 0.43886, 0.54798, 0.65739, 0.76596, 0.87474, 0.98300, 1.09150),
    *(1.20004, 1.30818, 1.41613, 1.52408, 1.63159, 1.73965, 1.84696, 1.95445, 2.06177, 2.16829),
]

_X = np.arange(21.0)
_POWERS = np.column_stack([_X**k for k in range(1, 6)])
_NOISE = np.array(
    [
        *(759, -2048, 2048, -2048, 2523, -2048, 2048, -2048, 1838, -2048, 2048),
        *(-2048, 1838, -2048, 2048, -2048, 2523, -2048, 2048, -2048, 759),
    ]
)


def _wampler(noise: int) -> Problem:
    """Return y = 1 + x + ... + x**5 with noise, of which the standard errors are multiples."""
    errors = [
        2152.32624678170,
        2363.55173469681,
        779.343524331583,
        101.475507550350,
        5.64566512170752,
        0.112324854679312,
    ]
    return Problem(
        _POWERS,
        1 + _POWERS.sum(axis=1) + noise * _NOISE,
        [1.0] * 6,
        [noise * error for error in errors],
        noise * 2360.14502379268,
    )


NIST = {
    "Longley": Problem(
        _LONGLEY[:, 1:],
        _LONGLEY[:, 0],
        [
            *(-3482258.63459582, 15.0618722713733, -0.358191792925910e-01, -2.02022980381683),
            *(-1.03322686717359, -0.511041056535807e-01, 1829.15146461355),
        ],
        [
            *(890420.383607373, 84.9149257747669, 0.334910077722432e-01, 0.488399681651699),
            *(0.214274163161675, 0.226073200069370, 455.478499142212),
        ],
        304.854073561965,
    ),
    "Pontius": Problem(
        np.column_stack([_LOADS, _LOADS**2]),
        np.array(_DEFLECTIONS),
        [0.673565789473684e-03, 0.732059160401003e-06, -0.316081871345029e-14],
        [0.107938612033077e-03, 0.157817399981659e-09, 0.486652849992036e-16],
        0.205177424076185e-03,
    ),
    "Wampler 1": _wampler(0),
    "Wampler 2": Problem(
        _POWERS, 1 + (_POWERS * 0.1 ** np.arange(1, 6)).sum(axis=1), [0.1**k for k in range(6)], [0.0] * 6, 0.0
    ),
    "Wampler 3": _wampler(1),
    "Wampler 4": _wampler(100),
    "Wampler 5": _wampler(10_000),
}

# Norris ships with the package, as the example of the command line.
NORRIS = {
    "intercept": -0.262323073774029,
    "slope": 1.00211681802045,
    "intercept_error": 0.232818234301152,
    "slope_error": 0.429796848199937e-03,
    "residual_std": 0.884796396144373,
    "r2": 0.999993745883712,
}


def exact(features: NDArray[np.float64], target: NDArray[np.float64]) -> list[float]:
    """Return the least squares solution, intercept first, by elimination in fractions."""
    rows = [[Fraction(1), *map(Fraction, row)] for row in features.tolist()]
    y = [Fraction(value) for value in target.tolist()]
    size = len(rows[0])
    columns = [*zip(*rows, strict=True), y]
    system = [
        [sum((a * b for a, b in zip(columns[i], column, strict=True)), Fraction(0)) for column in columns]
        for i in range(size)
    ]
    for i in range(size):
        system[i] = [value / system[i][i] for value in system[i]]
        for j in range(size):
            if j != i:
                system[j] = [a - system[j][i] * b for a, b in zip(system[j], system[i], strict=True)]
    return [float(row[-1]) for row in system]


def correlated(correlation: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    random = np.random.default_rng(0)
    a, b, noise = random.standard_normal((3, 100))
    features = np.column_stack([a, correlation * a + math.sqrt(1 - correlation**2) * b])
    return features, features @ [2.0, -1.0] + 3 + noise


def cubic() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x = np.linspace(0, 10, 50)
    return np.column_stack([x, x**2, x**3]), np.sin(x)


OTHERS = {
    "two features, correlation 0.999": correlated(0.999),
    "two features, correlation 0.9999": correlated(0.9999),
    "two features, correlation 1 - 1e-6": correlated(1 - 1e-6),
    "x, x², x³ on 0 to 10": cubic(),
    "diabetes": load_diabetes(return_X_y=True, scaled=False),
}
