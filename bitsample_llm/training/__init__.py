"""What a recipe is put together from."""
