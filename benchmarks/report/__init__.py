"""The results of a run, for readers.

`analysis` computes, `text` is for the terminal, `page` makes docs/contributing/benchmarks.md, `plots` draws.

All of it is made of a `benchmarks.results.Run` and a `benchmarks.cuts.outcome.Cuts` alone, so that a page can be made
again from their JSON at any time.
"""
