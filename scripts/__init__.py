"""Command-line programs; `python -m scripts` lists them."""
