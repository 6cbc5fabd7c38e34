"""Tracing: a configuration becomes an ATen graph by torch.export, on the meta device, without any weights.

Each *kind* of layer is traced, not each layer. The whole model is built on the meta device (cheap: no memory), layers
whose modules are alike (same classes, parameter shapes and settings) form a kind, and the exported model holds only the
first and the last layer of each kind; ``layers.py`` checks that these two agree and repeats them. Attention stays one
node, because transformers lets an attention function be registered and ours is a custom op.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import transformers
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from n730c.errors import UnsupportedModel
from n730c.frontend.checkpoint import DEFAULT_CONTEXT
from n730c.frontend.config import error_text, not_a_model, read_config
from n730c.frontend.experts import EXPERTS

ATTENTION = "n730"  # the name under which transformers finds our attention function
# Arguments that transformers hands to every attention function and that do not change what it computes here.
_HARMLESS = {"position_ids", "use_cache", "cache_position", "position_embeddings", "output_attentions", "is_causal"}


@dataclass(frozen=True)
class Trace:
    """An exported program and what is needed to read it as the whole model.

    ``program`` holds ``len(traced)`` layers; its layer j is the model's layer ``traced[j]``. ``kinds[i]`` is the kind
    of the model's layer i, for all layers. Module paths of layers are ``{layers_path}.{number}``.
    """

    program: ExportedProgram
    layers_path: str
    traced: tuple[int, ...]
    kinds: tuple[int, ...]
    tied: tuple[tuple[str, ...], ...]  # groups of parameter names that share one tensor
    vocab: int
    context: int
    tables_for: int | None  # tokens of context that tables were computed for; None: for any
    tables: Mapping[str, torch.Tensor]  # what the model computed for itself when it was built, by buffer name
    prefix: str  # path of the model without its head; some checkpoints leave it out of the names
    rename: Callable[[str], str]  # from a name that some checkpoint has to the model's own
    ignored: tuple[str, ...]  # patterns of stored tensors that older versions wrote and nobody reads
    one_length: str = ""  # why ``program`` holds for one length only: it serves to name what is not understood


@torch.library.custom_op("n730::attention", mutates_args=())
def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int, softcap: float
) -> torch.Tensor:
    """Causal attention as one opaque node: q [1, heads, s, d], k and v [1, kv_heads, s, d] → [1, s, heads, d]."""
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[-1])


@_attention.register_fake
def _(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int, softcap: float) -> torch.Tensor:
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[-1])


def _attention_function(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    given = {name for name, value in others.items() if value is not None and value is not False}
    unknown = sorted(given - _HARMLESS)
    if not getattr(module, "is_causal", True) or others.get("is_causal") is False:
        unknown.append("bidirectional (not causal) attention")
    if attention_mask is not None:
        unknown.append("attention_mask")
    if unknown:
        raise UnsupportedModel(
            f"attention of layer {getattr(module, 'layer_idx', '?')} ({type(module).__name__})",
            expected="causal attention with a scale, a window, a softcap and grouped query heads, nothing else",
            found=", ".join(unknown),
        )
    scale = float(scaling) if scaling is not None else query.shape[-1] ** -0.5
    return torch.ops.n730.attention(query, key, value, scale, int(sliding_window or 0), float(softcap or 0)), None


transformers.AttentionInterface.register(ATTENTION, _attention_function)
AttentionMaskInterface.register(ATTENTION, lambda *_, **__: None)


@contextlib.contextmanager
def _own_attention() -> Iterator[None]:
    """Models that call torch's attention get ours, and no mask: then they say that it is causal, by a question about
    the length, which torch's own function would not take."""
    masks, functional = AttentionMaskInterface._global_mapping, cast(Any, nn.functional)
    torch_attention = functional.scaled_dot_product_attention
    before = masks["sdpa"]

    def attention(q: Any, k: Any, v: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: Any = False) -> Any:
        if attn_mask is not None or dropout_p or is_causal is False:
            return torch_attention(q, k, v, attn_mask, dropout_p, is_causal)  # the table does not know it
        return torch.ops.n730.attention(q, k, v, q.shape[-1] ** -0.5, 0, 0.0).transpose(1, 2)

    masks["sdpa"] = lambda *_, **__: None
    functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        masks["sdpa"], functional.scaled_dot_product_attention = before, torch_attention


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the chatter of torch and transformers off stderr, which belongs to the compiler's one line."""
    level, disabled = transformers.logging.get_verbosity(), logging.root.manager.disable
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()


