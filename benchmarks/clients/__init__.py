"""The Python clients under test: ``python -m benchmarks.clients KIND PORT SERVER_PID``.

`tasks` has what they are to do, `KINDS` in `__main__` names them all, and one module here is one library. A program
says ``ready``, then takes a `tasks.Task` in JSON from each line of stdin and answers it with a `Sample`. Every line is
a new connection in a new event loop.
"""
