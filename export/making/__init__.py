"""Parts of the maker of random checkpoints."""
