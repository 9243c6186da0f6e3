"""The doors: HTTP in, HTTP out, nothing else. What is right to answer is decided further in."""
