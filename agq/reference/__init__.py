"""The torch reference of every model that agq runs (imports torch)."""
