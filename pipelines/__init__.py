"""The files: BIDS queries, derivative names, nipype workflows and interfaces."""
