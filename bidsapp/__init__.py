"""The BrainWhy BIDS App: what a person runs and reads."""

__version__ = "0.1.0"
