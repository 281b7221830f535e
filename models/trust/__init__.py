"""Can a heatmap be trusted? Measures that hold it against what is known."""
