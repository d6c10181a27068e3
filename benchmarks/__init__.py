"""The proof of speed: one script per claim, each shows equal results before it times them."""
