"""Calibration: text and token windows (`text`, `tokenizer`, `data`; no torch) and the statistics gathered on them
(torch).
"""
