"""Weight-only quantization of the language model: the choice, the arithmetic, and where the results lie."""
