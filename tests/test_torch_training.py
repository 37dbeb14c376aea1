"""Whole trainings with `rmsprop_fast.torch.RMSprop`: they go as with `torch.optim.RMSprop`, in real trainers too."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

torch: Any = pytest.importorskip("torch")
datasets: Any = pytest.importorskip("sklearn.datasets")

from rmsprop_fast.torch import RMSprop  # noqa: E402  # which needs torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

nn, CosineAnnealingLR = torch.nn, torch.optim.lr_scheduler.CosineAnnealingLR

Options = dict[str, Any]
Optimizer: TypeAlias = "Callable[..., Any]"

TRAINING, BATCH = 1344, 64  # of 1797 images; the others are for the test
BATCHES, EPOCHS = TRAINING // BATCH, 6

OPTIONS: dict[str, Options] = {
    "plain": {"lr": 2e-3},
    "momentum": {"lr": 3e-4, "momentum": 0.9, "weight_decay": 1e-4},
    "centered": {"lr": 3e-4, "momentum": 0.9, "weight_decay": 1e-4, "centered": True},
}

# Rounding differs, and training amplifies it: from a gradient that is all rounding error, RMSprop makes a step of full
# length. So float64 must agree along the whole curve of the loss, and float32 at its start and in what has been learnt.
# What was measured is over five seeds, and two sets of kernels of torch and of ours.
CURVE_FLOAT64 = 1e-11  # relative, each batch. Measured: up to 1e-14
START, START_FLOAT32 = 10, 1e-5  # relative, each of that many batches. Measured: up to 3e-7
EPOCH_FLOAT32 = 0.02  # relative, the mean of an epoch. Measured: up to 7e-4
ACCURACY = {"MLP": 0.9, "CNN": 0.95, "CNN, channels last": 0.95}  # at least. Measured: from 0.925 and from 0.971
ACCURACY_FLOAT32 = 4 / (1797 - TRAINING)  # images that one recognizes and the other does not. Measured: none

# Of small networks after up to 100 steps in float32, of about 1e-3 each. Measured: losses up to 8e-7, weights to 1e-5
LOSSES, WEIGHTS = 1e-4, 1e-4
WAY = 1e-3  # of A2C's policy: as a part of the longest way that a weight has gone. Measured: up to 2e-5


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Let torch work in one thread: for models this small, others cost more than they bring."""
    torch.set_num_threads(1)


@functools.cache
def digits() -> tuple[Any, Any]:
    """Return scikit-learn's digits, shuffled: images (8 x 8, one channel, 0 to 1) and labels."""
    loaded = datasets.load_digits()
    shuffled = np.random.default_rng(0).permutation(len(loaded.target))
    return torch.tensor(loaded.images[shuffled] / 16).unsqueeze(1), torch.tensor(loaded.target[shuffled])


def mlp() -> Any:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> Any:
    # No bias before a normalization, which takes it away again: its gradient would be nothing but rounding errors.
    first = [nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*first, *second, nn.Linear(16 * 4 * 4, 10))


def assert_same_weights(ours: Any, theirs: Any, tolerance: float) -> None:
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=tolerance)


class Trained(NamedTuple):
    """How a training went: the loss of each batch, and the share of the test images that are recognized."""

    losses: NDArray[np.float64]
    accuracy: float


def train(optimizer_class: Optimizer, initial: Any, order: Any, options: Options) -> Trained:
    model = copy.deepcopy(initial).to(memory_format=order)
    images, labels = digits()
    images = images.to(dtype=next(model.parameters()).dtype, memory_format=order)
    optimizer = optimizer_class(model.parameters(), **options)
    scheduler = CosineAnnealingLR(optimizer, T_max=EPOCHS * BATCHES)
    batches = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(EPOCHS):
        for batch in torch.randperm(TRAINING, generator=batches).split(BATCH):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
    is_dense = [param.is_contiguous() for param in model.parameters()]
    assert all(is_dense) == (order == torch.contiguous_format)  # or there was nothing to see
    model.eval()
    with torch.no_grad():
        recognized = model(images[TRAINING:]).argmax(1) == labels[TRAINING:]
    return Trained(np.array(losses), recognized.double().mean().item())


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("model", ACCURACY)
def test_learns_digits_as_with_torch(model: str, dtype: Any, options: str) -> None:
    torch.manual_seed(0)
    initial = (mlp if model == "MLP" else cnn)().to(dtype)
    order = torch.channels_last if "channels last" in model else torch.contiguous_format
    theirs = train(torch.optim.RMSprop, initial, order, OPTIONS[options])
    ours = train(RMSprop, initial, order, OPTIONS[options])

    assert min(ours.accuracy, theirs.accuracy) >= ACCURACY[model]
    if dtype == torch.float64:
        np.testing.assert_allclose(ours.losses, theirs.losses, rtol=CURVE_FLOAT64)
        assert ours.accuracy == theirs.accuracy
    else:
        np.testing.assert_allclose(ours.losses[:START], theirs.losses[:START], rtol=START_FLOAT32)
        epochs = [trained.losses.reshape(EPOCHS, BATCHES).mean(1) for trained in (ours, theirs)]
        np.testing.assert_allclose(epochs[0], epochs[1], rtol=EPOCH_FLOAT32)
        assert abs(ours.accuracy - theirs.accuracy) <= ACCURACY_FLOAT32


CLIP = 0.1  # of the norm, below those that come
FIT_EPOCHS = 4

# Lightning asks a TreeSpec of torch in a way that torch 2.13 no longer likes.
ignore_treespec = pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\). is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def lightning() -> Any:
    """Import Lightning as where there is no torchvision.

    It imports what is there, which fails if that was built for another torch: for one with CUDA, say.
    """
    imports = pytest.importorskip("lightning_utilities.core.imports")
    is_there = imports.RequirementCache.__bool__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            imports.RequirementCache, "__bool__", lambda self: self.requirement != "torchvision" and is_there(self)
        )
        return pytest.importorskip("lightning")


