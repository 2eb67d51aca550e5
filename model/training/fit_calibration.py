"""Fits the calibration of a trained network: probabilities, p-values, and the weight of followers in scores."""

import msgspec
import numpy as np
import torch

from model.artifact.model_folder import Content
from model.data import calibration_curves as curves
from model.data import sequences
from model.data.calibration_curves import Calibration, Curve
from model.data.interactions import Interactions
from model.evaluation import playback
from model.evaluation.metrics import list_ranks, mrr_at
from model.network import torchscript
from model.network.network import Network
from model.network.step import Step
from model.serving.runtime import Runtime

NEUTRAL = Calibration(
    purchase=Curve([0.0], [0.5]),
    surprise=Curve([0.0], [0.0]),
    surprise_item=Curve([0.0], [0.0]),
    tails={name: Curve([0.0], [0.0]) for name in curves.TAILS},
    boost=0.0,
    events=0,
)
BOOSTS = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)
_TUNED_ON = 30_000  # events that choose the boost
_REFERENCES = 256  # half of them the most popular items, half drawn from the rest


def references(known: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the reference items of the normaliser and the log of how many items each stands for.

    The most popular items (the first numbers) stand for themselves; the others are drawn uniformly, without
    repetition, so each stands for an equal part of the rest.
    """
    head = min(known, _REFERENCES // 2)
    tail = min(known - head, _REFERENCES - head)
    drawn = head + np.random.default_rng(seed).permutation(known - head)[:tail]
    weight = np.ones(head + tail)
    weight[head:] = (known - head) / max(tail, 1)
    numbers = np.concatenate((np.arange(head), np.sort(drawn)))
    return torch.from_numpy(numbers), torch.from_numpy(np.log(weight)).float()


def step_bytes(content: Content, network: Network) -> bytes:
    """Return the TorchScript file of a trained network."""
    return torchscript.to_bytes(torchscript.compile_step(_step(content, network)))


def _step(content: Content, network: Network) -> Step:
    return Step(network, *references(content.settings.shape.known_items))


def runtime(content: Content, network: Network, exact: bool = False) -> Runtime:
    """Return a runtime of a network that is not on disk yet, on the CPU."""
    step = torchscript.compile_step(_step(content, network))
    return Runtime(content, step, "unsaved@0", torch.device("cpu"), exact)


def calibrate(content: Content, network: Network, data: Interactions, cut: int) -> Calibration:
    """Return curves fitted on the events from time `cut` on, each after its user's whole history."""
    step = torchscript.compile_step(_step(content, network))
    item, _ = content.vocabulary.columns(data)
    known = content.settings.shape.known_items
    wanted = sequences.targets(data, item, known, content.settings.horizon_ms)
    later = data.ts >= cut
    raw = np.zeros(len(data), np.float32)
    surprise = np.zeros(len(data), np.float32)
    trial = Runtime(content, step, "", torch.device("cpu"), False)
    for rows, result in playback.play(trial, data, later, 1):
        raw[rows], surprise[rows] = result.raw_purchase, result.surprise
    labelled = later & (wanted.bought >= 0)
    if (wanted.bought[labelled] == 1).sum() < 5:  # too few later purchases: take the rate of all data
        labelled = wanted.bought >= 0
    judged = later & (data.gap_s >= 0)
    fitted = Calibration(
        purchase=curves.purchase_curve(raw[labelled], wanted.bought[labelled] == 1),
        surprise=curves.tail_curve(surprise[judged & (item >= known)]),
        surprise_item=curves.tail_curve(surprise[judged & (item < known)]),
        tails=curves.tails(data.windows[later]),
        boost=0.0,
        events=int(later.sum()),
    )
    tuned = np.flatnonzero(later & (wanted.item >= 0))[-_TUNED_ON:]
    rows_of = np.isin(data.user, data.user[tuned])  # only their users need to be played again
    chosen = np.zeros(len(data), np.bool_)
    chosen[tuned] = True
    small, target = data.take(rows_of), wanted.item[rows_of]
    best = (-1.0, 0.0)
    for boost in BOOSTS if len(tuned) else ():
        boosted = trial.calibrated(msgspec.structs.replace(fitted, boost=boost))
        found = [
            list_ranks(result.items, result.scores, target[rows])
            for rows, result in playback.play(boosted, small, chosen[rows_of], 20)
        ]
        best = max(best, (mrr_at(np.concatenate(found), 20), boost), key=lambda pair: (pair[0], -pair[1]))
    return msgspec.structs.replace(fitted, boost=best[1])
