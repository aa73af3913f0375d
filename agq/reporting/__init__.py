"""What the user sees: stderr (progress, logs, errors), stdout (tables, JSON). Nothing here imports numpy, torch or rich
at load.
"""
