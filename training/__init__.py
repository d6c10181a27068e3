"""Fine-tuning of FAVOR: a typed recipe, the data, the engine and the loop."""
