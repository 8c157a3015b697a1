"""The files of infra/ hold together: no container engine runs here, so what one would refuse is looked for by hand.

The shapes are those of the Compose Specification and of Kubernetes 1.32, as far as these files use them: a key that is
not known here is taken for a slip.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from infra import servers

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
BASE = INFRA / "kubernetes" / "base"
NAMES = {line for line in (BASE / "environment.names").read_text().splitlines() if not line.startswith("#")}
PINNED = re.compile(r"[a-z0-9./-]+:[a-z0-9-]*[0-9]+\.[0-9]+[a-z0-9.-]*")  # a tag with a version, never `latest`
OWN_IMAGES = {"genforge:cpu", "genforge:cuda"}
SECRET = re.compile(r"(PASSWORD|SECRET|AUTH_STRING|ACCESS_KEY)")


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


# Compose Specification


class Healthcheck(Shape):
    test: Annotated[list[str], Field(min_length=2)]
    interval: str
    timeout: str
    retries: int
    start_period: str = "0s"


class Condition(Shape):
    condition: Literal["service_healthy", "service_started", "service_completed_successfully"]


class Build(Shape):
    context: str
    dockerfile: str
    target: str


class Device(Shape):
    driver: str
    count: int
    capabilities: list[str]


class Reservations(Shape):
    devices: list[Device]


class Resources(Shape):
    reservations: Reservations


class Deploy(Shape):
    resources: Resources


class Logging(Shape):
    driver: str
    options: dict[str, str]


class Service(Shape):
    image: str
    build: Build | None = None
    command: list[str] | None = None
    environment: dict[str, str]
    volumes: list[str] = []
    ports: list[str] = []
    networks: list[str]
    depends_on: dict[str, Condition] = {}
    deploy: Deploy | None = None
    shm_size: str = "64m"
    stop_grace_period: str = "10s"
    healthcheck: Healthcheck
    restart: Literal["unless-stopped"]
    logging: Logging


class Network(Shape):
    internal: bool = False


class Compose(Shape):
    name: str
    services: dict[str, Service]
    networks: dict[str, Network]
    volumes: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def compose() -> Compose:
    document = yaml.safe_load((INFRA / "compose.yaml").read_text())
    return Compose.model_validate({key: value for key, value in document.items() if not key.startswith("x-")})


def test_the_set_is_whole(compose: Compose) -> None:
    assert compose.services.keys() == {"postgresql", "s3", "mlflow", "prefect", "worker"}
    for name, service in compose.services.items():
        assert service.image in OWN_IMAGES or PINNED.fullmatch(service.image), name
        assert (service.image in OWN_IMAGES) == (service.build is not None)


def test_what_compose_names_is_there(compose: Compose) -> None:
    used: set[str] = set()
    for service in compose.services.values():
        assert set(service.networks) <= compose.networks.keys()
        assert set(service.depends_on) <= compose.services.keys()
        for volume in service.volumes:
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (INFRA / source).is_file(), source
            else:
                used.add(source)
        if service.build is not None:
            assert (INFRA / service.build.context).resolve() == ROOT
            stages = re.findall(r"^FROM \S+ AS (\S+)", (ROOT / service.build.dockerfile).read_text(), re.MULTILINE)
            assert service.build.target in stages
    assert used == compose.volumes.keys()


def test_a_volume_of_an_image_of_ours_is_mounted_where_its_user_may_write(compose: Compose) -> None:
    base = (ROOT / "infra" / "Dockerfile").read_text().partition("\nFROM base")[0]
    owned = re.findall(r"chown 10001:10001 (.+)", base)[0].split()
    made = re.findall(r"mkdir --parents (.+) \\", base)[0].split()
    mounted = [volume.split(":")[1] for service in compose.services.values() if service.build for volume in
               service.volumes if not volume.startswith(".")]  # fmt: skip
    assert sorted(mounted) == sorted(owned) == sorted(made)


def test_secrets_come_from_the_environment_and_every_name_is_used(compose: Compose) -> None:
    asked = set(re.findall(r"\$\{([A-Z0-9_]+)", (INFRA / "compose.yaml").read_text()))
    addresses = {"GENFORGE_REPOSITORY", "GENFORGE_MLFLOW_URL", "GENFORGE_PREFECT_URL", "GENFORGE_POSTGRES_HOST"}
    assert asked - addresses == NAMES
    assert all(f"`{address}`" in (ROOT / "docs" / "servers.md").read_text() for address in addresses)
    for service in compose.services.values():
        for key, value in service.environment.items():
            if SECRET.search(key) and key != "MLFLOW_AUTH_CONFIG_PATH":
                assert re.fullmatch(r"\$\{[A-Z0-9_]+:\?[^}]+\}", value), f"{key} should be asked for, and stop if unset"


def test_hosts_and_ports_in_addresses_are_those_of_services(compose: Compose) -> None:
    for name, service in compose.services.items():
        for value in [*service.environment.values(), *(service.command or []), *service.healthcheck.test]:
            for host, port in re.findall(r"https?://([a-z0-9.]+):(\d+)", value):
                target = name if host == "127.0.0.1" else host
                assert target in compose.services
                assert port in _ports_of(compose.services[target]), f"{name}: {value}"
        hosts = {service.environment.get("PGHOST")} - {None}
        assert hosts <= {"postgresql", "${GENFORGE_POSTGRES_HOST:-postgresql}"}
        assert all(port.startswith("127.0.0.1:") for port in service.ports)


def _ports_of(service: Service) -> set[str]:
    command = service.command or []
    said = {command[place + 1] for place, word in enumerate(command[:-1]) if word == "--port"}
    health = {service.environment["PREFECT_WORKER_WEBSERVER_PORT"]} if "--with-healthcheck" in command else set()
    return said | health | ({"8333"} if "seaweedfs" in service.image else set())


def test_logins_are_on(compose: Compose) -> None:
    assert compose.services["mlflow"].command is not None and "basic-auth" in compose.services["mlflow"].command
    assert "PREFECT_SERVER_API_AUTH_STRING" in compose.services["prefect"].environment
    auth = (BASE / "mlflow-auth.ini").read_text()
    assert "admin_password" not in re.sub("#.*", "", auth) and ":///" in auth
    assert servers.AUTH.is_file()


# Images


def test_the_dockerfile_pins_copies_what_is_there_and_ends_without_rights() -> None:
    text = re.sub(r"\\\n", " ", (INFRA / "Dockerfile").read_text())
    lines = [line.split(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    assert {line[0] for line in lines} <= {"FROM", "ENV", "RUN", "WORKDIR", "COPY", "ENTRYPOINT", "USER", "CMD"}
    stages = {}
    for word, rest in lines:
        if word == "FROM":
            source, _, stage = rest.partition(" AS ")
            assert source in stages or PINNED.fullmatch(source)
            current = stages[stage] = []
        else:
            current.append((word, rest))
    assert stages.keys() == {"base", "cpu", "cuda"}
    kept = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    for stage in stages.values():
        for word, rest in stage:
            if word == "COPY":
                for source in rest.split()[:-1]:
                    assert (ROOT / source).exists() and source in kept, source
            if word == "RUN" and "apt-get install" in rest:
                assert "--no-install-recommends" in rest and "rm -rf /var/lib/apt/lists" in rest
            if word in ("CMD", "ENTRYPOINT"):
                assert rest.startswith("["), "a shell would keep signals from the program"
    for name in ("cpu", "cuda"):
        words = [word for word, _ in stages[name]]
        assert dict(stages[name])["USER"] == "10001:10001" and words.index("USER") > max(
            place for place, word in enumerate(words) if word == "RUN"
        )
        assert any("--requirement requirements.lock" in rest for word, rest in stages[name] if word == "RUN")


# Kubernetes


def documents() -> list[dict[str, Any]]:
    found = []
    for file in sorted([*BASE.glob("*.yaml"), *(INFRA / "kubernetes" / "jobs").glob("*.yaml")]):
        if file.name != "kustomization.yaml":
            found += [document for document in yaml.safe_load_all(file.read_text()) if document]
    return found


def pods() -> dict[str, dict[str, Any]]:
    return {
        document["metadata"]["name"]: document["spec"]["template"]["spec"]
        for document in documents()
        if document["kind"] in ("Deployment", "StatefulSet", "Job")
    }


class HttpGet(Shape):
    path: str
    port: str
    httpHeaders: list[dict[str, str]] = []  # noqa: N815


class Exec(Shape):
    command: list[str]


class Probe(Shape):
    httpGet: HttpGet | None = None  # noqa: N815
    exec: Exec | None = None
    periodSeconds: int  # noqa: N815
    timeoutSeconds: int = 1  # noqa: N815
    initialDelaySeconds: int = 0  # noqa: N815
    failureThreshold: int = 3  # noqa: N815


class KeyRef(Shape):
    name: str
    key: str


class ValueFrom(Shape):
    secretKeyRef: KeyRef  # noqa: N815


class Variable(Shape):
    name: str
    value: str | None = None
    valueFrom: ValueFrom | None = None  # noqa: N815


class Port(Shape):
    name: str
    containerPort: int  # noqa: N815


class Capabilities(Shape):
    drop: list[str]


class ContainerSecurity(Shape):
    allowPrivilegeEscalation: Literal[False]  # noqa: N815
    capabilities: Capabilities


class Limits(Shape):
    requests: dict[str, str | int]
    limits: dict[str, str | int]


class Mount(Shape):
    name: str
    mountPath: str  # noqa: N815
    readOnly: bool = False  # noqa: N815


class Container(Shape):
    name: str
    image: str
    command: list[str] = []
    args: list[str] = []
    workingDir: str | None = None  # noqa: N815
    env: list[Variable] = []
    envFrom: list[dict[str, dict[str, str]]] = []  # noqa: N815
    ports: list[Port] = []
    securityContext: ContainerSecurity  # noqa: N815
    startupProbe: Probe | None = None  # noqa: N815
    readinessProbe: Probe | None = None  # noqa: N815
    livenessProbe: Probe | None = None  # noqa: N815
    resources: Limits
    volumeMounts: list[Mount] = []  # noqa: N815


class PodSecurity(Shape):
    runAsNonRoot: Literal[True]  # noqa: N815
    runAsUser: int  # noqa: N815
    runAsGroup: int  # noqa: N815
    fsGroup: int  # noqa: N815
    seccompProfile: dict[str, str]  # noqa: N815


class Pod(Shape):
    automountServiceAccountToken: Literal[False]  # noqa: N815
    enableServiceLinks: bool = True  # noqa: N815
    terminationGracePeriodSeconds: int = 30  # noqa: N815
    restartPolicy: Literal["Always", "Never", "OnFailure"] = "Always"  # noqa: N815
    securityContext: PodSecurity  # noqa: N815
    containers: Annotated[list[Container], Field(min_length=1, max_length=1)]
    volumes: list[dict[str, Any]] = []


@pytest.mark.parametrize("name", sorted(pods()))
def test_a_pod_has_the_right_shape_and_no_rights(name: str) -> None:
    pod = Pod.model_validate(pods()[name])
    (container,) = pod.containers
    assert container.image in ("genforge-cpu", "genforge-cuda") or PINNED.fullmatch(container.image)
    if name != "search":
        assert container.livenessProbe is not None
        assert container.readinessProbe is not None or container.startupProbe is not None
    for probe in (container.startupProbe, container.readinessProbe, container.livenessProbe):
        if probe is not None and probe.httpGet is not None:
            assert probe.httpGet.port in {port.name for port in container.ports}
    for variable in container.env:
        assert (variable.value is None) != (variable.valueFrom is None)
        if variable.valueFrom is not None:
            assert variable.valueFrom.secretKeyRef.name == "logins"
            assert variable.valueFrom.secretKeyRef.key in NAMES
        elif variable.name != "MLFLOW_AUTH_CONFIG_PATH":
            assert not SECRET.search(variable.name), f"{variable.name} should come from the secret"
    claims = [
        claim["metadata"]["name"]
        for document in documents()
        if document["metadata"]["name"] == name
        for claim in document["spec"].get("volumeClaimTemplates", [])
    ]
    assert {mount.name for mount in container.volumeMounts} == {*claims, *(volume["name"] for volume in pod.volumes)}


def test_every_secret_is_used_and_every_service_finds_its_pod() -> None:
    text = "".join(path.read_text() for path in BASE.glob("*.yaml"))
    assert set(re.findall(r"key: ([A-Z_]+)", text)) == NAMES
    for document in documents():
        if document["kind"] == "Service":
            (container,) = pods()[document["spec"]["selector"]["app"]]["containers"]
            for port in document["spec"]["ports"]:
                (own,) = [each for each in container["ports"] if each["name"] == port["targetPort"]]
                assert own["containerPort"] == port["port"]
    services = {document["metadata"]["name"] for document in documents() if document["kind"] == "Service"}
    for document in documents():
        if document["kind"] == "StatefulSet":
            assert document["spec"]["serviceName"] in services
    ports = {
        document["metadata"]["name"]: [port["port"] for port in document["spec"]["ports"]]
        for document in documents()
        if document["kind"] == "Service"
    }
    texts = [(BASE / "clients.env").read_text(), *(str(pod) for pod in pods().values())]
    for host, port in re.findall(r"https?://([a-z0-9]+):(\d+)", "".join(texts)):
        assert int(port) in ports[host]


def test_work_on_gpus_asks_for_one() -> None:
    for name in ("worker", "search"):
        (container,) = pods()[name]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert container["image"] == "genforge-cuda"


def test_compose_and_kubernetes_run_the_same_commands(compose: Compose) -> None:
    for name in ("mlflow", "prefect", "worker", "s3"):
        (container,) = pods()[name]["containers"]
        here, there = compose.services[name].command, container["args"]
        assert here is not None
        drop = [word for word in here if "allowed" not in word and "mlflow:5000" not in word]
        assert drop == [word for word in there if "allowed" not in word and "mlflow:5000" not in word]
        if name == "s3":
            assert container["image"] == compose.services[name].image


def test_every_setting_of_prefect_and_mlflow_exists() -> None:
    """A slip in a name would be ignored without a word."""
    import mlflow.environment_variables
    import prefect.settings

    text = "".join(path.read_text() for path in [INFRA / "compose.yaml", INFRA / "servers.py", *BASE.glob("*.*")])
    for name in set(re.findall(r"\b(PREFECT_[A-Z_]+)\b", text)) - {
        "PREFECT_AUTH_STRING",
        "PREFECT_HOME",
        "PREFECT_PORT",
    }:
        assert hasattr(prefect.settings, name), name
    others = {"MLFLOW_BACKEND_STORE_URI", "MLFLOW_S3_ENDPOINT_URL", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"}
    for name in set(re.findall(r"\b(MLFLOW_[A-Z_0-9]+)\b", text)) - others:
        assert hasattr(mlflow.environment_variables, name), name


@pytest.mark.parametrize("folder", ["base", "cpu", "jobs"])
def test_kustomize_builds_it(folder: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed here")
    done = subprocess.run(["kubectl", "kustomize", str(INFRA / "kubernetes" / folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = [document for document in yaml.safe_load_all(done.stdout) if document]
    assert all(document["metadata"].get("namespace", "genforge") == "genforge" for document in built)
    assert "genforge-cpu\n" not in done.stdout and "genforge-cuda\n" not in done.stdout
