"""What a run says: `analysis` computes, `text` is for the terminal, `page` makes docs/performance.md, `plots` draws.

All of it is made of a `benchmarks.results.Run` alone, so that a page can be made again from its JSON at any time.
"""