def trace(settings: Mapping[str, Any], length: int = DEFAULT_CONTEXT) -> Trace:
    """Trace the causal language model that config.json's ``settings`` describe; no code of the folder is executed.

    ``length``: tokens that RoPE is made for where its frequencies depend on the length of the text.
    Raises UnsupportedModel for an architecture that transformers does not know, a configuration that does not
    describe a model, and a model that torch cannot export.
    """
    with quiet():
        config = read_config(settings)
        config.use_cache = False
        model = _build(config)
        context = int(getattr(config, "max_position_embeddings", None) or 0)
        tables_for, context = _fix_rope(model, length, context)
        layers_path, kinds, traced = _keep_one_layer_a_kind(model)
        tables = {name: buffer for name, buffer in model.named_buffers() if not buffer.is_meta}
        model.to("meta")
        tied = _untie(model)
        with _own_attention(), _SlicesForLists():
            program, one_length = _export(model)
    return Trace(
        program=program,
        layers_path=layers_path,
        traced=traced,
        kinds=kinds,
        tied=tied,
        vocab=int(config.vocab_size),
        context=context,
        tables_for=tables_for,
        tables=tables,
        prefix=str(getattr(model, "base_model_prefix", "")),
        rename=_renaming(model),
        ignored=tuple(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()),
        one_length=one_length,
    )


class _SlicesForLists(TorchFunctionMode):
    """x[..., [-2]] becomes x[..., -2:-1]: on the meta device the list would be a tensor without values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__getitem__ and isinstance(args[1], tuple):
            args = (args[0], tuple(self.slice(index) for index in args[1]))
        return func(*args, **(kwargs or {}))

    @staticmethod
    def slice(index: Any) -> Any:
        one = isinstance(index, list) and len(index) == 1 and type(index[0]) is int
        return slice(index[0], None if index[0] == -1 else index[0] + 1) if one else index


class _SmallTables(TorchFunctionMode):
    """Within it a model is built without memory, but for the small tables that it computes: these get their values."""

    MOST = 1 << 16  # elements
    FACTORIES = (torch.arange, torch.tensor, torch.linspace, torch.ones, torch.zeros, torch.full)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in self.FACTORIES and kwargs.get("device") in (None, torch.device("meta"), "meta"):
            made = func(*args, **{**kwargs, "device": "meta"})
            if made.numel() <= self.MOST:
                return func(*args, **{**kwargs, "device": "cpu"})
            return made
        return func(*args, **kwargs)


def _build(config: Any) -> nn.Module:
    """The model on the meta device, with our attention, or with torch's where it does not let us."""
    config = copy.deepcopy(config)
    error: Exception | None = None
    for attention in (ATTENTION, "sdpa"):
        config._attn_implementation = attention
        config._experts_implementation = EXPERTS
        try:
            with torch.device("meta"), _SmallTables():
                model = transformers.AutoModelForCausalLM.from_config(
                    config, dtype=torch.float32, trust_remote_code=False
                )
        except Exception as problem:  # whatever else a model's constructor raises, the configuration is what was wrong
            error = error or problem
            if isinstance(problem, KeyError) and problem.args == (ATTENTION,):
                error = None
                continue
            break
        result: nn.Module = model.eval()
        return result
    raise not_a_model(config.model_type, error or KeyError(ATTENTION)) from None


def _fix_rope(model: nn.Module, length: int, context: int) -> tuple[int | None, int]:
    """Give RoPE whose frequencies depend on the length of the text those of a text of ``length`` tokens, for good.

    Returns that length, at most the context (None where nothing depends on it), and the context: "dynamic" RoPE
    stretches it by its factor.
    """
    fixed: int | None = None
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if kind not in ("dynamic", "longrope"):
            continue
        module_any: Any = module
        if kind == "dynamic":
            context = int(context * module_any.config.rope_parameters["factor"])
        fixed = min(length, context)
        frequencies, module_any.attention_scaling = ROPE_INIT_FUNCTIONS[kind](
            module_any.config, torch.device("cpu"), seq_len=fixed
        )
        module_any.register_buffer("inv_freq", frequencies, persistent=False)
        module_any.rope_type = "default"  # or the length of each text would be looked at
    return fixed, context


def _renaming(model: Any) -> Callable[[str], str]:
    """What transformers renames when it loads a checkpoint of an older layout."""
    renames = [step for step in get_model_conversion_mapping(model) if type(step) is WeightRenaming]

    def rename(name: str) -> str:
        for step in renames:
            name = step.rename_source_key(name)[0]
        return name

    return rename


