# SPDX-License-Identifier: Apache-2.0
"""Any timm model that offers ``features_only`` as the trunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import timm
import torch
from timm.models import group_parameters, is_model_pretrained
from torch import Tensor, nn

from unified.contracts.errors import ConfigError, suggestion
from unified.contracts.protocols import Backbone, Modulate
from unified.contracts.structures import Features, FeatureSpec

Size = tuple[int, int]

FETCHERS = {"huggingface_hub", "httpx", "requests", "urllib3"}  # whose errors mean that weights could not be fetched
ANY_SIZE: tuple[dict[str, Any], ...] = ({"strict_img_size": False}, {"dynamic_img_size": True}, {})


class TimmBackbone(Backbone):
    """A timm network as the explicit trunk; up to three of its strides, from 8 on, are used.

    Images arrive in [0, 1] and are normalised by the mean and deviation the model was trained with. Models made for one
    image size are told to take any, where timm offers it (ViT, Swin); others need ``img_size`` and then take only that.

    Args:
        model: timm's name, such as ``convnext_tiny``; ``resnet50.a1_in1k`` also names the weights.
        pretrained: fetch the published weights; nothing is fetched otherwise.
        levels: how many levels, each of twice the stride of the one before; the finest is the model's first of 8 or
            more (a plain ViT has 16 alone). None: as many as there are, up to three.
        options: passed on to ``timm.create_model``, such as ``img_size``, ``drop_path_rate`` or ``out_indices``.

    Raises:
        ConfigError: an unknown name, weights that cannot be had, or a model whose maps are no pyramid.
    """

    def __init__(self, model: str, pretrained: bool = False, levels: int | None = None, **options: Any) -> None:
        super().__init__()
        self.model = model
        body: Any = create(model, pretrained, options)
        self.body: nn.Module = body
        reductions = list(body.feature_info.reduction())
        strides = pyramid(model, reductions, levels)
        self._indices = tuple(last(reductions, stride) for stride in strides)
        channels = tuple(body.feature_info.channels()[i] for i in self._indices)
        names = tuple(f"p{stride.bit_length() - 1}" for stride in strides)
        self.spec = FeatureSpec(names, channels, strides)
        self.size: Size | None = None  # (height, width) pixels, where the model takes no other
        self._channels_last = False
        trained: dict[str, Any] = body.pretrained_cfg or {}
        self._fixed = bool(trained.get("fixed_input_size"))
        self._look(options)
        self.mean: Tensor
        self.std: Tensor
        self._remember("mean", trained.get("mean", (0.485, 0.456, 0.406)))
        self._remember("std", trained.get("std", (0.229, 0.224, 0.225)))

    def forward(self, images: Tensor, modulate: Modulate | None = None) -> Features:
        size = (images.shape[-2], images.shape[-1])
        if self.size not in (None, size):
            raise ConfigError(
                f"timm model '{self.model}' was built for images of {shown(self.size)} pixels and got {shown(size)}; "
                "give the backbone img_size, the size you train and predict with"
            )
        maps = self._maps((images - self.mean) / self.std)
        return Features(maps, self.spec.levels, self.spec.strides)

    def by_depth(self) -> tuple[tuple[nn.Parameter, ...], ...]:
        """Blocks of a plain transformer by timm's own numbers; of all other models stages, a stem's norm with it."""
        inner: Any = getattr(self.body, "model", None)
        if hasattr(inner, "group_matcher"):
            named = dict(inner.named_parameters())
            numbered = group_parameters(inner, inner.group_matcher(coarse=False))
            return tuple(tuple(named[name] for name in numbered[number]) for number in sorted(numbered))
        stages: list[tuple[nn.Parameter, ...]] = []
        for part in opened(self.body):
            parameters = tuple(part.parameters())
            if stages and all(parameter.ndim < 2 for parameter in parameters):
                stages[-1] += parameters
            else:
                stages.append(parameters)
        return tuple(stages)

    def _maps(self, images: Tensor) -> tuple[Tensor, ...]:
        every = self.body(images)
        maps = tuple(every[i] for i in self._indices)
        return tuple(x.permute(0, 3, 1, 2) for x in maps) if self._channels_last else maps

    def _remember(self, name: str, values: Sequence[float]) -> None:
        self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def _look(self, options: Mapping[str, Any]) -> None:
        """Runs a small image, for the truth about sizes and about the order of dimensions.

        Not every model that says it takes one size does so, and metadata does not tell whether maps line up with their
        strides (those of networks without padding do not).
        """
        coarsest = self.spec.strides[-1]
        try:
            self._try((2 * coarsest, 3 * coarsest))
        except Exception as error:
            given = options.get("img_size")
            if given is None:
                raise self._unsuited(error) from error
            self.size = (given, given) if isinstance(given, int) else tuple(given)
            try:
                self._try(self.size)
            except Exception as second:
                raise ConfigError(
                    f"timm model '{self.model}' cannot take images of {shown(self.size)} pixels: {one_line(second)}"
                ) from second

    def _try(self, size: Size) -> None:
        """Raises ValueError where the maps of an image of ``size`` are not those the spec promises."""
        device = next(self.body.parameters()).device
        training = self.body.training
        try:
            with torch.no_grad():
                maps = [self.body.eval()(torch.zeros(1, 3, *size, device=device))[i] for i in self._indices]
        finally:
            self.body.train(training)
        got = [tuple(x.shape[1:]) for x in maps]
        sides = [(size[0] // stride, size[1] // stride) for stride in self.spec.strides]
        self._channels_last = got == [(*side, c) for side, c in zip(sides, self.spec.channels, strict=True)]
        if not self._channels_last and got != [(c, *side) for side, c in zip(sides, self.spec.channels, strict=True)]:
            raise ValueError(f"maps of {got} do not line up with strides {list(self.spec.strides)}")

    def _unsuited(self, error: Exception) -> ConfigError:
        if self._fixed:
            return ConfigError(
                f"timm model '{self.model}' takes images of one size only; give the backbone img_size, the size you "
                "train and predict with, or choose a model that takes any, such as convnext_tiny"
            )
        return ConfigError(f"timm model '{self.model}' cannot serve as a feature pyramid: {one_line(error)}")


def opened(body: nn.Module) -> Iterator[nn.Module]:
    """A network's children; one that is a row of stages gives way to them."""
    for child in body.children():
        stages = isinstance(child, nn.Sequential) and all(isinstance(part, nn.Sequential) for part in child)
        yield from child.children() if stages and len(child) else [child]  # type: ignore[arg-type]


