"""The inverse dynamics model a = f(s, s′) and its stage, `train-inverse-dynamics`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dawm.config import InverseDynamicsSettings, as_mapping, read
from dawm.data.normalizers import ActionScaler, Standardizer
from dawm.data.sealed import Sealed, open_sealed
from dawm.data.transitions import Transitions, read_transitions
from dawm.data.weights import load_weights
from dawm.environments.tasks import task_of_metadata
from dawm.errors import InputError
from dawm.randomness import derived_seed, generator
from dawm.training import Job, State, adam, cosine_rate, set_rate, train_and_seal
from dawm.world_model.training import held_out_rows

WEIGHTS = "model.safetensors"
LOG_EVERY = 200
HELD_OUT_PAIRS = 4096


class InverseDynamics(nn.Module):
    """MLP on the standardised state and the standardised change s′ - s; a tanh keeps actions inside their bounds.

    Ding et al. 2024 (§6.8, their Decision Diffuser) use three layers of 1024 on (s, s′); the change is given here
    because a step's change is small beside the states' spread.
    """

    def __init__(self, settings: InverseDynamicsSettings, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        self.states = Standardizer(observation_dim)
        self.changes = Standardizer(observation_dim)
        self.actions = ActionScaler(action_dim)
        layers: list[nn.Module] = []
        width = 2 * observation_dim
        for _ in range(settings.layers):
            layers += [nn.Linear(width, settings.hidden), nn.ReLU(), nn.Dropout(settings.dropout)]
            width = settings.hidden
        self.network = nn.Sequential(*layers, nn.Linear(width, action_dim), nn.Tanh())

    def forward(self, observation: Tensor, next_observation: Tensor) -> Tensor:
        """observation, next_observation [..., obs_dim], returns actions [..., act_dim]; all in raw units."""
        return self.actions.decode(self.scaled_action(observation, next_observation))

    def scaled_action(self, observation: Tensor, next_observation: Tensor) -> Tensor:
        """The same with actions in [-1, 1], as the loss sees them."""
        change = self.changes.encode(next_observation - observation)
        return self.network(torch.cat([self.states.encode(observation), change], dim=-1))


def train_inverse_dynamics(
    dataset: Path, settings: InverseDynamicsSettings, output: Path, seed: int, device: str = "cpu"
) -> None:
    """Writes `output`/model.safetensors, metrics.csv, evaluations.csv (held-out error per dimension), the seal."""
    data = open_sealed(dataset, "dataset")
    transitions = read_transitions(data, states=False)
    held_out = held_out_rows(data, transitions)
    usable = usable_pairs(data, transitions)
    torch.manual_seed(derived_seed(seed, "inverse-dynamics", "weights"))
    model = InverseDynamics(settings, transitions.observation_dim, transitions.action_dim)
    if not (usable & ~held_out).any() or not (usable & held_out).any():
        raise InputError(
            f"{dataset}: expected rows with a true successor in train and in held-out episodes, "
            "found none in one of them"
        )
    seen = to_tensors(transitions.take(usable & ~held_out), device)
    tested = to_tensors(transitions.take(usable & held_out), device)
    model.states = Standardizer.fit(seen[0].cpu())
    model.changes = Standardizer.fit((seen[1] - seen[0]).cpu())
    task = task_of_metadata(data.metadata)
    model.actions = ActionScaler.between(task.action_low, task.action_high)
    model.to(device)
    optimizer = adam(model.parameters(), settings.learning_rate)

    def update(step: int) -> dict[str, Tensor]:
        set_rate(optimizer, cosine_rate(step, settings.gradient_steps, settings.learning_rate))
        rows = generator(seed, "inverse-dynamics", "step", step).integers(len(seen[0]), size=settings.batch_size)
        observation, successor, action = (column[torch.from_numpy(rows)] for column in seen)
        torch.manual_seed(derived_seed(seed, "inverse-dynamics", "dropout", step))
        loss = nn.functional.mse_loss(model.scaled_action(observation, successor), model.actions.encode(action))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return {"loss": loss}

    def evaluate(step: int) -> dict[str, float]:
        rows = generator(seed, "inverse-dynamics", "held-out").permutation(len(tested[0]))[:HELD_OUT_PAIRS]
        observation, successor, action = (column[torch.from_numpy(rows)] for column in tested)
        error = (infer(model, observation, successor) - action).abs()
        return {f"mean_absolute_error_{i}": float(value) for i, value in enumerate(error.mean(0))}

    train_and_seal(
        Job("inverse-dynamics", output, as_mapping(settings), seed, device, {"dataset": data}),
        update,
        State({"model": model}, {"optimizer": optimizer}),
        lambda: model,
        weights=WEIGHTS,
        metadata={"observation_dim": transitions.observation_dim, "action_dim": transitions.action_dim},
        log_every=LOG_EVERY,
        evaluate=evaluate,
        evaluate_every=10 * LOG_EVERY,
    )


@torch.inference_mode()
def infer(model: InverseDynamics, observation: Tensor, next_observation: Tensor) -> Tensor:
    """Actions without dropout; the model stays in the mode that it was in."""
    training = model.training
    action = model.eval()(observation, next_observation)
    model.train(training)
    return action


def usable_pairs(data: Sealed, transitions: Transitions) -> np.ndarray:
    """bool [n]: rows with a true successor."""
    if data.metadata.get("terminal_successors_known", True):
        return np.ones(len(transitions), dtype=bool)
    return ~transitions.terminal


def to_tensors(transitions: Transitions, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """(s, s′, a) on the device."""
    columns = (transitions.observation, transitions.next_observation, transitions.action)
    s, successor, action = (torch.from_numpy(column).to(device) for column in columns)
    return s, successor, action


def load_inverse_dynamics(folder: Path) -> tuple[InverseDynamics, Sealed]:
    sealed = open_sealed(folder, "inverse-dynamics")
    settings = read(InverseDynamicsSettings, sealed.provenance["settings"], str(folder))
    model = InverseDynamics(settings, sealed.metadata["observation_dim"], sealed.metadata["action_dim"])
    load_weights(sealed, WEIGHTS, model)
    return model.eval(), sealed
