"""The Python servers under test. ``python -m benchmarks.servers KIND`` prints the port that it listens on.

A server ends when its stdin does, so that none outlives the run that started it. `KINDS` in `__main__` names them all;
one module here is one library, and `handlers` has the functions that every server offers.
"""
