"""Formats chosen for a target of bits, size or speed: a knapsack over what each input's linears lose and cost.

items.py     what gets one format: the linears of a block that read one input, and the schemes that it can have
costs.py     what a scheme of an item takes of the target, and what the rest of the model takes
losses.py    what a scheme of an item loses, measured on calibration text (imports torch)
knapsack.py  the choice
problem.py   target, items and costs together, checked before any work
choice.py    from there to a recipe with overrides, and what is said of it
"""
