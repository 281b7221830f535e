"""Voxelwise statistics of maps: arrays in, arrays out.

- ``glm``: the linear model of every voxel, and its designs.
- ``permutation``: family-wise error by the distribution of the maximum (Freedman-Lane).
- ``clusters``: the clusters of a corrected map and the names of their peaks.

Nothing is imported here, so that naming the folder costs nothing.
"""
