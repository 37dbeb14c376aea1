"""Compact state and parameters: the bytes of the reference, formats by hand, and rounding without bias.

What becomes of a compact state is in test_compact_state.py, what is refused in test_compact_refused.py.
"""

from __future__ import annotations

import copy
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import rmsprop_fast as rf
from bits import Array, hard_values, same_bits
from compact_cases import BFLOAT16, DTYPES, FORMATS, kept_of, name_of, require_same
from rmsprop_fast import _core

pytestmark = pytest.mark.core

# Around blocks of 128 elements, and around rows of 32 elements, from which on blocks end with them.
SHAPES: list[tuple[int, ...]] = [
    *((), (0,), (1,), (127,), (128,), (129,), (1000,)),
    *((5, 31), (5, 32), (3, 128), (3, 300), (9, 7, 5)),
]
FAMILY: dict[str, dict[str, Any]] = {
    "plain": {},
    "options": {"clip_value": 0.5, "weight_decay": 0.01, "grad_scale": 2.0, "momentum": 0.9, "nesterov": True},
    "centered": {"centered": True, "momentum": 0.9, "eps": 1e-3, "eps_inside_sqrt": True},
    "decoupled": {"weight_decay": 0.1, "decoupled": True, "maximize": True, "initial_s": 1.0, "clip_norm": 2.0},
}
CASES = [(dtype, form) for dtype in DTYPES for form in FORMATS if dtype == BFLOAT16 or not form["low_bits"]]


def use(kernel: str, threads: int) -> None:
    rf.set_kernel(kernel)
    rf.set_num_threads(threads)
    _core._set_share(0)  # threads even for the smallest work


def parameters(random: np.random.Generator, dtype: Any, values: Any = None) -> dict[str, Array]:
    values = values or (lambda size: random.standard_normal(size) * 10 ** random.uniform(-3, 3, size))
    with np.errstate(over="ignore"):
        return {str(shape): np.asarray(values(math.prod(shape))).astype(dtype).reshape(shape) for shape in SHAPES}


@pytest.mark.parametrize("kernel", rf.kernels())
@pytest.mark.parametrize("family", FAMILY)
@pytest.mark.parametrize(("dtype", "form"), CASES, ids=name_of)
def test_bytes_are_those_of_the_reference(dtype: Any, form: dict[str, Any], family: str, kernel: str) -> None:
    random = np.random.default_rng(0)
    starts = parameters(random, dtype)
    gradients = [parameters(random, dtype) for _ in range(3)]
    gradients[1]["(129,)"] = gradients[1]["(129,)"].astype(np.float32)
    gradients[2] = parameters(random, dtype, lambda size: hard_values(random, size, np.float32))
    expected = copy.deepcopy(starts)
    oracle = rf.init(expected, lr=0.1, **FAMILY[family], **form)
    states = [
        (threads, copy.deepcopy(starts), rf.init(starts, lr=0.1, **FAMILY[family], **form)) for threads in (1, 2, 7)
    ]
    with np.errstate(all="ignore"):
        for grads in gradients:
            rf.reference.step(expected, grads, oracle)
            wanted = kept_of(oracle)
            for threads, params, state in states:
                use(kernel, threads)
                rf.step(params, grads, state)
                require_same(params, expected)
                require_same(kept_of(state), wanted)


