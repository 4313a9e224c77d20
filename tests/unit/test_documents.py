"""What is said of the settings stands in several places; each must name what there is, and nothing else."""

from __future__ import annotations

import json
import re
import tomllib

import pytest
import yaml
from honcho import environ

from processors import VERSION
from processors.encryption import SecretBox
from processors.runtime import procfile
from processors.settings import Settings
from tests.reference import REASONS, reference

NAMES = {name.upper() for name in Settings.model_fields}


def text(name: str) -> str:
    return (procfile.ROOT / name).read_text("utf-8")


def test_the_readme_names_every_setting() -> None:
    section = text("README.md").split("### Settings")[1].split("### HTTP")[0]
    abbreviated = {"ZOHO_REQUESTS_PER_DAY"}  # "…_PER_DAY" beside ZOHO_REQUESTS_PER_MINUTE
    assert set(re.findall(r"`([A-Z][A-Z_]{3,})`", section)) - {"UTC"} == NAMES - abbreviated


def test_the_example_environment_holds_only_settings_that_exist() -> None:
    assert set(environ.parse(text(".env.example"))) <= NAMES


def test_the_example_environment_is_accepted_once_its_empty_secrets_are_filled() -> None:
    filled = {**environ.parse(text(".env.example")), "ZOHO_WEBHOOK_SECRETS": "a" * 12, "ZOHO_ORGANIZATION_ID": "1"}
    assert Settings.load("ZOHO_WEBHOOK_SECRETS", "ZOHO_ORGANIZATION_ID", environ=filled).port == 8000


def test_the_version_is_the_packages() -> None:
    assert tomllib.loads(text("pyproject.toml"))["project"]["version"] == VERSION


def test_the_heroku_button_asks_for_settings_that_exist() -> None:
    assert set(json.loads(text("app.json"))["env"]) <= NAMES


def test_the_procfile_has_the_four_processes() -> None:
    assert set(environ.parse_procfile(text("Procfile")).processes) == {"release", "web", "worker", "clock"}


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned_with_hashes_and_names_no_address(file: str) -> None:
    pinned = text(file)
    assert "://" not in pinned
    lines = [line for line in pinned.splitlines() if re.match(r"[a-zA-Z0-9]", line)]
    assert lines
    assert all(re.match(r"[A-Za-z0-9_.\-\[\],]+==[\w.!+]+ .*\\$", line) for line in lines)
    assert pinned.count("\n    --hash=sha256:") >= len(lines)


def test_the_requirements_hold_every_direct_dependency() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    pinned = {name.lower() for name in re.findall(r"^([A-Za-z0-9_.\-]+)==", text("requirements.txt"), re.MULTILINE)}
    assert {re.split(r"[\[<>=~]", dependency)[0] for dependency in project["dependencies"]} <= pinned


def test_containers_run_what_the_procfile_runs() -> None:
    lines = environ.parse_procfile(text("Procfile")).processes
    services = yaml.safe_load(text("compose.yaml"))["services"]
    commands = {name: " ".join(services[name].get("command", ())) for name in lines}
    assert {name: lines[name] for name in lines if name != "web"} == {
        name: commands[name] for name in lines if name != "web"
    }
    assert commands["web"] == "", "the image's own command"
    assert f'CMD ["sh", "-c", "exec {lines["web"]}"]' in text("Dockerfile")
    settings = {name for service in services.values() for name in service.get("environment", {})}
    assert settings - {"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"} <= NAMES


def test_images_are_pinned_to_exact_versions_and_may_be_pinned_by_digest() -> None:
    (default,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", text("Dockerfile"), re.MULTILINE)
    assert re.findall(r"^FROM (.+)$", text("Dockerfile"), re.MULTILINE) == ["${PYTHON_IMAGE}"]
    compose = yaml.safe_load(text("compose.yaml"))
    assert compose["services"]["web"]["build"]["args"]["PYTHON_IMAGE"] == f"${{PYTHON_IMAGE:-{default}}}"
    others = [compose["services"][name]["image"] for name in ("postgres", "redis")]
    for image in (f"${{PYTHON_IMAGE:-{default}}}", *others):
        assert re.fullmatch(r"\$\{[A-Z]+_IMAGE:-[a-z/]+:\d+\.\d+(\.\d+)?(-[a-z0-9-]+)?\}", image), image
        assert image[2:].partition(":")[0] in text("docs/security.md")


def test_what_heroku_generates_is_a_key() -> None:
    assert json.loads(text("app.json"))["env"]["ENCRYPTION_KEYS"]["generator"] == "secret"
    loaded = Settings.load(environ={"ENCRYPTION_KEYS": "0f" * 32})
    assert SecretBox([key.get_secret_value() for key in loaded.encryption_keys]).encrypt("x", "a.b")


def test_the_reference_is_what_the_code_says() -> None:
    assert text("docs/reference.md") == reference(), "write it anew: python -m tests.reference"


def test_each_reason_of_a_refusal_is_explained() -> None:
    source = text("receiver/webhooks.py")
    reasons = set(re.findall(r'DeliveryRejected\(\w+, "(\w+)"', source)) | {"signature_absent", "check"}
    assert reasons == set(REASONS)


def test_the_image_holds_what_its_files_lead_to() -> None:
    """A link that leads out of what is copied would lead nowhere in the image."""
    copied = set(re.findall(r"^COPY (\S+) ", text("Dockerfile"), re.MULTILINE))
    assert copied == {line[1:] for line in text(".dockerignore").splitlines() if line.startswith("!")}
    for name in copied:
        for path in (procfile.ROOT / name).rglob("*"):
            if path.is_symlink():
                assert str(path.resolve().relative_to(procfile.ROOT)).split("/")[0] in copied
