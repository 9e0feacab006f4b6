"""Opens a model for an engine: what answers at once, and what answers faster later.

Called by the engine host. On CPUs the kernels run the model. Where they are not compiled yet, or
are damaged, plain PyTorch answers while the compiler works, in fp32 on CPUs that have no bf16;
where there is no compiler, or the kernels do not compute such a model, for ever. Invariant: what is
opened is ready to compute when it is returned.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from actors.cpus import usable_cpus
from mulm.data.tokenizer import Tokenizer
from mulm.engine.engine import MakeConstraint
from mulm.engine.grammar import Grammars, is_installed
from mulm.manifest import Manifest
from mulm.messages import Grammar
from mulm.model.adapter import Adapter
from mulm.model.batch import LanguageModel
from mulm.model.compute import bf16_of_cpu
from mulm.model.kv_cache import KvDtype
from mulm.model.microlm import MicroLM
from mulm.model.quantized import QuantizedMicroLM
from mulm.model.stored import load_adapter, load_model, model_quantization
from mulm.native.build import NoKernelsError, find_compiler, is_whole, library_path
from mulm.native.model import NativeModel
from mulm.native.threads import choose_threads
from mulm.store import Store
from serve_app.chosen_adapter import choose_adapters
from serve_app.draft import draft_for
from serve_app.settings import AppArgs

_log = logging.getLogger(__name__)

MakeModel = Callable[[], LanguageModel]

TORCH_THREADS_BESIDE_KERNELS = 1
"""Those of OpenMP, which wait by spinning, would take the cores from the kernels' own."""


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """What an engine needs of one model."""

    id: str
    model: LanguageModel
    """Answers at once."""
    make_faster: MakeModel | None = None
    """Makes the same model in a faster form, in a while; None where there is none."""
    tokenizer: Tokenizer | None = None
    make_constraint: MakeConstraint | None = None
    """Holds answers to grammars; None where llguidance is not installed."""
    prepare: Callable[[Grammar], None] | None = None
    """Compiles a grammar, so that making its constraints is quick."""
    draft: LanguageModel | None = None
    """Guesses for it."""
    make_draft_faster: MakeModel | None = None
    """As `make_faster`, of the draft."""
    device: str = "cpu"
    """What computes, by its own name."""
    dtype: str = ""
    """Of the weights."""


def open_from_store(args: AppArgs) -> OpenedModel:
    """Load the model that `args` names onto its device, with its tokenizer.

    Raises:
        NotFoundError: no such model.
        CorruptError: a file does not match its checksum.
        TokenizerMismatchError, ConfigError: the draft does not fit; see `draft_for`.
    """
    from actors.ledger_host import connect_facts
    from actors.store_host import cluster_store
    from mulm.home import Home

    home = Home.from_env()
    store, facts = cluster_store(home), connect_facts()
    manifest = store.load(facts.resolve("model", args.ref).manifest_id)
    draft_manifest = draft_for(manifest, args, store, facts)  # refused before weights are read
    tokenizer = Tokenizer.from_bytes(store.read(manifest.blob("tokenizer.json")))
    grammars = Grammars(tokenizer) if is_installed() else None
    model, make_faster = open_weights(store, manifest, args, home.compiled)
    draft, make_draft_faster = None, None
    if draft_manifest is not None:
        draft, make_draft_faster = open_weights(store, draft_manifest, args, home.compiled)
    device, dtype = compute_of(store, manifest, args, home.compiled)
    return OpenedModel(
        manifest.id,
        model,
        make_faster,
        tokenizer,
        None if grammars is None else grammars.constraint,
        None if grammars is None else grammars.prepare,
        draft,
        make_draft_faster,
        device=device,
        dtype=dtype,
    )


def compute_of(store: Store, manifest: Manifest, args: AppArgs, folder: Path) -> tuple[str, str]:
    """The name of what computes, and the type of the weights: `int8` for quantised ones.

    Where kernels are not compiled yet it is the type that they will have in some seconds.
    """
    device = _device(args.device, torch.cuda.is_available())
    name = torch.cuda.get_device_name() if device == "cuda" else device
    if (quantization := model_quantization(store, manifest)) is not None:
        return name, quantization.linear
    dtype = _dtype(args.dtype, device, has_kernels=device == "cpu" and bool(_kernels(folder)))
    return name, str(dtype).removeprefix("torch.")


