"""DAWM: diffusion action world models that grow synthetic transitions for offline reinforcement learning."""

__version__ = "0.1.0"
