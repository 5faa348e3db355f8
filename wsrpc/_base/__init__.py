"""What every other package builds on: names and option types, logging, the scheduler seam, close codes."""
