"""The results of a run, for readers.

`analysis` computes, `text` is for the terminal, `summary_page` and `results_page` make the two pages of the docs,
`plots` draws, and `files` writes the pages and the plots.

All of it is made of a `benchmarks.results.Run` and a `benchmarks.cuts.outcome.Cuts` alone, so that a page can be made
again from their JSON at any time.
"""
