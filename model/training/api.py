"""What other packages use of training and evaluation."""

from model.data.interactions import Interactions
from model.data.provenance import Part, Provenance, provenance_of
from model.evaluation.evaluate import evaluate
from model.training.export import check_target, export, export_or_keep
from model.training.threads import threads
from model.training.train import Stopped, Trained, TrainingProgress, split_time, train

__all__ = [
    "Interactions",
    "Part",
    "Provenance",
    "Stopped",
    "Trained",
    "TrainingProgress",
    "check_target",
    "evaluate",
    "export",
    "export_or_keep",
    "provenance_of",
    "split_time",
    "threads",
    "train",
]
