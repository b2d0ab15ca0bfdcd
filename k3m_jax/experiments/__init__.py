"""What is put together of the parts: runs, what they are measured by, and grids of them."""
