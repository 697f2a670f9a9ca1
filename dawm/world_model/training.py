"""Stage `train-world-model`: the denoising loss over windows of the train split."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dawm.checkpoints import State
from dawm.compute import CPU, Compute
from dawm.config import WorldModelSettings, as_mapping
from dawm.data.normalizers import ActionScaler, MinMaxScaler
from dawm.data.sealed import Sealed, open_sealed
from dawm.data.transitions import Transitions, held_out_rows, read_transitions, usable_pairs
from dawm.data.windows import Normalizers, WindowBatch, Windows, wanted_returns
from dawm.environments.tasks import task_of_metadata
from dawm.errors import InputError
from dawm.randomness import derived_seed, generator
from dawm.training import TrainingRun, adam, average_into, cosine_rate, ema_rate, load_model, set_rate, train_and_seal
from dawm.world_model.consistency import Physics
from dawm.world_model.model import NORMALIZERS, WorldModel
from dawm.world_model.preconditioning import training_sigmas

KIND = "world-model"
HELD_OUT_WINDOWS = 1024


def train_world_model(
    dataset: Path,
    settings: WorldModelSettings,
    output: Path,
    seed: int,
    compute: Compute = CPU,
    inverse_dynamics: Path | None = None,
    forward_dynamics: Path | None = None,
) -> None:
    """Writes `output`/model.safetensors (averaged weights, normalizers), metrics.csv and the seal.

    Trained inverse and forward dynamics are for `consistency` alone.
    """
    data = open_sealed(dataset, "dataset")
    physics = _physics(settings, data, inverse_dynamics, forward_dynamics, compute)
    transitions = read_transitions(data, states=False)
    torch.manual_seed(derived_seed(seed, KIND, "weights"))
    model = WorldModel(settings, transitions.observation_dim, transitions.action_dim)
    seen, held_out = fit_normalizers(model, transitions, held_out_rows(data, transitions), data, compute.device)
    if not len(seen):
        raise InputError(
            f"{dataset}: no window of {settings.window} rows fits into its episodes; use a smaller `window`"
        )
    training = Denoising(model.to(compute.device), seen, held_out, physics, seed, compute)
    inputs = {"dataset": data, **(physics.inputs if physics else {})}
    train_and_seal(
        TrainingRun(KIND, output, as_mapping(settings), seed, compute, inputs),
        training.update,
        training.state,
        lambda: training.averaged,
        metadata={"action_dim": transitions.action_dim, **model.facts()},
        evaluate=training.evaluate,
    )


def _physics(
    settings: WorldModelSettings, data: Sealed, inverse: Path | None, forward: Path | None, compute: Compute
) -> Physics | None:
    if settings.consistency > 0:
        return Physics.load(data, inverse, forward, compute.device)
    if inverse is not None or forward is not None:
        raise InputError("consistency: expected more than 0 with inverse or forward dynamics, found 0")
    return None


class Denoising:
    """Gradient steps of a world model's denoiser, and the running average of its weights, which is what is kept.

    All randomness of a step comes from its number and the seed.
    """

    def __init__(
        self, model: WorldModel, seen: Windows, held_out: Windows, physics: Physics | None, seed: int, compute: Compute
    ) -> None:
        self.model, self.averaged = model, copy.deepcopy(model)
        self.seen, self.held_out, self.physics, self.seed, self.compute = seen, held_out, physics, seed, compute
        compute.prepare([model.denoiser])
        self.optimizer = adam(model.denoiser.parameters(), model.settings.learning_rate)
        self.state = State({"model": model, "averaged": self.averaged}, {"optimizer": self.optimizer})

    def update(self, step: int) -> dict[str, Tensor]:
        settings = self.model.settings
        if settings.learning_rate_schedule == "cosine":
            set_rate(self.optimizer, cosine_rate(step, settings.gradient_steps, settings.learning_rate))
        rng = generator(self.seed, KIND, "step", step)
        numbers = torch.from_numpy(rng.integers(len(self.seen), size=settings.batch_size))
        with self.compute.arithmetic():
            loss = denoising_loss(self.model, self.seen.batch(numbers), rng, self.physics)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if (step + 1) % settings.ema_every == 0 or step + 1 == settings.gradient_steps:
            rate = ema_rate(step // settings.ema_every, settings.ema_decay)
            average_into(self.averaged.denoiser, self.model.denoiser, rate)
        return {"loss": loss}

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """The averaged model's loss on held-out windows, the same ones with the same noise at every step."""
        if not len(self.held_out):
            return {"held_out_loss": float("nan")}
        rng = generator(self.seed, KIND, "held-out")
        numbers = torch.from_numpy(rng.integers(len(self.held_out), size=HELD_OUT_WINDOWS))
        return {"held_out_loss": float(denoising_loss(self.averaged, self.held_out.batch(numbers), rng, self.physics))}


