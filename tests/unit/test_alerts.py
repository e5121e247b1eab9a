"""Alert rules name what the code exports, with labels that it has, and a runbook that exists."""

import re
from pathlib import Path
from typing import Any

import dlq_tools.metrics
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

import infra.chassis.metrics
import orchestrator.metrics
import services.compliance.metrics

PROJECT = Path(__file__).parents[2]
DOCUMENT: dict[str, Any] = yaml.safe_load((PROJECT / "infra/prometheus/alerts.yaml").read_text())
MODULES = (infra.chassis.metrics, dlq_tools.metrics, orchestrator.metrics, services.compliance.metrics)
RULES: list[dict[str, Any]] = [rule for group in DOCUMENT["groups"] for rule in group["rules"]]
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def exported() -> dict[str, frozenset[str]]:
    """The labels of each series that the modules of metrics define."""
    metrics = [metric for module in MODULES for metric in vars(module).values() if isinstance(metric, MetricWrapperBase)]
    return {
        family.name + suffix: frozenset(metric._labelnames)
        for metric in metrics
        for family in metric.describe()
        for suffix in SUFFIXES[family.type]
    }


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\btutti_[a-z_]+", expression))


def labels_in(rule: dict[str, Any]) -> set[str]:
    """Labels by which the expression groups or selects, and those that the summary shows."""
    grouped = [name for names in re.findall(r"\bby \(([^)]*)\)", rule["expr"]) for name in re.split(r",\s*", names)]
    selected = re.findall(r"[{,]\s*([a-z_]+)\s*(?:=|!=|=~|!~)", rule["expr"])
    return {*grouped, *selected, *re.findall(r"\$labels\.([a-z_]+)", rule["annotations"]["summary"])}


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_a_rule_names_exported_metrics_only(rule: dict[str, Any]) -> None:
    found = names_in(rule["expr"])

    assert found
    assert found <= set(exported())


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_a_rule_uses_labels_that_its_metrics_have(rule: dict[str, Any]) -> None:
    for name in names_in(rule["expr"]):
        assert labels_in(rule) <= exported()[name]


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_leads_to_a_runbook_about_its_metrics(rule: dict[str, Any]) -> None:
    runbook = (PROJECT / rule["annotations"]["runbook"]).read_text()

    assert any(told.startswith(known) for told in names_in(rule["expr"]) for known in names_in(runbook))


def test_no_two_alerts_have_the_same_name() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)


def test_a_runbook_that_a_metric_names_exists() -> None:
    for module in MODULES:
        for name in re.findall(r"runbooks/[a-z-]+\.md", Path(str(module.__file__)).read_text()):
            assert (PROJECT / "docs" / name).exists(), name
