"""Chat templates as transformers renders them."""

from __future__ import annotations

from pathlib import Path

import pytest

from agq.errors import AgqError
from agq.tokenizer.chat_template import render

# As published with these model families (shortened where only the wording of errors differs).
# ruff: noqa: E501
TEMPLATES = {
    "llama-2": "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}"
    "{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + "
    "'\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "llama-3": "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] "
    "+ '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + "
    "content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "zephyr": "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    "functions": "{%- for message in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ message | tojson(indent=1) }}{% endfor -%}\n"
    "{% generation %}x{{ {'ä': [1, '<']} | tojson }}{% endgeneration %}{{ tools is none }}",
}
CONVERSATIONS = {
    "question": [{"role": "user", "content": "Was ist das? "}],
    "system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    "long": [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": " 2 "},
        {"role": "user", "content": '3 <b> "q" é'},
    ],
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_same_text_as_transformers(demo_model: Path, name: str, conversation: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo_model)
    expected = tokenizer.apply_chat_template(
        CONVERSATIONS[conversation], chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=True
    )
    assert render(TEMPLATES[name], CONVERSATIONS[conversation], {"bos_token": "<s>", "eos_token": "</s>"}) == expected


def test_date() -> None:
    from datetime import datetime

    assert render("{{ strftime_now('%Y') }}", []) == str(datetime.now().year)


def test_refusal_is_the_templates_own_words() -> None:
    wrong = [{"role": "assistant", "content": "x"}]
    with pytest.raises(AgqError, match="roles must alternate"):
        render(TEMPLATES["llama-2"], wrong, {"bos_token": "", "eos_token": ""})


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% for x in %}",
        "{{ 1 + 'a' }}",
        "{{ messages[0].missing.more }}",
    ],
)
def test_unsafe_and_broken_templates(template: str) -> None:
    with pytest.raises(AgqError, match="chat template"):
        render(template, CONVERSATIONS["question"])
