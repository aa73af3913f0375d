"""What the packed artifact says of its special tokens: `special` of `agq.model`."""

from typing import Any

from agq.errors import AgqError

SPECIAL_TEXTS = ("bos_token", "eos_token", "pad_token", "unk_token")
SPECIAL_FLAGS = ("add_bos_token", "add_eos_token")
# Further named tokens, such as image_token: absent where there are none, and before this ABI.
OTHERS, OTHERS_ABI = "others", 5


def special_facts(value: Any) -> dict[str, Any]:
    """`special` of an artifact's description, as it is. Raises AgqError for any other value."""
    names = {"bos_id", "eos_ids", *SPECIAL_TEXTS, *SPECIAL_FLAGS}
    if not isinstance(value, dict) or set(value) - {OTHERS} != names:
        raise AgqError("the description of the special tokens is incomplete")
    others = value.get(OTHERS, {})
    if not isinstance(others, dict) or None in others.values():
        raise AgqError("the further special tokens are no table of texts")
    texts = [*(value[name] for name in SPECIAL_TEXTS), *others.values()]
    ids = value["eos_ids"]
    if not isinstance(ids, list) or any(type(item) is not int or item < 0 for item in ids):
        raise AgqError("`eos_ids` is not a list of token ids")
    if value["bos_id"] is not None and type(value["bos_id"]) is not int:
        raise AgqError("`bos_id` is not a token id")
    if any(item is not None and not isinstance(item, str) for item in texts):
        raise AgqError("a special token is not a text")
    if any(value[name] is not None and not isinstance(value[name], bool) for name in SPECIAL_FLAGS):
        raise AgqError("`add_bos_token` or `add_eos_token` is not true, false or null")
    return value


def special_texts(special: dict[str, Any]) -> dict[str, str]:
    """Name -> text of every special token that has one: what chat templates may use."""
    named: dict[str, str] = {name: special[name] for name in SPECIAL_TEXTS if special[name] is not None}
    others: dict[str, str] = special.get(OTHERS, {})
    return named | others
