"""Stage `train-world-model`: the denoising loss over windows of the train split."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dawm.checkpoints import State
from dawm.compute import CPU, Compute
from dawm.config import WorldModelSettings, as_mapping, read
from dawm.data.normalizers import ActionScaler, MinMaxScaler
from dawm.data.sealed import Sealed, open_sealed
from dawm.data.transitions import Transitions, held_out_rows, read_transitions
from dawm.data.weights import load_weights
from dawm.data.windows import WindowBatch, Windows, wanted_returns
from dawm.environments.tasks import task_of_metadata
from dawm.errors import InputError
from dawm.randomness import derived_seed, generator
from dawm.training import Job, adam, average_into, cosine_rate, ema_rate, set_rate, train_and_seal
from dawm.world_model.consistency import Physics
from dawm.world_model.model import NORMALIZERS, WorldModel
from dawm.world_model.preconditioning import training_sigmas

WEIGHTS = "model.safetensors"
LOG_EVERY = 200
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
    physics, inputs = None, {"dataset": data}
    if settings.consistency > 0:
        physics = Physics.load(data, inverse_dynamics, forward_dynamics, compute.device)
        inputs |= physics.inputs
    elif inverse_dynamics is not None or forward_dynamics is not None:
        raise InputError("consistency: expected more than 0 with inverse or forward dynamics, found 0")
    transitions = read_transitions(data, states=False)
    held_out = held_out_rows(data, transitions)
    torch.manual_seed(derived_seed(seed, "world-model", "weights"))
    model = WorldModel(settings, transitions.observation_dim, transitions.action_dim)
    train_windows, test_windows = fit_normalizers(model, transitions, held_out, data)
    if not len(train_windows):
        raise InputError(
            f"{dataset}: no window of {settings.window} rows fits into its episodes; use a smaller `window`"
        )
    model.to(compute.device)
    averaged = copy.deepcopy(model)
    compute.prepare([model.denoiser])
    optimizer = adam(model.denoiser.parameters(), settings.learning_rate)

    def update(step: int) -> dict[str, Tensor]:
        if settings.learning_rate_schedule == "cosine":
            set_rate(optimizer, cosine_rate(step, settings.gradient_steps, settings.learning_rate))
        rng = generator(seed, "world-model", "step", step)
        numbers = torch.from_numpy(rng.integers(len(train_windows), size=settings.batch_size))
        with compute.precise():
            loss = denoising_loss(model, train_windows.batch(numbers), rng, physics)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if (step + 1) % settings.ema_every == 0:
            average_into(averaged.denoiser, model.denoiser, ema_rate(step // settings.ema_every, settings.ema_decay))
        return {"loss": loss}

    @torch.no_grad()
    def evaluate(step: int) -> dict[str, float]:
        if not len(test_windows):
            return {"held_out_loss": float("nan")}
        rng = generator(seed, "world-model", "held-out")  # the same windows and noise at every step
        numbers = torch.from_numpy(rng.integers(len(test_windows), size=HELD_OUT_WINDOWS))
        return {"held_out_loss": float(denoising_loss(averaged, test_windows.batch(numbers), rng, physics))}

    train_and_seal(
        Job(
            "world-model",
            output,
            as_mapping(settings),
            seed,
            compute,
            {"dataset": data, **(physics.inputs if physics else {})},
        ),
        update,
        State({"model": model, "averaged": averaged}, {"optimizer": optimizer}),
        lambda: averaged,
        weights=WEIGHTS,
        metadata={"action_dim": transitions.action_dim, **averaged.facts()},
        log_every=LOG_EVERY,
        evaluate=evaluate,
        evaluate_every=10 * LOG_EVERY,
    )


def denoising_loss(
    model: WorldModel, batch: WindowBatch, rng: np.random.Generator, physics: Physics | None = None
) -> Tensor:
    """E ‖mask · (F - (x⁰ - c_skip x)/c_out)‖² over noise levels, with the return hidden at times (DWM, alg. 17), and
    the action too where the settings say so; `loss: absolute` takes ‖·‖₁. With `physics`, `consistency` times the
    residual of imagined steps is added.

    x = x⁰ + σ ε. The model's own device is used; `rng` gives σ, ε and what is hidden, in this order.
    """
    device, settings = model.return_scale.device, model.settings
    count = len(batch.rows)
    sigma = training_sigmas(settings.preconditioning, count, settings.diffusion_steps, rng)
    noise = torch.from_numpy(rng.standard_normal(batch.rows.shape, dtype=np.float32))
    shown = torch.from_numpy(rng.random(count) >= settings.condition_dropout)
    hidden = torch.from_numpy(rng.random(count) < settings.action_dropout)
    action = batch.action.masked_fill(hidden[:, None], torch.nan)
    rows, mask, sigma = batch.rows.to(device), batch.mask.to(device), sigma.to(device)
    noisy = rows + sigma[:, None, None] * noise.to(device)
    condition = model.condition(
        rows[:, 0], action.to(device), batch.return_to_go.to(device), (batch.known & shown).to(device)
    )
    predicted, coefficients = model.network(noisy, sigma, condition)
    error = predicted - coefficients.target(rows, noisy)
    loss = (mask * (error.abs() if settings.loss == "absolute" else error**2)).sum() / mask.sum()
    if physics is None:
        return loss
    clean = coefficients.denoised(noisy, predicted)
    return loss + settings.consistency * physics.residual(model, clean, sigma, batch)


def fit_normalizers(
    model: WorldModel, transitions: Transitions, held_out: np.ndarray, data: Sealed
) -> tuple[Windows, Windows]:
    """Fits the model's normalizers and return scale on the train split; returns train and held-out windows."""
    settings = model.settings
    seen = transitions.take(~held_out)
    states = torch.from_numpy(np.concatenate([seen.observation, seen.next_observation]))
    normalizer = NORMALIZERS[settings.normalizer]
    model.states = normalizer.fit(states)
    if model.changes is not None:
        model.changes = normalizer.fit(torch.from_numpy(seen.next_observation - seen.observation))
    model.rewards = MinMaxScaler.fit(torch.from_numpy(seen.reward))
    task = task_of_metadata(data.metadata)
    model.actions = ActionScaler.between(task.action_low, task.action_high)
    wanted = wanted_returns(transitions, settings)
    largest = float(np.nanmax(np.abs(wanted[~held_out]), initial=0.0)) or 1.0
    model.return_scale = torch.tensor(settings.return_scales.get(task.family.lower(), largest))

    def windows(rows: np.ndarray) -> Windows:
        return Windows(
            transitions,
            rows,
            settings.window,
            wanted,
            model.states,
            model.rewards,
            model.actions,
            data.metadata.get("terminal_successors_known", True),
            changes=model.changes,
            joint=model.joint,
            conditional=settings.conditional,
        )

    return windows(~held_out), windows(held_out)


def load_world_model(folder: Path) -> tuple[WorldModel, Sealed]:
    """The averaged model of a sealed folder, ready to sample."""
    sealed = open_sealed(folder, "world-model")
    settings = read(WorldModelSettings, sealed.provenance["settings"], str(folder))
    model = WorldModel(settings, sealed.metadata["observation_dim"], sealed.metadata["action_dim"])
    load_weights(sealed, WEIGHTS, model)
    return model.eval(), sealed
