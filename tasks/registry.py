"""The tasks by name."""

from .base import Task
from .causal_lm import CausalLM
from .denoising import Denoising
from .masked_lm import MaskedLM
from .seq2seq import Seq2Seq
from .sequence_classification import SequenceClassification
from .token_classification import TokenClassification

# For a saved model, prediction takes the first task with the Auto class of the model.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (SequenceClassification(), TokenClassification(), Seq2Seq(), CausalLM(), MaskedLM(), Denoising())
}


def tasks_with(option: str) -> list[str]:
    """The names of the tasks that have an option of DataArguments; empty if every task has it."""
    return [name for name, task in TASKS.items() if option in task.options]
