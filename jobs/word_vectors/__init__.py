"""Code of `embatch words`: make tables of words, answer questions about words, train and measure vectors."""
