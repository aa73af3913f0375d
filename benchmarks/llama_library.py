"""llama.cpp as a library: a GGUF file's logits, for perplexities, texts and times of the same file in both programs;
and its quantization of one GGUF file to another.

Any build of libllama will do that exports its C API: a path, or an installed Python package that carries one
(`llama-cpp-python`, `xllamacpp`). Its structs of parameters are taken as they come from its own functions of defaults;
only the numbers at the beginning of the context's are changed, and found by their default values.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

# Packages that carry libllama, and the file in them.
PACKAGES = {"llama_cpp": "lib/libllama.so", "xllamacpp": "xllamacpp.abi3.so"}
_WORDS = 256  # of int32: more than any struct of parameters has
_CONTEXT, _BATCH, _UBATCH = 0, 1, 2  # n_ctx, n_batch, n_ubatch
_THREADS = 4  # default of n_threads and n_threads_batch, which stand side by side
# Defaults of type_k and type_v, which stand side by side, too; and what they become.
_F16, _F32 = 1, 0
# Of the parameters of quantization: threads, file type (Q8_0 by default), two types that are usually left open; behind
# them flags, and the pointer to the importance matrix.
_QUANTIZE_THREADS, _FILE_TYPE, _OPEN_TYPES, _IMATRIX = 0, 1, (2, 3), 6
_Q8_0 = 7


class _Parameters(ctypes.Structure):
    """Parameters that the library gave out; passed by value, where the callee reads as many bytes as it knows."""

    _fields_ = [("words", ctypes.c_int32 * _WORDS)]


class _Batch(ctypes.Structure):
    """`llama_batch`."""

    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.c_void_p),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.c_void_p),
        ("n_seq_id", ctypes.c_void_p),
        ("seq_id", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
    ]


class _Importance(ctypes.Structure):
    """`llama_model_imatrix_data`: one tensor's."""

    _fields_ = [("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("size", ctypes.c_size_t)]


_Log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_silent = _Log(lambda level, text, data: None)


def find_library(path: str | None = None) -> Path:
    """The library at `path`, else that of an installed package. FileNotFoundError where there is none."""
    if path is not None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"`{path}` is not a file")
        return Path(path)
    for package, name in PACKAGES.items():
        found = importlib.util.find_spec(package)
        for folder in (found.submodule_search_locations or []) if found is not None else []:
            if (Path(folder) / name).is_file():
                return Path(folder) / name
    raise FileNotFoundError(f"no libllama: name one, or install one of {', '.join(PACKAGES)}")


def _set_pair(words: Any, places: range, default: int, value: int) -> None:
    """Sets the first two neighbours that both have a default."""
    for place in places:
        if words[place] == words[place + 1] == default:
            words[place] = words[place + 1] = value
            return
    raise RuntimeError("this libllama has other parameters than those that are known")


def _defaults(library: ctypes.CDLL, name: str) -> _Parameters:
    """What one of the library's functions of defaults returns."""
    function = getattr(library, name)
    function.restype = _Parameters
    found: _Parameters = function()
    return found


def quantize(
    library: Path,
    source: Path,
    target: Path,
    file_type: int,
    importance: dict[str, np.ndarray] | None = None,
    threads: int = 1,
) -> None:
    """Quantizes a GGUF file of floats as llama.cpp's own tool does: each tensor by the rules of the file type.

    Args:
        file_type: `gguf.LlamaFileType`. importance: name in the file -> float32 [columns], mean square of the inputs
            of each column ("importance matrix"); tensors that it leaves out are rounded without.

    Raises:
        RuntimeError: the library does not export its quantization, is of another version (known: that of
            llama-cpp-python 0.3.36), or fails.
    """
    c = ctypes.CDLL(str(library))
    if not hasattr(c, "llama_model_quantize"):
        raise RuntimeError(f"`{library}` cannot quantize: take that of the package llama-cpp-python")
    c.llama_log_set(_silent, None)
    c.llama_backend_init()
    parameters = _defaults(c, "llama_model_quantize_default_params")
    words = parameters.words
    if words[_FILE_TYPE] != _Q8_0 or len({words[place] for place in _OPEN_TYPES}) != 1 or any(words[_IMATRIX:][:2]):
        raise RuntimeError("this libllama has other parameters of quantization than those that are known")
    words[_QUANTIZE_THREADS], words[_FILE_TYPE] = threads, file_type
    arrays = {name: np.ascontiguousarray(values, np.float32) for name, values in (importance or {}).items()}
    rows = (_Importance * (len(arrays) + 1))()  # the last one is empty, which ends the list
    for row, (name, values) in zip(rows, arrays.items(), strict=False):
        row.name, row.data, row.size = name.encode(), values.ctypes.data, values.size
    if arrays:
        pointer = ctypes.addressof(rows)
        ctypes.memmove(ctypes.addressof(parameters) + 4 * _IMATRIX, ctypes.byref(ctypes.c_uint64(pointer)), 8)
    status = c.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters))
    if status != 0:
        raise RuntimeError(f"llama.cpp cannot quantize `{source}`")


