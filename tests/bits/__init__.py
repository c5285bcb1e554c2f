"""The exact bits of many results, so that a restructuring can be shown to have changed none.

    python -m tests.bits record before.json     # in the old tree
    python -m tests.bits compare before.json    # in the new one; exit status 1 if anything differs

A case is a name and a function of no arguments; what it returns is reduced to the first 16
hexadecimal digits of a SHA-256 over dtypes, shapes and bytes. A case that raises is recorded as its
exception, so messages count too. Cases go through public names only, which outlive a restructuring.

The networks consist of operations that IEEE 754 rounds, one element at a time: the same bits on
every machine and whatever the number of threads. Where torch or numpy compute more than that (the
schedules' logarithms, matrix products of the couplings) a recording is good for one machine.
"""
