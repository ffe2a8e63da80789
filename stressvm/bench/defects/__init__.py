"""Planted defects: how good stressvm is at finding what it is for, measured by `stressvm bench defects`.

Each known window of an interleaving in the kernels' maps, and under them, is one defect: what keeps it shut is taken away,
and a hunt must notice. `table` has all of them, `measure` runs them.
"""
