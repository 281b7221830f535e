"""Voxelwise statistics of maps: arrays in, arrays out.

- ``glm``: designs and contrasts, the linear model of every voxel.
- ``designs``: designs from a table of people, by name.
- ``exchange``: which rearrangements of the people are allowed, and all or some of them.
- ``kernels``: the statistic of every voxel for many rearrangements.
- ``permutation``: corrected p values of voxels, clusters and TFCE (Freedman-Lane).
- ``tail``: the generalised Pareto tail of a distribution of maxima.
- ``components``, ``tfce``: connected components of a map, and what they add up to.
- ``clusters``: the clusters of a corrected map, their peaks and regions.
- ``random_field``, ``fdr``: other corrections, for comparison.

Nothing is imported here, so that naming the folder costs nothing.
"""
