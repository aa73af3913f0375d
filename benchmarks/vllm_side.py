"""vLLM's part of vs_vllm.py, run by the interpreter of vLLM's own environment: it knows nothing of agq.

    python vllm_side.py JOB RESULT

JOB is JSON: `model`, `windows` and `prompts` (lists of lists of token ids), `new` (greedy tokens behind each prompt),
`dtype`, `processes`. RESULT is an .npz: `logprobs` float32 [windows, tokens, vocabulary] of the token behind each one
but the last, `greedy` int64 [prompts, new].
"""

from __future__ import annotations

import json
import sys

import numpy as np


def main() -> None:
    """The job."""
    from vllm import LLM, SamplingParams

    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    longest = max(len(ids) for ids in [*job["windows"], *job["prompts"]]) + job["new"]
    model = LLM(
        job["model"],
        skip_tokenizer_init=True,
        dtype=job["dtype"],
        tensor_parallel_size=job["processes"],
        max_model_len=longest,
        max_num_seqs=8,
        max_logprobs=-1,
        enforce_eager=True,
        enable_prefix_caching=False,  # what is cached has no logprobs
    )
    score = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=-1, flat_logprobs=True, detokenize=False)
    rows = []
    for answer in model.generate([{"prompt_token_ids": ids} for ids in job["windows"]], score, use_tqdm=False):
        found = answer.prompt_logprobs
        rows.append([])
        for start, stop in zip(found.start_indices, found.end_indices, strict=True):
            if stop > start:  # none for the first token
                row = np.full(max(found.token_ids[start:stop]) + 1, -np.inf, np.float32)
                row[found.token_ids[start:stop]] = found.logprobs[start:stop]
                rows[-1].append(row)
    greedy = SamplingParams(temperature=0, max_tokens=job["new"], ignore_eos=True, detokenize=False)
    answers = model.generate([{"prompt_token_ids": ids} for ids in job["prompts"]], greedy, use_tqdm=False)
    np.savez(sys.argv[2], logprobs=np.array(rows), greedy=np.array([answer.outputs[0].token_ids for answer in answers]))


if __name__ == "__main__":
    main()
