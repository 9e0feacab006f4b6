"""What int8 and int4 weights cost and give: bytes, bits per byte, tokens per second beside bf16.

    python -m benchmarks.quantize demo              a trained model of MULM_HOME
    python -m benchmarks.quantize --preset micro    random weights of that size: bytes, speed

All formats take turns in one process, so that a busy machine is busy for all of them; what counts
are the ratios. Bits per byte are measured with the very numbers that are served: 8-bit activations
and quantised output weights included.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time

import torch
from torch.nn import functional

from mulm.data.loader import TokenLoader
from mulm.engine.engine import Engine
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.manifest import Manifest
from mulm.messages import GenerateRequest, SamplingParams
from mulm.model.microlm import MicroLM
from mulm.model.presets import preset
from mulm.model.quantized import Quantization, QuantizedMicroLM
from mulm.model.stored import load_model
from mulm.model.weights import tensors_to_bytes
from mulm.refs import parse_ref
from mulm.store import Store

BATCHES = (1, 8)
PROMPT = tuple(range(40, 56))


def main() -> None:
    """One JSON object."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    dataset, store = None, None
    if arguments.preset:
        shape = preset(arguments.preset, 32768)
        model = MicroLM(shape).init_weights(torch.Generator().manual_seed(0)).eval()
        model.requires_grad_(False)
    else:
        store, model, dataset = stored(arguments.model)
    forms = {name: make(model, name) for name in arguments.formats}
    report: dict[str, dict[str, float]] = {
        name: {"bytes": len(tensors_to_bytes(f.state_dict()))} for name, f in forms.items()
    }
    for form in forms.values():
        if isinstance(form, QuantizedMicroLM):
            form.pack()
    if store and dataset:
        for name, bits in bits_per_byte(forms, store, dataset, arguments.windows).items():
            report[name]["bits_per_byte"] = bits
            report[name]["loss_vs_bf16"] = bits / report_base(report) - 1
    for name, speeds in tokens_per_s(forms, arguments.rounds, arguments.new_tokens).items():
        report[name] |= speeds
    facts = {"parameters": model.config.n_parameters, "threads": arguments.threads}
    print(json.dumps(facts | report, indent=1))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--preset", help="random weights of this size instead of a model")
    parser.add_argument("--formats", nargs="*", default=["bf16", "fp32", "int8", "int4"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--windows", type=int, help="of the held-out text; all if not given")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--new-tokens", type=int, default=48)
    return parser.parse_args()


def stored(ref: str) -> tuple[Store, MicroLM, Manifest]:
    """The trained model and the dataset with its held-out text."""
    home = Home.from_env()
    store, facts = Store(home.store), Ledger(home.ledger)
    manifest = store.load(facts.resolve("model", parse_ref(ref)).manifest_id)
    facts.close()
    return store, load_model(store, manifest), store.load(manifest.parents["dataset"])


def make(model: MicroLM, name: str) -> MicroLM:
    """The model in one format."""
    if name in ("int8", "int4"):
        quantization = Quantization.model_validate({"linear": name, "embedding": name})
        return QuantizedMicroLM.of(model, quantization)
    plain = MicroLM(model.config)
    plain.load_state_dict(model.state_dict())
    return plain.to(torch.bfloat16 if name == "bf16" else torch.float32).eval()


@torch.inference_mode()
def bits_per_byte(
    forms: dict[str, MicroLM], store: Store, dataset: Manifest, n_windows: int | None
) -> dict[str, float]:
    """Without overlap between windows; bytes are counted in proportion to tokens."""
    loader = TokenLoader(store, dataset, "validation", seq_len=256)
    nats, n_targets = dict.fromkeys(forms, 0.0), 0
    for n_batch, (x_BT, y_BT) in enumerate(loader.iter_validation(4)):
        if n_windows and 4 * n_batch >= n_windows:
            break
        n_targets += int((y_BT >= 0).sum())
        for name, model in forms.items():
            logits = model.logits(model(x_BT)).float().flatten(0, 1)
            nats[name] += float(functional.cross_entropy(logits, y_BT.flatten(), reduction="sum"))
    n_bytes = int(dataset.counts["validation_bytes"]) * n_targets / (loader.n_tokens - 1)
    return {name: total / math.log(2) / n_bytes for name, total in nats.items()}


def report_base(report: dict[str, dict[str, float]]) -> float:
    """Bits per byte of the bf16 form."""
    return report["bf16"]["bits_per_byte"]


def tokens_per_s(forms: dict[str, MicroLM], rounds: int, n_new: int) -> dict[str, dict[str, float]]:
    """Median speeds, and medians over the rounds of the ratio to bf16 in the same round."""
    rates: dict[str, dict[int, list[float]]] = {
        name: {batch: [] for batch in BATCHES} for name in forms
    }
    for round_ in range(rounds + 1):
        for batch in BATCHES:
            for name, model in forms.items():
                rate = generate(model, batch, n_new)
                if round_:  # the first one warms up
                    rates[name][batch].append(rate)
    result: dict[str, dict[str, float]] = {}
    for name, by_batch in rates.items():
        result[name] = {}
        for batch, values in by_batch.items():
            ratios = [a / b for a, b in zip(values, rates["bf16"][batch], strict=True)]
            result[name][f"tokens_per_s_at_{batch}"] = round(statistics.median(values), 1)
            result[name][f"vs_bf16_at_{batch}"] = round(statistics.median(ratios), 2)
    return result


def generate(model: MicroLM, batch: int, n_new: int) -> float:
    """New tokens per second of `batch` requests at once, prompts included."""
    sampling = SamplingParams(max_tokens=n_new, temperature=0.0)
    requests = [GenerateRequest(str(n), PROMPT, sampling) for n in range(batch)]
    engine = Engine(model, n_slots=batch, max_seq_len=128)
    started_s = time.perf_counter()
    answers = engine.generate(requests)
    taken_s = time.perf_counter() - started_s
    return sum(len(chunk.token_ids) for chunk in answers.values()) / taken_s


if __name__ == "__main__":
    main()
