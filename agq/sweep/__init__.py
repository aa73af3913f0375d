"""`agq sweep`: models x methods, quantized, packed and measured, as one table (imports torch through `agq.quantize`).

`definition` reads what is to be compared, `cells` makes and measures one entry, `runner` goes through all of them and
resumes, `report` writes Markdown and JSON, `plot` a picture.
"""