def _keep_one_layer_a_kind(model: nn.Module) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """Cut ``model`` down to the first and last layer of each kind; returns (layers_path, kinds, traced)."""
    config: Any = model.config
    count = config.num_hidden_layers
    lists = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    outermost = [(path, m) for path, m in lists if not any(path.startswith(f"{other}.") for other, _ in lists)]
    if len(outermost) != 1:
        raise UnsupportedModel(
            f"layers of {type(model).__name__}", expected=f"one list of {count} layers", found=f"{len(outermost)} lists"
        )
    path, layers = outermost[0]
    signatures = [_signature(layer) for layer in layers]
    order = list(dict.fromkeys(signatures))
    kinds = tuple(order.index(signature) for signature in signatures)
    ends = {kinds.index(kind) for kind in kinds} | {count - 1 - kinds[::-1].index(kind) for kind in kinds}
    traced = tuple(sorted(ends))
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, nn.ModuleList([layers[i] for i in traced]))
    # Lists in the configuration with one entry a layer (layer_types …) are indexed by position in forward().
    for key, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == count:
            config.__dict__[key] = [value[i] for i in traced]
    config.__dict__["num_hidden_layers"] = len(traced)
    return path, kinds, traced


def _signature(layer: nn.Module) -> tuple[object, ...]:
    """What makes two layers alike: classes, parameter shapes and plain settings of all their modules."""
    parts: list[object] = []
    for path, module in layer.named_modules():
        settings = {k: v for k, v in vars(module).items() if isinstance(v, int | float | str | list | tuple | None)}
        settings.pop("layer_idx", None)
        shapes = {name: tuple(p.shape) for name, p in module.named_parameters(recurse=False)}
        tables = {
            name: (tuple(b.shape), None if b.is_meta else b.reshape(-1).tolist())
            for name, b in module.named_buffers(recurse=False)
        }
        facts = (settings, shapes, tables)
        parts.append((path, type(module), *(repr(sorted(each.items())) for each in facts)))
    return tuple(parts)


def _untie(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Give every parameter name a tensor of its own, so that the graph keeps the names; returns the tied groups."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    tied = tuple(tuple(names) for names in groups.values() if len(names) > 1)
    for name in (name for names in tied for name in names[1:]):
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        setattr(owner, leaf, nn.Parameter(torch.empty_like(getattr(owner, leaf))))
    return tied


def _export(model: nn.Module) -> tuple[ExportedProgram, str]:
    """The program for any length; where torch finds none, one for a fixed length, and why it is not for any."""
    ids = torch.zeros(1, 8, dtype=torch.long, device="meta")
    shapes = {"input_ids": {1: Dim("s", min=2)}, "use_cache": None}
    try:
        with torch.no_grad():
            return torch.export.export(
                model, (ids,), kwargs={"use_cache": False}, dynamic_shapes=shapes, strict=False
            ), ""
    except UnsupportedModel:
        raise
    except Exception as error:  # the model's own code ran: anything may come out of it
        why = error_text(error)
    try:
        with torch.no_grad():
            return torch.export.export(model, (ids,), kwargs={"use_cache": False}, strict=False), why
    except UnsupportedModel:
        raise
    except Exception as error:
        raise _untraceable(model, ids, error) from None


class _LastOp(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the ATen op that was called last."""

    name = "none"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.name = str(func)
        return func(*args, **(kwargs or {}))


def _untraceable(model: nn.Module, ids: torch.Tensor, error: Exception) -> UnsupportedModel:
    """Run the model, still without memory, up to the op that fails, to name the op and its module."""
    running: list[str] = []
    for path, module in model.named_modules():
        module.register_forward_pre_hook(lambda *_, path=path: running.append(path))
        module.register_forward_hook(lambda *_: running.pop())
    op = _LastOp()  # type: ignore[no-untyped-call]
    with contextlib.suppress(Exception), torch.no_grad(), op:
        model(ids)
    path = running[-1] if running else ""
    return UnsupportedModel(
        f"torch.export cannot trace {path or 'the model'} ({type(model.get_submodule(path)).__name__}) "
        f"behind ATen op {op.name.removesuffix('.default')}",
        expected="a forward pass that depends on neither data nor the length of the text",
        found=error_text(error),
        hint="Run n730c models to see what works.",
    )
