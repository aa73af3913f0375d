"""Words that people bring along from llama.cpp and ollama: agq's own for them."""

from __future__ import annotations

# Commands -> what agq has for them.
_TALK = "`agq run MODEL` talks to a model, and `agq run MODEL PROMPT` answers once"
_CACHE = (
    "models are files, folders and hub ids; `agq cache` lists what was made of them, `agq cache --clear` removes it"
)
_FETCH = "no need for it: `agq run OWNER/NAME` fetches the model from the Hugging Face hub"
_SHOW = "`agq info MODEL` says what a model is"
_PACK = "`agq pack MODEL` makes the file that is run; `agq quantize MODEL` before it makes a better one"
_SCORE = "`agq eval-ppl MODEL` measures perplexity"
_SERVE = "agq has no server: `agq run MODEL --jsonl FILE` answers many prompts in one process"
COMMANDS = {
    **dict.fromkeys(("chat", "cli", "complete", "generate", "talk"), _TALK),
    **dict.fromkeys(("list", "ls", "ps", "rm", "clean"), _CACHE),
    **dict.fromkeys(("pull", "download", "get"), _FETCH),
    **dict.fromkeys(("show", "inspect"), _SHOW),
    **dict.fromkeys(("convert", "create", "import"), _PACK),
    **dict.fromkeys(("perplexity", "ppl", "eval", "evaluate"), _SCORE),
    **dict.fromkeys(("serve", "server", "start"), _SERVE),
}

# Options of `llama-cli` -> how `agq run` is asked for the same.
_MODEL = "the model stands without an option: `agq run MODEL`"
_PROMPT = "the prompt stands behind the model: `agq run MODEL PROMPT`"
_HUB = "a hub id stands without an option: `agq run OWNER/NAME`"
_GPU = "leave it out: only the processor computes in `agq run MODEL`"
_LIMIT = "did you mean `--max-tokens`?"
_CONTEXT = "did you mean `--context`?"
_TALKS = "leave it out: without a prompt `agq run MODEL` is a conversation"
OPTIONS = {
    **dict.fromkeys(("-m", "--model"), _MODEL),
    **dict.fromkeys(("-p", "--prompt"), _PROMPT),
    **dict.fromkeys(("-hf", "-hfr", "--hf-repo"), _HUB),
    **dict.fromkeys(("-ngl", "--gpu-layers", "--n-gpu-layers"), _GPU),
    **dict.fromkeys(("--predict", "--n-predict", "--num-predict"), _LIMIT),
    **dict.fromkeys(("--ctx-size", "--num-ctx", "--n-ctx"), _CONTEXT),
    **dict.fromkeys(("-cnv", "--conversation", "-i", "--interactive"), _TALKS),
    **dict.fromkeys(("-no-cnv", "--no-conversation"), "did you mean `--no-chat`?"),
    **dict.fromkeys(("-sys", "--system-prompt"), "did you mean `--system`?"),
}
