"""What tests need that not every machine and build has."""

from __future__ import annotations

import sys

import pytest

import rmsprop_fast as rf

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc, cgroups or affinity masks")
has_openmp = pytest.mark.skipif(rf.info()["openmp"] is None, reason="this build has no OpenMP")