def fit(
    lightning: Any, optimizer_class: Optimizer, folder: Path, epochs: int = FIT_EPOCHS, resume: Path | None = None
) -> Any:
    """Let Lightning train up to this epoch, from the beginning or from a checkpoint, and save a checkpoint."""

    class Classifier(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = mlp()
            self.losses: list[float] = []

        def training_step(self, batch: list[Any], _: int) -> Any:
            images, labels = batch
            loss = nn.functional.cross_entropy(self.model(images), labels)
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self) -> dict[str, Any]:
            optimizer = optimizer_class(self.parameters(), lr=1e-3, momentum=0.9)
            scheduler = CosineAnnealingLR(optimizer, T_max=FIT_EPOCHS * BATCHES)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    torch.manual_seed(0 if resume is None else 1)  # who resumes has other weights, until they are loaded
    classifier = Classifier()
    images, labels = digits()
    batches = torch.utils.data.TensorDataset(images[:TRAINING].float(), labels[:TRAINING])
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        gradient_clip_val=CLIP,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(classifier, torch.utils.data.DataLoader(batches, BATCH), ckpt_path=resume)
    trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return classifier


@ignore_treespec
def test_lightning_trains_as_with_torch(lightning: Any, tmp_path: Path) -> None:
    """By its closure, in which it also clips the gradient, and with a scheduler that it calls after each step."""
    theirs = fit(lightning, torch.optim.RMSprop, tmp_path)
    ours = fit(lightning, RMSprop, tmp_path)
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=LOSSES)
    assert_same_weights(ours, theirs, WEIGHTS)
    assert ours.losses[-1] < ours.losses[0] / 2

    optimizer = ours.optimizers().optimizer
    assert type(optimizer) is RMSprop
    assert [int(state["step"]) for state in optimizer.state.values()] == [FIT_EPOCHS * BATCHES] * 4
    norm = torch.nn.utils.get_total_norm([param.grad for param in ours.parameters()])
    assert norm.item() == pytest.approx(CLIP, rel=1e-4)


@ignore_treespec
@pytest.mark.parametrize(
    ("before", "after"),
    [(RMSprop, RMSprop), (torch.optim.RMSprop, RMSprop), (RMSprop, torch.optim.RMSprop)],
    ids=["ours", "torch to ours", "ours to torch"],
)
def test_lightning_resumes(lightning: Any, tmp_path: Path, before: Optimizer, after: Optimizer) -> None:
    """From a checkpoint half-way, as if nothing had happened; or with the other optimizer from there on."""
    whole = fit(lightning, before, tmp_path)
    half = FIT_EPOCHS // 2
    fit(lightning, before, tmp_path, half)
    resumed = fit(lightning, after, tmp_path, resume=tmp_path / f"{half}.ckpt")
    assert len(resumed.losses) == (FIT_EPOCHS - half) * BATCHES
    assert_same_weights(resumed, whole, 0 if before is after else WEIGHTS)


def a2c(optimizer_class: Optimizer, **options: Any) -> Any:
    """Return an A2C learner as stable-baselines3 makes it, whose learning rate sinks to 0."""
    return pytest.importorskip("stable_baselines3").A2C(
        "MlpPolicy",
        "CartPole-v1",
        learning_rate=lambda remaining: 7e-4 * remaining,
        policy_kwargs={
            "optimizer_class": optimizer_class,
            "optimizer_kwargs": {"alpha": 0.99, "eps": 1e-5, "weight_decay": 0, **options},
        },
        seed=0,
        device="cpu",
    )


@pytest.mark.parametrize("form", ["torch", "TensorFlow"])
def test_a2c_learns_as_with_torch(form: str) -> None:
    """Also in the form that stable-baselines3 has of its own, for results as with TensorFlow."""
    if form == "torch":
        theirs, ours = a2c(torch.optim.RMSprop), a2c(RMSprop)
    else:
        like = pytest.importorskip("stable_baselines3.common.sb2_compat.rmsprop_tf_like")
        eps = 0.1  # which shows next to a mean that starts at 1
        theirs, ours = a2c(like.RMSpropTFLike, eps=eps), a2c(RMSprop, eps=eps, eps_inside_sqrt=True, initial_s=1.0)
    initial = copy.deepcopy(ours.policy)
    for learner in (theirs, ours):
        learner.set_random_seed(0)
        learner.learn(500)  # 100 updates
    moved = [(p - q).abs().max().item() for p, q in zip(theirs.policy.parameters(), initial.parameters(), strict=True)]
    assert_same_weights(ours.policy, theirs.policy, WAY * max(moved))


def test_a2c_is_saved_with_the_state_of_the_optimizer(tmp_path: Path) -> None:
    saved = a2c(RMSprop, momentum=0.9)
    saved.learn(250)
    saved.save(tmp_path / "a2c.zip")
    loaded = type(saved).load(tmp_path / "a2c.zip", device="cpu")

    optimizer = loaded.policy.optimizer
    assert type(optimizer) is RMSprop
    expected = saved.policy.optimizer.state_dict()
    assert set(expected["state"][0]) == {"step", "square_avg", "momentum_buffer"}
    torch.testing.assert_close(optimizer.state_dict()["state"], expected["state"], rtol=0, atol=0)
    assert optimizer.state_dict()["param_groups"] == expected["param_groups"]

    for learner in (saved, loaded):  # go on, both from the start of the same game
        learner.set_env(saved.env)
        learner.set_random_seed(1)
        learner.learn(250, reset_num_timesteps=False)
    assert_same_weights(loaded.policy, saved.policy, 0)
