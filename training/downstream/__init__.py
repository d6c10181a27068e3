"""Fine-tuning of adapters on published audio-visual tasks, between encoders that stay frozen.

contract   what a task, its examples and its head are
ave, ...   one module per task: its files, its head, its loss and what it predicts
"""