def values_of_codes(name: str) -> Array:
    """What each code stands for, in units of its block."""
    is_signed = name != "s"
    least, codes = 2.0 ** (-15 if is_signed else -31), np.arange(128 if is_signed else 256)
    numbers = (((1 + codes % 8 / 8) * 2.0 ** (codes // 8) - 1) * least).astype(np.float32)
    return np.concatenate([numbers, -numbers]) if is_signed else numbers


def new_state(like: Array, name: str, state_dtype: str, **options: Any) -> rf.State:
    options |= {"centered": name == "grad_avg", "momentum": 0.75 if name == "momentum_buffer" else 0}
    return rf.init(np.zeros(like.shape, np.float32), state_dtype=state_dtype, **options)


def assigned(numbers: Array, name: str, state_dtype: str) -> Array:
    state = new_state(numbers, name, state_dtype)
    setattr(state, name, numbers)
    return np.asarray(getattr(state, name))


@pytest.mark.parametrize("name", ["s", "grad_avg", "momentum_buffer"])
@pytest.mark.parametrize("power", [-126, -125, -100, -3, 0, 60, 120, 126])
def test_every_code_comes_back(power: int, name: str) -> None:
    """The largest number is up to one unit; or rounded down to half of it; or 1.875 units if it was not finite."""
    codes = values_of_codes(name)
    numbers = (codes.astype(np.float64) * 2.0**power).astype(np.float32)
    assert len(np.unique(codes.view(np.uint32))) == 256
    for below_highest in (0, 7, 14, 15):
        largest = np.unique(abs(numbers))[-1 - below_highest]
        blocks = np.full((3, 128), largest, np.float32)
        blocks[:, 1:] = np.resize(numbers[np.abs(numbers) <= largest], (3, 127))
        assert same_bits(assigned(blocks, name, "uint8"), blocks)


@pytest.mark.parametrize("name", ["s", "grad_avg", "momentum_buffer"])
def test_every_bfloat16_comes_back(name: str) -> None:
    numbers = (np.arange(2**16, dtype=np.uint32) << 16).view(np.float32)
    numbers = numbers[~(numbers < 0)] if name == "s" else numbers
    assert same_bits(assigned(numbers, name, "bfloat16"), numbers)


def test_what_is_not_finite_gets_the_highest_code() -> None:
    """Of its block, which another block does not change."""
    numbers = np.ones((2, 128), np.float32)
    numbers[0, :4] = 3, np.inf, np.nan, 0
    numbers[1] = np.inf
    found = assigned(numbers, "s", "uint8")
    assert found[0, :5].tolist() == [3, 7.5, 7.5, 0, 1]
    assert (found[1] == 1.875 * 2.0**-126).all()
    found = assigned(np.copysign(numbers, -1), "momentum_buffer", "uint8")
    np.testing.assert_array_equal(abs(found[0, [1, 2, 3]]), [(1.875 - 2**-15) * 4] * 2 + [0])
    assert np.signbit(found[~np.isnan(numbers)]).all()
    assert assigned(np.array([np.inf, 2**-3], np.float32), "grad_avg", "uint8")[0] == (1.875 - 2**-15) / 8


@pytest.mark.parametrize("state_dtype", ["bfloat16", "uint8"])
@pytest.mark.parametrize("name", ["s", "grad_avg", "momentum_buffer"])
def test_assigned_numbers_become_the_nearest(name: str, state_dtype: str) -> None:
    random = np.random.default_rng(0)
    numbers = (random.uniform(1, 2, (50, 128)) * 2.0 ** random.integers(-40, 20, (50, 128))).astype(np.float32)
    numbers *= 1 if name == "s" else random.choice([-1, 1], numbers.shape)
    found = assigned(numbers, name, state_dtype)
    for block, rounded in zip(numbers.astype(np.float64), found.astype(np.float64), strict=True):
        if state_dtype == "uint8":
            unit = 2.0 ** math.ceil(math.log2(abs(block).max()))
            known = np.unique(values_of_codes(name).astype(np.float64)) * unit
            least = unit * 2.0 ** (-31 if name == "s" else -15)
            slack = 2.0**-23 * (abs(block) + least)  # as |x| + least is rounded to float32 before
            places = np.clip(np.searchsorted(known, block), 1, len(known) - 1)
            half = (known[places] - known[places - 1]) / 2
            assert np.isin(rounded, known).all()
        else:
            half, slack = 2.0 ** (np.floor(np.log2(abs(block))) - 8), np.zeros(128)
        assert (abs(rounded - block) <= half + slack).all()
    assert state_dtype == "uint8" or not (found.view(np.uint32) & 0xFFFF).any()


def fractions(numbers: Array) -> list[Fraction]:
    return [Fraction(float(x)) for x in numbers]


def word_of(steps: int, array: int, element: int) -> int:
    """What stands for chance, by the documented rule, in Python's integers."""
    word = (4 * steps + array) % 2**32
    for factor, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
        word = ((word ^ (word >> shift)) * factor) % 2**32
    return ((word ^ (word >> 16)) + 0x9E3779B9 * element) % 2**32


def rounded_by_hand(x: Fraction, fraction_bits: int, word: int, least: Fraction, exceeds: bool = False) -> Fraction:
    """Round to a float of so many bits of fraction, counted from `least` on.

    Up if what is cut off and the word, of as many bits, make up 1; or, with float16, if it exceeds the word.
    """
    y = abs(x) + least
    y = Fraction(float(np.float32(float(y))))
    ulp = Fraction(2) ** (math.frexp(y)[1] - 1 - fraction_bits)
    rest, cut = y / ulp % 1, 24 if exceeds else 23 - fraction_bits
    part = Fraction(word >> (32 - cut), 2**cut)
    is_up = rest > part if exceeds else rest + part >= 1
    number = Fraction(float(np.float32(float((y // ulp + is_up) * ulp - least))))
    return -number if x < 0 else number


STEPS = [0, 1, 7, 12345, 2**40 + 3]


@pytest.mark.parametrize("kernel", rf.kernels())
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("state_dtype", ["bfloat16", "uint8"])
@pytest.mark.parametrize(("array", "name"), [(1, "s"), (2, "grad_avg"), (3, "momentum_buffer")])
def test_means_by_hand(array: int, name: str, state_dtype: str, steps: int, kernel: str) -> None:
    """One step, of numbers of so few bits that nothing else is rounded."""
    use(kernel, 1)
    numbers = np.array([1, 127, 97, 85, 75, 113, 99, 50], np.float32) / [1, *[128] * 7]
    numbers = np.resize(numbers, 40) if name == "s" else np.resize(np.concatenate([numbers, -numbers]), 40)
    state = new_state(numbers, name, state_dtype, rho=0.5, eps=1, rounding="stochastic")
    setattr(state, name, numbers)
    state.steps = steps
    g = np.zeros(40, np.float32) if name == "momentum_buffer" else (np.arange(40) * 37 % 509 / 512).astype(np.float32)
    after = [
        {"s": (old + x * x) / 2, "grad_avg": (old + x) / 2, "momentum_buffer": old * 3 / 4}[name]
        for old, x in zip(fractions(getattr(state, name)), fractions(g), strict=True)
    ]
    rf.step(np.zeros(40, np.float32), g, state)
    unit, bits, least = Fraction(1), 7, Fraction(0)
    if state_dtype == "uint8":
        unit, bits = Fraction(2) ** math.ceil(math.log2(max(map(abs, after)))), 3
        least = Fraction(1, 2**31 if name == "s" else 2**15)
    expected = [
        float(rounded_by_hand(x / unit, bits, word_of(steps, array, element), least) * unit)
        for element, x in enumerate(after)
    ]
    assert getattr(state, name).tolist() == expected
    assert len({x < y for x, y in zip(expected, after, strict=True)}) == 2  # some went up, some down


def numbers_of(params: Array, low: Array | None) -> Array:
    """Parameters, with the 8 bits below them, as float64."""
    if low is None:
        return params.astype(np.float64)
    bits = params.view(np.uint16).astype(np.uint32) << 16 | low.astype(np.uint32) << 8
    return bits.view(np.float32).astype(np.float64)


COMPACT_PARAMETERS = [(BFLOAT16, 0, 7), (BFLOAT16, 8, 15), (np.dtype(np.float16), 0, 10)]  # and their bits of fraction


@pytest.mark.parametrize("kernel", rf.kernels())
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("dtype", "low_bits", "bits"), COMPACT_PARAMETERS, ids=name_of)
def test_parameters_by_hand(dtype: Any, low_bits: int, bits: int, steps: int, kernel: str) -> None:
    """One step by -g, with s = 1 and lr = 1."""
    use(kernel, 1)
    p = (np.arange(60) % 50 / 64 + 1).astype(dtype) * np.array([1, -1] * 30, dtype)
    state = rf.init(p, lr=1, rho=1, eps=0, initial_s=1, rounding="stochastic", low_bits=low_bits)
    state.steps = steps
    g = ((np.arange(60) * 37 % 256 + 1) * 2.0 ** -(bits + 7)).astype(dtype)
    after = [x - y for x, y in zip(fractions(p), fractions(g), strict=True)]
    rf.step(p, g, state)
    expected = [
        float(rounded_by_hand(x, bits, word_of(steps, 0, element), Fraction(0), exceeds=dtype == np.float16))
        for element, x in enumerate(after)
    ]
    assert numbers_of(p, state.low_order_bits).tolist() == expected
    assert len({x < y for x, y in zip(expected, after, strict=True)}) == 2


SIZE, MANY = 4096, 1000  # elements and steps


def standard_error(steps: int, move: float, gap: float) -> float:
    """Of one element: a step up or down by `gap`, which is right in the mean, has a variance of at most move * gap."""
    return math.sqrt(steps * move * gap)


@pytest.mark.parametrize(("state_dtype", "gap"), [("bfloat16", 2.0**-8), ("uint8", 2.0**-4)])
@pytest.mark.parametrize("g", [0.0, 1.0])
def test_stochastic_means_have_no_bias(g: float, state_dtype: str, gap: float) -> None:
    """Between 0 and 1, where numbers are at most `gap` apart, s moves to g**2 by up to 1 / 1000 of the rest at a time.

    The mean of all elements is to be within 5 standard errors of float32's, and a typical element within 2 of its own:
    with the same word in each step, it would be stuck or run ahead.
    """
    p, grads = np.zeros(SIZE, np.float32), np.full(SIZE, g, np.float32)
    exact = rf.init(p, rho=0.999, initial_s=1 - g)
    stochastic, nearest = (
        rf.init(p, rho=0.999, initial_s=1 - g, state_dtype=state_dtype, rounding=each)
        for each in ("stochastic", "nearest")
    )
    for t in range(1, MANY + 1):
        for state in (exact, stochastic, nearest):
            rf.step(p, grads, state)
        if t % 100 == 0:
            error = stochastic.s.astype(np.float64) - exact.s[0]
            allowed = standard_error(t, 0.001, gap)
            assert abs(error.mean()) < 5 * allowed / math.sqrt(SIZE)
            assert math.sqrt((error**2).mean()) < 2 * allowed
    assert abs(exact.s[0] - (1 - g)) > 0.6
    assert (abs(nearest.s - (1 - g)) < 0.3).all()  # stuck


@pytest.mark.parametrize(("dtype", "low_bits", "bits"), COMPACT_PARAMETERS, ids=name_of)
def test_stochastic_parameters_have_no_bias(dtype: Any, low_bits: int, bits: int) -> None:
    """1,000 moves by 1 / 32 of a gap, which float32 does not round. Bounds as for means."""
    gap = 2.0**-bits
    start = (1.5 + np.random.default_rng(0).integers(0, 16, SIZE) / 64).astype(dtype)
    options: dict[str, Any] = {"lr": gap / 32, "rho": 1, "eps": 0, "initial_s": 1, "low_bits": low_bits}
    for rounding in ("stochastic", "nearest"):
        p = start.copy()
        state = rf.init(p, rounding=rounding, **options)
        for _ in range(MANY):
            rf.step(p, np.ones(SIZE, dtype), state)
        moved = numbers_of(start, None) - numbers_of(p, state.low_order_bits)
        if rounding == "nearest":
            assert not moved.any()
            continue
        error, allowed = moved - MANY * gap / 32, standard_error(MANY, gap / 32, gap)
        assert abs(error.mean()) < 5 * allowed / math.sqrt(SIZE)
        assert math.sqrt((error**2).mean()) < 2 * allowed


def test_words_of_consecutive_steps_are_evenly_spread() -> None:
    """In which sixteenth a word lies is how many of 15 leaves go up, which are 1 to 15 sixteenths above a bfloat16.

    Leaves share their words. Chi-square with 15 degrees of freedom is below 37.7 in 99.9 % of cases; of each step's
    sixteenth, and of the fourths of two steps together.
    """
    places = [0, 1, 77]
    params = [np.ones(78, BFLOAT16) for _ in range(15)]
    lr = [(k + 1) / 16 * 2**-7 for k in range(15)]
    state = rf.init(params, lr=lr, rho=1, eps=0, initial_s=1, maximize=True, rounding="stochastic")
    grads = [np.ones(78, BFLOAT16) for _ in range(15)]
    found = []
    for _ in range(4096):
        for p in params:
            p[...] = 1
        rf.step(params, grads, state)
        found.append([sum(float(p[place]) > 1 for p in params) for place in places])
    for bins in np.array(found).T:
        for each in (bins, bins[:-1] // 4 * 4 + bins[1:] // 4):
            counts = np.bincount(each, minlength=16)
            assert ((counts - len(each) / 16) ** 2).sum() / (len(each) / 16) < 37.7
