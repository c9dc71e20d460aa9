"""The kinds of tasks, each found by name in a fixed registry."""

from train.evaluate.kinds.canaries import CanariesTask
from train.evaluate.kinds.choice import ChoiceTask
from train.evaluate.kinds.extraction import ExtractionTask
from train.evaluate.kinds.generation import GenerationTask
from train.evaluate.kinds.pairs import PairsTask
from train.evaluate.kinds.prompted import TaskConfig
from train.evaluate.kinds.text import TextTask
from train.evaluate.kinds.translation import TranslationTask

KINDS: dict[str, type[TaskConfig]] = {
    "text": TextTask,
    "multiple_choice": ChoiceTask,
    "generation": GenerationTask,
    "translation": TranslationTask,
    "stereotype_pairs": PairsTask,
    "canaries": CanariesTask,
    "verbatim_extraction": ExtractionTask,
}
