"""The supported families: `model_type` of config.json -> the module that reads its configs and knows its names.

A family's module has two functions: `spec(config)`, the ModelSpec of a config.json, and `parts(spec)`, its ModelParts.
Modules are imported when they are asked for: they import ModelSpec, which checks its family against this table.
"""

FAMILIES = {
    "llama": "agq.models.llama",
    "opt": "agq.models.opt",
    "bloom": "agq.models.bloom",
    "mistral": "agq.models.mistral",
    "qwen2": "agq.models.qwen",
    "qwen3": "agq.models.qwen",
    "gemma2": "agq.models.gemma2",
    "gemma3_text": "agq.models.gemma3",
    "phi3": "agq.models.phi3",
    "smollm3": "agq.models.smollm3",
    "olmo2": "agq.models.olmo2",
    "granite": "agq.models.granite",
    "gpt_neox": "agq.models.gpt_neox",
}

# Models of several kinds of input whose text part is a model of a family: `model_type` -> that family. Its config
# stands under `text_config`.
TEXT_PARTS = {"gemma3": "gemma3_text"}