def open_adapters(args: AppArgs, model_id: str) -> dict[str, Adapter | None]:
    """The adapters that `args` name for a model, by the ids of their versions, in order.

    None stands for one that does not fit a model that is followed by an alias.

    Raises:
        ConflictError: one does not fit.
        NotFoundError: no such version.
        CorruptError: a file does not match its checksum.
    """
    from actors.ledger_host import connect_facts
    from actors.store_host import cluster_store
    from mulm.home import Home

    if not args.adapters:
        return {}
    store = cluster_store(Home.from_env())
    chosen = choose_adapters(args, store.load(model_id), store, connect_facts())
    return {
        each.id: None if each.problem else load_adapter(store, store.load(each.id))
        for each in chosen
    }


def open_weights(
    store: Store, manifest: Manifest, args: AppArgs, folder: Path
) -> tuple[LanguageModel, MakeModel | None]:
    """The model, and how to make its faster form where that is not there yet.

    Args:
        store: Where the weights lie.
        manifest: The model's version.
        args: Device, type and threads.
        folder: Where compiled kernels are kept.
    """
    device = _device(args.device, torch.cuda.is_available())
    n_threads = args.n_threads or usable_cpus()
    kernels = _kernels(folder) if device == "cpu" else None
    dtype = _dtype(args.dtype, device, has_kernels=kernels is not None)
    kv_dtype: KvDtype = "int8" if args.kv_dtype == "int8" else None
    load = partial(_loaded, store, manifest, device)
    if kernels is not None and not is_whole(kernels):
        torch.set_num_threads(n_threads)
        meanwhile = load(*_meanwhile(dtype, kv_dtype))
        # The threads are not chosen then: what answers meanwhile would be in the measurement.
        return meanwhile, lambda: _native(load(dtype, kv_dtype), folder, n_threads)
    model = load(dtype, kv_dtype)
    if kernels is not None:
        try:
            return _native(model, folder, args.n_threads), None
        except NoKernelsError as error:
            _log.warning("kernels failed, plain torch instead reason=%s", error.message)
    torch.set_num_threads(n_threads)
    if isinstance(model, QuantizedMicroLM):
        model.pack()
    return model, None


def _loaded(
    store: Store, manifest: Manifest, device: str, dtype: torch.dtype, kv_dtype: KvDtype
) -> MicroLM:
    model = load_model(store, manifest, device, dtype)
    model.kv_dtype = kv_dtype
    return model


def _meanwhile(dtype: torch.dtype, kv_dtype: KvDtype) -> tuple[torch.dtype, KvDtype]:
    """Types in which torch answers soon on this CPU; keys and values take no more memory."""
    if dtype != torch.bfloat16 or bf16_of_cpu():
        return dtype, kv_dtype
    return torch.float32, kv_dtype or "bf16"


def _native(model: MicroLM, folder: Path, n_threads: int | None) -> NativeModel:
    """With so many threads, or as many as are found fastest."""
    native = NativeModel(model, folder, n_threads or usable_cpus(), kv_dtype=model.kv_dtype)
    if n_threads is None:
        n_cpus, chosen = native.n_threads, choose_threads(native, native.n_threads)
        _log.info("threads chosen n=%d cpus=%d", chosen, n_cpus)
    torch.set_num_threads(TORCH_THREADS_BESIDE_KERNELS)
    return native


def _kernels(folder: Path) -> Path | None:
    """Where the compiled kernels lie, or will; None where they cannot be made."""
    try:
        return library_path(folder, find_compiler())
    except NoKernelsError as error:
        _log.warning("no kernels, plain torch instead reason=%s", error.message)
        return None


def _device(asked: str, has_cuda: bool) -> str:
    return ("cuda" if has_cuda else "cpu") if asked == "auto" else asked


def _dtype(asked: str, device: str, *, has_kernels: bool) -> torch.dtype:
    """Half the memory is twice the speed where each token reads all weights."""
    if asked != "auto":
        return torch.float32 if asked == "float32" else torch.bfloat16
    return torch.bfloat16 if device == "cuda" or has_kernels else torch.float32
