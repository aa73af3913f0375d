"""How much text is made where nobody says. Imports nothing: the command line's help names the numbers."""

TEXT_TOKENS = 256  # of a text: a model without a chat template rarely ends by itself
ANSWER_TOKENS = 1024  # of an answer in a chat


def most_tokens(chat: bool) -> int:
    """Tokens to generate at most."""
    return ANSWER_TOKENS if chat else TEXT_TOKENS
