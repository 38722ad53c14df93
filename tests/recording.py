"""A Lightning module that learns nothing and writes down what it is given.

Not in a test module: processes that Lightning spawns import it by name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule


class Recorder(LightningModule):
    """Collects ``(epoch, indices of each group)`` of every batch, by stage.

    Attributes
    ----------
    batches
        Lists of ``(epoch, [[index, ...], ...])`` by ``"train"``, ``"val"``, ``"test"``,
        ``"predict"``.
    folder
        Where each rank leaves `batches` as JSON at the end of fitting, if anywhere.
    """

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.batches: dict[str, list[Any]] = {"train": [], "val": [], "test": [], "predict": []}
        self.folder = folder

    def training_step(self, batch: Any) -> torch.Tensor:
        self._note("train", batch)
        x = batch["X"] if isinstance(batch, dict) else batch.fields["images"]
        loss: torch.Tensor = self.layer(x.mean().reshape(1, 1)).square().sum()
        return loss

    def validation_step(self, batch: Any) -> None:
        self._note("val", batch)

    def test_step(self, batch: Any) -> None:
        self._note("test", batch)

    def predict_step(self, batch: Any) -> int:
        self._note("predict", batch)
        return len(batch["nn_indices"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)

    def on_fit_end(self) -> None:
        if self.folder is not None:
            path = self.folder / f"rank{self.global_rank}.json"
            path.write_text(json.dumps(self.batches))

    def _note(self, stage: str, batch: Any) -> None:
        fields = batch if isinstance(batch, dict) else batch.fields
        if not self.trainer.sanity_checking:
            self.batches[stage].append((self.current_epoch, fields["nn_indices"].tolist()))