class LlamaCpp:
    """A GGUF file in llama.cpp, one sequence.

    Args:
        context: most tokens. batch: most tokens that are computed at once. threads: of both phases.
        float_cache: keys and values are kept in float32, not float16.

    Raises:
        RuntimeError: the library cannot open the file, or lacks memory.
    """

    def __init__(
        self, library: Path, model: Path, context: int, batch: int = 512, threads: int = 1, float_cache: bool = False
    ):
        c = ctypes.CDLL(str(library))
        self._c = c
        for name in (
            "llama_model_load_from_file",
            "llama_init_from_model",
            "llama_model_get_vocab",
            "llama_get_memory",
        ):
            getattr(c, name).restype = ctypes.c_void_p
        c.llama_get_logits.restype = ctypes.POINTER(ctypes.c_float)
        c.llama_log_set(_silent, None)
        c.llama_backend_init()
        self._model = c.llama_model_load_from_file(str(model).encode(), _defaults(c, "llama_model_default_params"))
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot open `{model}`")
        parameters = _defaults(c, "llama_context_default_params")
        words = parameters.words
        words[_CONTEXT], words[_BATCH], words[_UBATCH] = context, batch, min(batch, words[_UBATCH])
        _set_pair(words, range(3, 16), _THREADS, threads)
        if float_cache:
            _set_pair(words, range(16, 40), _F16, _F32)
        self._context = c.llama_init_from_model(ctypes.c_void_p(self._model), parameters)
        if not self._context:
            raise RuntimeError("llama.cpp cannot make a context")
        self._batch = batch
        vocabulary = ctypes.c_void_p(c.llama_model_get_vocab(ctypes.c_void_p(self._model)))
        self.vocab = int(c.llama_vocab_n_tokens(vocabulary))

    def clear(self) -> None:
        """Forgets the sequence."""
        memory = ctypes.c_void_p(self._c.llama_get_memory(ctypes.c_void_p(self._context)))
        self._c.llama_memory_clear(memory, ctypes.c_bool(False))

    def forward(self, ids: np.ndarray, wanted: str = "last") -> np.ndarray:
        """Continues the sequence by token ids. Logits float32 [n, vocab] of "all" of them, or [1, vocab] of the
        "last"."""
        parts = []
        for start in range(0, len(ids), self._batch):
            tokens = np.ascontiguousarray(ids[start : start + self._batch], dtype=np.int32)
            flags = np.full(len(tokens), wanted == "all", np.int8)
            last = start + len(tokens) == len(ids)
            flags[-1] = flags[-1] or last
            batch = _Batch(n_tokens=len(tokens), token=tokens.ctypes.data, logits=flags.ctypes.data)
            if self._c.llama_decode(ctypes.c_void_p(self._context), batch) != 0:
                raise RuntimeError("llama_decode failed")
            count = int(flags.sum())
            if count:
                found = self._c.llama_get_logits(ctypes.c_void_p(self._context))
                parts.append(np.ctypeslib.as_array(found, (count, self.vocab)).copy())
        return np.concatenate(parts)

    def close(self) -> None:
        """Frees model and context."""
        self._c.llama_free(ctypes.c_void_p(self._context))
        self._c.llama_model_free(ctypes.c_void_p(self._model))
