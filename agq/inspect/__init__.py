"""What a file is (`describe`) and whether it is whole (`verify`)."""
