"""Who has answered under a name: what is served now, or was by the ledger's word.

Asked where somebody says so. Invariant: a name that nothing has, and weights that nothing has
served under it, are refused, so that what is said of a model is not filed under another one.
"""

from __future__ import annotations

from mulm.accounts import Key
from mulm.errors import ConfigError, NotFoundError, nearest
from mulm.facts import Facts
from mulm.refs import parse_ref
from serve_app.deployment_spec import DeploymentSpec, spec_of, unread
from serve_app.service import ModelNotFoundError, Service


def require_name(service: Service, facts: Facts, name: str, key: Key) -> None:
    """Let a name pass by which clients can ask a model, or could. Raises ModelNotFoundError.

    Args:
        service: What this ingress serves.
        facts: Every revision of every deployment, and all versions: what is served no more was
            called by its reference and its id too.
        name: What a client says that it has asked.
        key: Whose client that is: one for inference hears nothing of what is only stored.
    """
    if any(name in each.callable_as for each in service.usable()):
        return
    if _references(facts, name) or facts.published_as(name):
        return
    if key.scope == "all" and _is_stored(facts, name):
        return
    usable = [each.name for each in service.usable_by(key)]
    hint = nearest(name, usable) if usable else "it is the `model` that was asked"
    raise ModelNotFoundError(f"no model {name!r} is or was served", hint=hint, param="model")


def require_answerer(service: Service, facts: Facts, name: str, model_id: str) -> None:
    """Let weights pass that answer under a name, or did. Raises ConfigError for others.

    Args:
        service: What this ingress serves; most answers are judged at once, without the ledger.
        facts: Every revision of every deployment, and where aliases have pointed.
        name: What clients call the model.
        model_id: As `Served.fingerprint`.
    """
    if _answers(service, name, model_id) or _has_answered(facts, name, model_id):
        return
    raise ConfigError(
        f"{model_id!r} has not answered as {name!r}",
        hint="it is the `system_fingerprint` of the answer; or leave it out",
        param="model_id",
    )


def _answers(service: Service, name: str, model_id: str) -> bool:
    return any(
        each.fingerprint == model_id and name in each.callable_as for each in service.usable()
    )


def _has_answered(facts: Facts, name: str, model_id: str) -> bool:
    itself, _, adapter = model_id.partition("+")
    return any(
        bool(adapter_ref) == bool(adapter)
        and _has_been(facts, ref, itself)
        and (not adapter or _has_been(facts, adapter_ref, adapter))
        for ref, adapter_ref in _references(facts, name)
    )


def _references(facts: Facts, name: str) -> set[tuple[str, str]]:
    """Of a model and an adapter, if any, as all revisions have them under a name."""
    now = [spec_of(each) for each in facts.deployments() if not unread(each)]
    hosts = {name} | {spec.name for spec in now if name in spec.args.adapters}
    revisions = [each for host in hosts for each in facts.deployment_history(host)]
    specs = [spec_of(each) for each in revisions if each.spec is not None and not unread(each)]
    return {pair for spec in specs for pair in _pairs(spec, name)}


def _pairs(spec: DeploymentSpec, name: str) -> list[tuple[str, str]]:
    itself = str(spec.args.ref)
    if name in spec.args.adapters:
        return [(itself, spec.args.adapters[name])]
    if name != spec.name:
        return []
    return [(itself, ""), *([(spec.canary.model, "")] if spec.canary else [])]


def _is_stored(facts: Facts, name: str) -> bool:
    try:
        facts.resolve("model", parse_ref(name))
    except (ConfigError, NotFoundError):
        return False
    return True


def _has_been(facts: Facts, text: str, manifest_id: str) -> bool:
    """Whether a reference means or has meant a manifest, under a version that is there."""
    ref = parse_ref(text)
    numbers = {
        each.number
        for each in facts.published_as(manifest_id)
        if (each.kind, each.name) == ("model", ref.name)
    }
    if ref.alias is None:
        return ref.version in numbers
    pointed = facts.alias_history("model", ref.name, ref.alias)
    return any(each.number in numbers for each in pointed)