def create(model: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    """timm's model, set to take images of any size where it can.

    Raises:
        ConfigError: an unknown name or tag, unknown options, or weights that do not exist or cannot be fetched.
    """
    check_name(model, pretrained and "pretrained_cfg_overlay" not in options)
    fixed = getattr(timm.get_pretrained_cfg(model), "fixed_input_size", False)
    chosen = {"img_size", "strict_img_size", "dynamic_img_size"} & set(options)
    for extra in ANY_SIZE if fixed and not chosen else ({},):
        try:
            return timm.create_model(model, pretrained=pretrained, features_only=True, **extra, **options)
        except TypeError as error:
            if extra and next(iter(extra)) in str(error):  # this family does not know the option
                continue
            raise unfit(model, error) from error
        except Exception as error:
            raise unreachable(model, error) if pretrained and fetching(error) else unfit(model, error) from error
    raise AssertionError("the last of ANY_SIZE asks for nothing")


def check_name(model: str, weights: bool) -> None:
    """Raises ConfigError for a model or a tag that timm does not know, or that has no published ``weights``."""
    name, _, tag = model.partition(".")
    if not timm.is_model(name):
        nearest = suggestion(name, timm.list_models()).partition("(")[2]
        hint = f"{nearest.rstrip(')')}" if nearest else "timm.list_models() lists them"
        raise ConfigError(f"unknown timm model '{model}'; {hint}")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        raise ConfigError(f"timm model '{name}' has no weights '{tag}'{suggestion(tag, tags)}")
    if weights and not is_model_pretrained(model):
        raise ConfigError(f"timm has no pretrained weights for '{model}'; set pretrained: false, or choose another")


def fetching(error: Exception) -> bool:
    """Whether an error came of fetching weights or of looking for them."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in FETCHERS


def unreachable(model: str, error: Exception) -> ConfigError:
    """What to say where weights cannot be had."""
    return ConfigError(
        f"pretrained weights of timm model '{model}' cannot be fetched or found in the local cache "
        f"({type(error).__name__}); connect to the network once, or set pretrained: false"
    )


def unfit(model: str, error: Exception) -> ConfigError:
    """What to say where timm cannot build a model as asked."""
    return ConfigError(f"timm model '{model}' cannot serve as a feature pyramid: {one_line(error)}")


def one_line(error: Exception) -> str:
    """An error's text without line breaks; its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def shown(size: Size | None) -> str:
    """Height and width for a message."""
    return "any" if size is None else f"{size[0]}x{size[1]}"


def pyramid(model: str, reductions: Sequence[int], levels: int | None) -> tuple[int, ...]:
    """The strides used: each twice the one before, from the finest power of two that is 8 or more.

    Raises:
        ConfigError: there is no such stride, or fewer than ``levels``.
    """
    if levels is not None and levels < 1:
        raise ConfigError(f"timm model '{model}': levels must be 1 or more, got {levels}")
    powers = [r for r in reductions if r >= 8 and r & (r - 1) == 0]
    if not powers:
        raise ConfigError(
            f"timm model '{model}' has strides {list(reductions)}; a trunk needs one of 8, 16, 32, 64: choose another"
        )
    run = [min(powers) * 2**i for i in range(levels or 3)]
    missing = [stride for stride in run if stride not in powers]
    if levels and missing:
        raise ConfigError(f"timm model '{model}' has strides {list(reductions)}, not {missing}; use fewer levels")
    return tuple(run[: run.index(missing[0])] if missing else run)


def last(values: Sequence[int], value: int) -> int:
    """Index of the last of equal strides, which has seen the most layers."""
    return len(values) - 1 - list(values)[::-1].index(value)
