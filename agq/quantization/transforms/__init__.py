"""Transformations of a model that leave its function as it is and make it easier to quantize (imports torch).

`plan.make_plan` decides what is done to a model, `plan.TransformPlan` is the decision as data, and
`parameters.TransformedParameters` gives the transformed tensors one at a time.
"""
