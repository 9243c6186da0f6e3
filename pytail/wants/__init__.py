"""What to fetch ahead: for which machines, by which names and lock files. Pure, but for reading them."""
