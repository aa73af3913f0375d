"""Which format to take, and whether it fits: forecasts of speed and memory from a model's shape and a machine's kernel
table, measured here or put together from documented figures."""
