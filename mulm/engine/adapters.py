"""The LoRA adapters that an engine holds, by name.

Called by the engine. Invariant: a name has one number as long as it is held, and the model knows
exactly those numbers.
"""

from __future__ import annotations

from mulm.model.adapter import Adapter
from mulm.model.batch import LanguageModel


class Adapters:
    """Names, their numbers in a batch, and the weights, which a new model is given too."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self._held: dict[str, Adapter] = {}

    def set(self, name: str, adapter: Adapter, model: LanguageModel) -> None:
        """Hold an adapter under a name, in the place of any that had it.

        Raises:
            ConfigError: it is for another shape; nothing has changed.
        """
        taken = self.numbers.values()
        free = next(n for n in range(len(taken) + 1) if n not in taken)
        number = self.numbers.get(name, free)
        model.set_adapter(number, adapter)
        self.numbers[name], self._held[name] = number, adapter

    def remove(self, name: str, model: LanguageModel) -> None:
        """Hold it no longer."""
        model.remove_adapter(self.numbers.pop(name))
        del self._held[name]

    def give_to(self, model: LanguageModel) -> None:
        """Let another model have them all."""
        for name, adapter in self._held.items():
            model.set_adapter(self.numbers[name], adapter)