def denoising_loss(
    model: WorldModel, batch: WindowBatch, rng: np.random.Generator, physics: Physics | None = None
) -> Tensor:
    """E ‖mask · (F - (x⁰ - c_skip x)/c_out)‖² over noise levels, with the return hidden at times (DWM, alg. 17), and
    the action too where the settings say so; `loss: absolute` takes ‖·‖₁ of all channels but the terminal's. With
    `physics`, `consistency` times the residual of imagined steps is added.

    x = x⁰ + σ ε. The model's own device is used; `rng` gives σ, ε and what is hidden, in this order.
    """
    device, settings = model.return_scale.device, model.settings
    batch, count = batch.to(device), len(batch.rows)
    sigma = training_sigmas(settings.preconditioning, count, settings.diffusion_steps, rng).to(device)
    noise = torch.from_numpy(rng.standard_normal(batch.rows.shape, dtype=np.float32)).to(device)
    shown = torch.from_numpy(rng.random(count) >= settings.condition_dropout).to(device)
    hidden = torch.from_numpy(rng.random(count) < settings.action_dropout).to(device)
    noisy = batch.rows + sigma[:, None, None] * noise
    action = batch.action.masked_fill(hidden[:, None], torch.nan)
    condition = model.condition(batch.rows[:, 0], action, batch.return_to_go, batch.known & shown)
    predicted, coefficients = model.network(noisy, sigma, condition)
    error = predicted - coefficients.target(batch.rows, noisy)
    distance = error**2
    if settings.loss == "absolute":  # whose optimum is the median: of terminals, which are rare, always "none"
        distance = torch.cat([error[..., :-1].abs(), distance[..., -1:]], dim=-1)
    loss = (batch.mask * distance).sum() / batch.mask.sum()
    if physics is None:
        return loss
    clean = coefficients.denoised(noisy, predicted)
    return loss + settings.consistency * physics.residual(model, clean, sigma, batch, action)


def fit_normalizers(
    model: WorldModel, transitions: Transitions, held_out: np.ndarray, data: Sealed, device: str = "cpu"
) -> tuple[Windows, Windows]:
    """Fits the model's normalizers and return scale on the train split; returns train and held-out windows, with their
    rows on the device.

    Raises InputError where no row has a return-to-go that a conditional model could be given.
    """
    settings = model.settings
    seen = transitions.take(~held_out)
    states = torch.from_numpy(np.concatenate([seen.observation, seen.next_observation]))
    normalizer = NORMALIZERS[settings.normalizer]
    model.states = normalizer.fit(states)
    if model.changes is not None:
        moved = transitions.take(~held_out & usable_pairs(data, transitions))
        model.changes = normalizer.fit(torch.from_numpy(moved.next_observation - moved.observation))
    model.rewards = MinMaxScaler.fit(torch.from_numpy(seen.reward))
    task = task_of_metadata(data.metadata)
    model.actions = ActionScaler.between(task.action_low, task.action_high)
    wanted = wanted_returns(transitions, settings)
    if settings.conditional and np.isnan(wanted[~held_out]).all():
        raise InputError(
            f"{data.folder}: expected a row with a known return-to-go to condition on, found none: timeouts cut all of "
            "them off; set world_model.return_horizon 'window', or another truncated_return than 'drop'"
        )
    largest = float(np.nanmax(np.abs(wanted[~held_out]), initial=0.0)) or 1.0
    model.return_scale = torch.tensor(settings.return_scales.get(task.family.lower(), largest))

    normalizers = Normalizers(model.states, model.rewards, model.actions, model.changes)
    known = data.metadata.get("terminal_successors_known", True)
    windows = Windows(transitions, ~held_out, settings, wanted, normalizers, known).to(device)
    return windows, windows.of(held_out)


def load_world_model(folder: Path) -> tuple[WorldModel, Sealed]:
    """The averaged model of a sealed folder, ready to sample."""
    model, sealed = load_model(folder, KIND, WorldModelSettings, WorldModel)
    if any(sealed.metadata.get(name) != value for name, value in model.facts().items()):
        raise InputError(f"{folder}: was trained by an earlier version of this code; train it again")
    return model, sealed
