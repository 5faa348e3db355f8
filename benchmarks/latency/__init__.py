"""How long one request takes at a fixed rate: percentiles for each server at shares of what it can carry."""
