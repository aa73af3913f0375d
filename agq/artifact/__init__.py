"""The packed artifact: one file with all that running a model needs (docs/artifact.md)."""

from agq.artifact.reader import Artifact, open_artifact

__all__ = ["Artifact", "open_artifact"]
