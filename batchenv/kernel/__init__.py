"""The money of the training tier, compiled.

``accounting`` and ``rewards`` hold scalar formulas, ``lane`` takes one lane over one bar, ``loops`` walks over lanes,
``state`` names the arrays, and ``jit`` is the only place that decides how things are compiled.
"""
