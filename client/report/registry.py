"""The report as an entry of the DP Deployments Registry (OpenDP, schema of July 2026): tier 3, status Draft.

The registry is public, so an entry is made from the shareable report and holds no name, time or count of anybody.
"""

from __future__ import annotations

from typing import Any

import yaml

from client.report.model import Guarantee, Mechanism, PrivacyLoss, Report, Text
from common.errors import VerificationFailed


def registry_text(report: Report) -> str:
    """Return the entry as YAML; raises `VerificationFailed` where the ledger does not hold: there is nothing to claim."""
    if report.privacy_loss is None or report.guarantee is None or report.mechanism is None:
        raise VerificationFailed("the ledger does not hold, so there is no deployment to register; see report.html")
    entry = {
        "url_slug": f"fugou-{report.merchant.merchant_id}-{report.privacy_loss.headline.period.lower()}",
        "status": "Draft",
        "tier": 3,
        "deployment": _deployment(report, report.privacy_loss, report.guarantee, report.mechanism),
    }
    return str(yaml.safe_dump(entry, allow_unicode=True, sort_keys=False, width=110))


def _deployment(report: Report, loss: PrivacyLoss, guarantee: Guarantee, mechanism: Mechanism) -> dict[str, Any]:
    return {
        "basic": _basic(report),
        "dp_variant": {
            "variant_name": "Approximate DP",
            "data_domain": "Orders, reviews, messages and service dialogues of one merchant's customers, as token sequences of "
            f"at most {mechanism.max_tokens} tokens a customer.",
            "unprotected_quantities": _said(guarantee.unprotected_quantities),
        },
        "privacy_loss": _loss(loss, guarantee),
        "deployment_model": _model(guarantee),
        "accounting": {
            "post_processing": f"Covered as post-processing: {_said(guarantee.post_processing)}.",
            "composition": f"All rounds of the period are composed by {loss.accountant.name} {loss.accountant.version} "
            f"({loss.accountant.method}). A customer of several participating merchants composes over them: see the details "
            "of the privacy parameters. No parallel argument is made.",
        },
        "implementation": _implementation(report, guarantee, mechanism),
        "administrative": {
            "notes": f"Made from fugou privacy report {report.report_id}, signed by ledger key "
            f"{report.merchant.ledger_key_fingerprint}; policy {report.period.policy_digest if report.period else ''}.",
            "registry_authors": [report.merchant.merchant_id],
        },
    }


def _basic(report: Report) -> dict[str, Any]:
    return {
        "name": f"Federated fine-tuning updates of {report.merchant.merchant_id}",
        "data_curators": [report.merchant.merchant_id],
        "intended_use": "A language model adapter, shared among merchants, that suggests repurchases and the words for them.",
        "data_product_type": "Machine learning model",
        "data_product_region": "Where the merchant's customers are",
        "description": "Updates of an adapter (LoRA on GPT-2), and of a recommendation head where it is trained in the same "
        "steps, from one merchant's records with DP-SGD, sent to a coordinator that averages those of several merchants.",
        "publication_date": report.generated_at[:10],
        "data_product_sector": "Technology",
    }


def _loss(loss: PrivacyLoss, guarantee: Guarantee) -> dict[str, Any]:
    epsilon = loss.headline.epsilon
    numbers: dict[str, Any] = {"delta": loss.headline.delta} | ({} if epsilon is None else {"epsilon": epsilon})
    others = "; ".join(
        f"at {one.merchants} merchants with these charges epsilon <= {_figure(one.epsilon)}"
        for one in loss.by_unit
        if one.merchants > 1
    )
    return {
        "privacy_unit": "Customer",
        "privacy_unit_details": f"Add or remove one customer: {guarantee.unit_definition.en}.",
        "privacy_parameters": numbers,
        "privacy_parameters_details": f"Period {loss.headline.period}, rounded up to two decimals. Lifetime, "
        f"{loss.lifetime.period}: epsilon <= {_figure(loss.lifetime.epsilon)} at the same delta and unit. A customer who shops "
        f"{others}.",
    }


def _figure(epsilon: float | None) -> str:
    return "infinity" if epsilon is None else f"{epsilon:.2f}"


def _model(guarantee: Guarantee) -> dict[str, Any]:
    return {
        "model_name": "Federated",
        "model_name_details": "Each merchant adds the noise itself, before anything leaves its machine.",
        "actors": f"Trusted: {_said(guarantee.trusted)}. Not trusted: {_said(guarantee.protected_from)}.",
        "release_type": "Many releases",
        "release_type_details": "One update a round; the policy limits the rounds of a period.",
        "data_source_type": "Dynamic",
        "data_source_type_details": "A new budget opens for new data blocks only.",
        "access_type": "Non-interactive",
        "access_type_details": "The coordinator chooses the model of a round and no parameter of privacy.",
    }


def _implementation(report: Report, guarantee: Guarantee, mechanism: Mechanism) -> dict[str, Any]:
    versions = ", ".join(f"{name} {one}" for name, one in report.generator.libraries.items())
    conditions = "\n".join(f"- {one.id} ({one.status}): {one.text.en}" for one in guarantee.assumptions)
    return {
        "preprocessing_and_hyperparameter_tuning": "Personal data is removed from texts before training, without credit in the "
        "loss. Not covered: " + _said(guarantee.data_accesses_not_covered) + ".",
        "mechanisms": f"- {mechanism.algorithm}: noise multiplier {mechanism.noise_multiplier:g}, clip norm "
        f"{mechanism.clip_norm:g}, Poisson rate {mechanism.sampling.rate:g}, {mechanism.sampling.steps_per_round} steps a round\n"
        f"- random numbers: {mechanism.rng}\n- floating point: {mechanism.floating_point}\n"
        f"- timing: the duration of a round is not hidden\n- access: the merchant's own machine only\n"
        f"- code: fugou {report.generator.version}, digest {report.generator.code_sha256}; {versions}\n",
        "justification": f"What the guarantee rests on, and how it is known:\n{conditions}\n",
    }


def _said(texts: tuple[Text, ...]) -> str:
    return ", ".join(one.en for one in texts)
