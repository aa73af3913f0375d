"""The supported families: `model_type` of config.json -> the module that reads its configs and knows its names.

A family's module has two functions: `spec(config)`, the ModelSpec of a config.json, and `parts(spec)`, its ModelParts.
Modules are imported when they are asked for: they import ModelSpec, which checks its family against this table.
"""

FAMILIES = {
    "llama": "agq.models.llama",
    "opt": "agq.models.opt",
    "bloom": "agq.models.bloom",
}
