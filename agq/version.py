"""The version of agq. A module of its own, so that nothing below imports the package."""

__version__ = "0.1.0"
