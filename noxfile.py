"""The suite on every Python and the oldest NumPy that are present: nox."""

from __future__ import annotations

import nox

nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["tests", "oldest_numpy"]


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    session.install(".[test]")
    session.run("pytest", *session.posargs)


@nox.session(python=["3.10", "3.11", "3.12"])
def oldest_numpy(session: nox.Session) -> None:
    session.install(".[test]", "numpy==1.26.*")
    session.run("pytest", *session.posargs)
