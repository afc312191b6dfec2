# SPDX-License-Identifier: Apache-2.0
"""Hugging Face's hub: the model as its mixin knows models, to be pushed there and fetched from there.

Only this module fetches anything, and only when a person names a repository.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from unified.contracts.errors import CheckpointError, needs
from unified.inference.model import UnifiedModel
from unified.pretrained import CARD, CONFIG, WEIGHTS

try:
    from huggingface_hub import ModelHubMixin, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
except ImportError:
    raise needs("the hub bridge", "huggingface-hub", "hub") from None


class HubModel(ModelHubMixin, UnifiedModel, library_name="unified", pipeline_tag="object-detection"):  # type: ignore[misc]
    """A :class:`unified.UnifiedModel` with ``push_to_hub``, and ``from_pretrained`` of a folder or a repository.

    What is pushed is what ``save_pretrained`` writes: safetensors, ``config.json`` and our card; no pickle, no code.
    """

    _hub_mixin_config: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]  # ours is written with the weights; the mixin need not guess one

    @classmethod
    def of(cls, model: UnifiedModel) -> HubModel:
        """A model in the hand, ready to be pushed; the network is shared, not copied."""
        return cls(model.trained, str(model.hardware.device), model.hardware.precision)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, **words: Any
    ) -> HubModel:
        """The model of a folder or, fetched where the cache has it not, of a repository.

        Args:
            pretrained_model_name_or_path: a folder, or ``owner/name``.
            words: ``tasks``, ``device`` and ``precision`` of :meth:`unified.UnifiedModel.from_pretrained`; the hub's
                ``revision``, ``cache_dir``, ``token``, ``force_download`` and ``local_files_only``.

        Raises:
            CheckpointError: the repository cannot be reached, or there is no model of this project.
            ConfigError: it has no such task.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **words)  # type: ignore[no-any-return]
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
            said = str(error).splitlines()[0]
            raise CheckpointError(f"model '{pretrained_model_name_or_path}' cannot be fetched: {said}") from None

    def _save_pretrained(self, save_directory: Path) -> None:
        UnifiedModel.save_pretrained(self, save_directory)

    @classmethod
    def _from_pretrained(  # type: ignore[override]
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        tasks: Sequence[str] | None = None,
        device: str = "auto",
        precision: str = "auto",
        **unknown: Any,
    ) -> UnifiedModel:
        folder = Path(model_id)
        if not folder.is_dir():
            given: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "token": token}
            given |= {"force_download": force_download, "local_files_only": local_files_only}
            folder = Path(snapshot_download(model_id, allow_patterns=[CONFIG, WEIGHTS, CARD], **given))
        return UnifiedModel.from_pretrained.__func__(cls, folder, tasks, device, precision)  # type: ignore[attr-defined,no-any-return]
