"""Text in, rows out: the language model, its hooks, the draw of layers, the shuffle buffer."""
