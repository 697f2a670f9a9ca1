"""Tasks with their reference scores, behaviour policies, vectorised evaluation and the simulator as an oracle."""
