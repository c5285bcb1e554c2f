"""Calls that nobody should make, in forked children: `python -m tests.fuzz --minutes 15`.

A crash, a hang, a result that another backend does not give and an error from deep inside are
counted; the first three are failures, and of the last less than one in a hundred may be.
"""
