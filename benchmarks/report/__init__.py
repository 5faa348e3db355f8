"""The results of a run, for readers.

`analysis` computes, `tables` makes tables in Markdown, which are printed after a run, too, `plots` draws, and `pages`
names what the pages of the docs show of the run that is recorded in docs/performance.
"""
