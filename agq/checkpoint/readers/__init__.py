"""How quantized folders of each `quant_method` are read: a file each; registry.py has the table."""
