"""From records to tables, figures, sentences, a page and citations. Nothing here imports torch."""
