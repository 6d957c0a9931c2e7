"""Tables of words: made, questioned, measured."""
