"""Records become tables, figures, sentences, a page and citations. Nothing here imports torch."""
