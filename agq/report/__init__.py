"""`agq report`: one page that shows where a quantized model's accuracy went.

`measure` computes statistics of inputs, errors and attention, `facts` reads what the model itself says, `losses`
measures perplexities, `sections` and `story` make a `Page` (document.py) of them, `html` writes it, `svg` draws its
charts, `png` the same charts as pictures.
"""
