"""The simulator: a system of processes and its network in one thread, under virtual time, from one integer.

The layers, from the bottom: `events` (what happens when), `paths` (how long messages travel), `loops` (the event loop
of one process), `processes`, `streams` and `network` (TCP), `services` (the store and the engine), `simulation` (what
an application sees), `faults`, and `simulate`, which runs seeds and looks for the shortest story of a failure.
"""
