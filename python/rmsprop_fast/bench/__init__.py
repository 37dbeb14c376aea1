"""``python -m rmsprop_fast bench``: how fast a step is here, beside its limits and all one could use instead.

``suite`` runs it all: ``cases`` are a step by ``peers`` on arrays and ``models``, beside the ``limits``; ``compact``
and ``sparse`` are steps of other formats and of rows; ``loops`` are whole ``workloads``; ``threads`` and ``processes``
have the rest. ``targets`` are what it should come to, ``report`` and ``plot`` show it.
"""
