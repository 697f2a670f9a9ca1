"""Offline reinforcement learning: TD3+BC and IQL on any mixture of real and synthetic transitions."""
