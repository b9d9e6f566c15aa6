"""What only training needs: optimizers, averaging, export, pruning, published checkpoints."""
