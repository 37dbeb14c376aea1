"""``python -m rmsprop_fast bench``: how fast a step is here, beside its limits and all one could use instead.

``suite`` measures ``peers`` on arrays and on ``models``, as ``timings`` of what runs in turn; ``targets`` are what it
should come to, and ``report`` shows it.
"""
