"""The diffusion world model: p(r_t, s_{t+1}, …, r_{t+T-2}, s_{t+T-1} | s_t, a_t, return-to-go)."""
