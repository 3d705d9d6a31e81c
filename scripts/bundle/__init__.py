"""What is shipped: choice, card, bill of materials, archive, signature."""
