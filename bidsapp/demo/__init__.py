"""Synthetic brain scans with known truth: who is scanned, what is changed in them."""
