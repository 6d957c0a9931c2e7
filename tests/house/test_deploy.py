"""The files for schedulers and clusters: parsed as their tools parse them, their commands as we do."""

import ast
import importlib
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from actors.models import MODELS
from jobs.cli import COMMANDS
from jobs.runtime.command import parse

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CLUSTERS = [ROOT / "cluster.yaml", DEPLOY / "cluster-gcp.yaml"]
SECRET = re.compile(r"KEY|SECRET|TOKEN|PASSWORD")
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kuberay-refresh.yaml").read_text()))
RAYJOB = yaml.safe_load(next(m for m in MANIFESTS if "data" in m)["data"]["rayjob.yaml"])
CRONJOB = next(m for m in MANIFESTS if m["kind"] == "CronJob")
WORKFLOW = yaml.safe_load((DEPLOY / "github-refresh.yml").read_text())
DAG = ast.parse((DEPLOY / "airflow_refresh.py").read_text())
RAY = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)[1]
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine"
)


def crontab():
    """The one line of the crontab that is a job: its five fields, and its command."""
    text = (DEPLOY / "crontab").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines[:-1] if not re.match(r"[A-Z]+=", line)] == []
    *fields, command = lines[-1].split(maxsplit=5)
    return fields, command


def commands_in(name):
    """The shell commands that a file runs, and those that its comments tell to type."""
    text = (ROOT / name).read_text()
    if name.endswith("crontab"):
        return [crontab()[1]]
    if name.endswith(".service"):
        return re.findall(r"(?m)^ExecStart=(.*)$", text)
    if "kuberay" in name:
        return [RAYJOB["spec"]["entrypoint"]]
    if "airflow" in name:
        calls = [node for node in ast.walk(DAG) if isinstance(node, ast.keyword)]
        return [node.value.value for node in calls if node.arg == "bash_command"]
    if "github" in name:
        steps = WORKFLOW["jobs"]["refresh"]["steps"]
        return [step["run"] for step in steps if "embatch " in step.get("run", "")]
    if "cluster" in name:
        return re.findall(r'(?m)^#   ray exec \S+ "(.*)"$', text)
    return re.findall(r"`(embatch [^`]*)`", text)


def our_words(command):
    """The words of the embatch command in a line of shell: its name, then its arguments."""
    operator = r"&&|\|\||[<>|;{}]"
    words = shlex.split(re.sub(f"({operator})", r" \1 ", command))
    for i, word in enumerate(words):
        if word == "embatch" or word.endswith("bin/embatch") or word.startswith("jobs."):
            rest = words[i + 1 :]
            ends = [j for j, word in enumerate(rest) if re.fullmatch(operator, word)]
            module = [word.removeprefix("jobs.")] if word.startswith("jobs.") else []
            return module + rest[: min(ends, default=len(rest))]
    raise AssertionError(f"{command} does not run embatch")


@pytest.mark.parametrize(
    ("name", "n_commands"),
    [
        ("deploy/crontab", 1),
        ("deploy/embatch-refresh.service", 1),
        ("deploy/kuberay-refresh.yaml", 1),
        ("deploy/airflow_refresh.py", 1),
        ("deploy/github-refresh.yml", 2),
        ("deploy/README.md", 1),
        ("cluster.yaml", 1),
        ("deploy/cluster-gcp.yaml", 1),
    ],
)
def test_commands_are_ones_that_embatch_takes(name, n_commands):
    commands = [our_words(command) for command in commands_in(name)]
    assert len(commands) == n_commands
    for command, *arguments in commands:
        assert command in COMMANDS
        module = importlib.import_module(f"jobs.{command.replace('-', '_')}")
        config = getattr(module, command.title().replace("-", "") + "Config")
        parse(config, command, None, arguments)  # wrong ones end the process


def test_every_file_has_its_line_in_the_readme():
    text = (DEPLOY / "README.md").read_text()
    assert len(text.splitlines()) <= 40
    names = {path.name for path in DEPLOY.iterdir() if path.is_file()} - {"README.md"}
    assert names == {name for name in re.findall(r"`([\w.-]+)`", text) if (DEPLOY / name).exists()}


@pytest.mark.parametrize(
    "path", [*CLUSTERS, DEPLOY / "Dockerfile", DEPLOY / "kuberay-refresh.yaml"]
)
def test_ray_and_python_are_those_of_the_project(path):
    text = path.read_text()
    images = re.findall(r"rayproject/ray:([\d.]+)-py(\d+)", text)
    python = re.search(r"PYTHON \?= python(\S+)", (ROOT / "Makefile").read_text())[1]
    versions = re.findall(r"rayVersion: (\S+)", text)
    assert {*images} == ({(RAY, python.replace(".", ""))} if images else set())
    assert {*versions} == ({RAY} if versions else set())
    assert images or versions


@pytest.mark.parametrize("path", [*CLUSTERS, DEPLOY / "Dockerfile"])
def test_weights_that_are_fetched_beforehand_are_of_known_models(path):
    models = re.findall(r"resolve\('(.+?)'\)", path.read_text())
    assert models
    assert set(models) <= set(MODELS)


def test_the_image_holds_all_folders_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    copied = re.findall(r"(?m)^COPY --chown=ray (\w+) \w+$", (DEPLOY / "Dockerfile").read_text())
    found = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert [f"{name}*" for name in copied] == found


def test_no_secret_stands_in_a_file():
    def pairs(node):
        if isinstance(node, dict):
            if "name" in node and "value" in node:
                yield node["name"], node["value"]
            yield from (pair for pair in node.items() if isinstance(pair[1], str))
        for child in node.values() if isinstance(node, dict) else node:
            if isinstance(child, dict | list):
                yield from pairs(child)

    for document in [
        *MANIFESTS,
        RAYJOB,
        WORKFLOW,
        *(yaml.safe_load(p.read_text()) for p in CLUSTERS),
    ]:
        secrets = {value for key, value in pairs(document) if SECRET.search(str(key))}
        assert [value for value in secrets if not value.startswith("${{ secrets.")] == []
    for path in DEPLOY.iterdir():
        assert not re.search(r"AKIA\w{16}|BEGIN [A-Z ]*PRIVATE KEY|hf_\w{30}", path.read_text())


def test_cron_starts_a_refresh_every_night_and_mails_failures_alone(tmp_path):
    fields, command = crontab()
    assert fields == ["0", "3", "*", "*", "*"]
    assert "%" not in command  # cron would end the line there
    home, log = tmp_path / "srv", tmp_path / "log"
    (home / ".venv/bin").mkdir(parents=True)
    log.mkdir()
    (tmp_path / "credentials.env").write_text("AWS_REGION=eu-central-1\n")
    for old, new in [
        ("/srv/embatch", home),
        ("/var/log/embatch", log),
        ("/etc/embatch", tmp_path),
    ]:
        command = command.replace(old, str(new))
    program = home / ".venv/bin/embatch"
    for code in (0, 1):
        program.write_text(f'#!/bin/sh\necho "$@ $AWS_REGION"; echo step {code} >&2; exit {code}\n')
        program.chmod(0o755)
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
        mail = "" if code == 0 else "embatch refresh: exit code 1\nstep 0\nstep 1\n"
        assert (done.stdout, done.stderr) == (mail, "")
    assert (log / "refresh.jsonl").read_text() == "refresh corpus.toml --json eu-central-1\n" * 2


@needs_systemd
def test_systemd_takes_the_units(tmp_path):
    for path in DEPLOY.glob("embatch-refresh.*"):
        unit = re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", path.read_text())
        (tmp_path / path.name).write_text(unit.replace("User=embatch", "User=daemon"))
    units = sorted(map(str, tmp_path.iterdir()))
    assert len(units) == 2
    verify = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no"]
    done = subprocess.run([*verify, *units], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_the_timer_fires_once_a_night():
    (when,) = re.findall(r"(?m)^OnCalendar=(.*)$", (DEPLOY / "embatch-refresh.timer").read_text())
    calendar = ["systemd-analyze", "calendar", "--iterations=3", "--base-time=2026-01-01 12:00 UTC"]
    done = subprocess.run([*calendar, when], capture_output=True, text=True, timeout=60, check=True)
    times = re.findall(r"(\d{4}-\d\d-\d\d) 03:00:00", done.stdout)
    assert times[-3:] == ["2026-01-02", "2026-01-03", "2026-01-04"]


def test_a_stopped_service_gets_time_to_commit_and_counts_as_well_ended():
    unit = (DEPLOY / "embatch-refresh.service").read_text()
    for line in ("KillMode=mixed", "TimeoutStopSec=15min", "SuccessExitStatus=143"):
        assert f"\n{line}\n" in unit


def test_one_kubernetes_job_at_a_time_may_start_and_end_rayjobs_and_nothing_else():
    assert {m["kind"]: m["apiVersion"] for m in MANIFESTS} == {
        "ServiceAccount": "v1",
        "Role": "rbac.authorization.k8s.io/v1",
        "RoleBinding": "rbac.authorization.k8s.io/v1",
        "ConfigMap": "v1",
        "CronJob": "batch/v1",
    }
    role = next(m for m in MANIFESTS if m["kind"] == "Role")
    assert [(rule["apiGroups"], rule["resources"]) for rule in role["rules"]] == [
        (["ray.io"], ["rayjobs"])
    ]
    spec = CRONJOB["spec"]
    assert (spec["schedule"], spec["concurrencyPolicy"]) == ("0 3 * * *", "Forbid")
    job = spec["jobTemplate"]["spec"]
    assert (job["backoffLimit"], job["ttlSecondsAfterFinished"] > 0) == (0, True)
    assert job["template"]["spec"]["serviceAccountName"] == "embatch-refresh"
    (container,) = job["template"]["spec"]["containers"]
    script = container["command"][-1]
    assert container["command"][:-1] == ["sh", "-euc"]
    subprocess.run(["sh", "-n", "-c", script], check=True)
    verbs = set(re.findall(r"kubectl (\w+)", script))
    assert verbs <= set(role["rules"][0]["verbs"])


def test_the_rayjob_brings_gpus_from_none_and_takes_its_cluster_down():
    assert (RAYJOB["apiVersion"], RAYJOB["kind"]) == ("ray.io/v1", "RayJob")
    spec = RAYJOB["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    tries = spec["backoffLimit"] + 1
    assert CRONJOB["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] > (
        tries * spec["activeDeadlineSeconds"]
    )
    cluster = spec["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True
    head = cluster["headGroupSpec"]
    assert head["rayStartParams"] == {"num-cpus": "0"}
    gpus = {}
    for group in [head, *cluster["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "embatch-credentials"}}]
        assert "env" not in container
        assert pod["restartPolicy"] == "Never"
        gpus[group.get("groupName", "head")] = container["resources"]["limits"].get(
            "nvidia.com/gpu"
        )
        if group is not head:
            assert (group["replicas"], group["minReplicas"]) == (0, 0)
            assert group["maxReplicas"] > 0
    assert gpus == {"head": None, "cpu": None, "gpu": "1"}


def test_airflow_runs_one_refresh_at_a_time_and_catches_nothing_up():
    (dag,) = [
        node
        for node in ast.walk(DAG)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "DAG"
    ]
    given = {word.arg: getattr(word.value, "value", None) for word in dag.keywords}
    assert given["schedule"] == "0 3 * * *"
    assert (given["max_active_runs"], given["catchup"]) == (1, False)


def test_the_workflow_may_only_read_and_its_actions_are_pinned():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert WORKFLOW["concurrency"] == {"group": "embatch-refresh", "cancel-in-progress": False}
    assert WORKFLOW[True]["schedule"] == [{"cron": "0 3 * * *"}]  # YAML 1.1 reads `on` as true
    steps = WORKFLOW["jobs"]["refresh"]["steps"]
    actions = [step["uses"] for step in steps if "uses" in step]
    assert actions
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in actions)


@pytest.fixture(params=CLUSTERS, ids=lambda path: path.name)
def cluster(request):
    """A cluster file as `ray up` prepares it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(request.param.read_text()))
    validate_config(config)
    return config


def launched(config, demands):
    """How many nodes of each type Ray's autoscaler would start for tasks that wait."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    scaling = AutoscalingConfig(config, skip_content_hash=True)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=scaling.get_node_type_configs(),
        max_num_nodes=scaling.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count(
            [ResourceRequestUtil.make(demand) for demand in demands]
        ),
    )
    reply = ResourceDemandScheduler().schedule(request)
    assert reply.infeasible_resource_requests == []
    return {launch.instance_type: launch.count for launch in reply.to_launch}


def test_ray_accepts_the_cluster_file(cluster):
    types = cluster["available_node_types"]
    assert cluster["head_node_type"] == "head"
    assert types["head"]["resources"] == {"CPU": 0}
    workers = {name: node for name, node in types.items() if name != "head"}
    assert all(node["min_workers"] == 0 for node in workers.values())
    assert cluster["max_workers"] == sum(node["max_workers"] for node in workers.values())
    assert cluster["idle_timeout_minutes"] == 5
    assert {".git", ".venv", "demo"} <= set(cluster["rsync_exclude"])
    assert list(cluster["file_mounts"]) == ["/home/ray/embatch"]


def test_spot_and_on_demand_differ_in_that_alone(cluster):
    types = cluster["available_node_types"]
    spot, on_demand = types["gpu_spot"]["node_config"], types["gpu_on_demand"]["node_config"]
    assert spot.pop("InstanceMarketOptions", {}) == (
        {"MarketType": "spot"} if cluster["provider"]["type"] == "aws" else {}
    )
    if "scheduling" in spot:
        assert spot.pop("scheduling") == on_demand.pop("scheduling") | {
            "provisioningModel": "SPOT",
            "instanceTerminationAction": "DELETE",
        }
    assert spot == on_demand


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_first_gpu_node_is_on_demand_and_the_others_are_spot(cluster):
    actor = {"GPU": 1.0, "CPU": 1.0}
    assert launched(cluster, [actor]) == {"gpu_on_demand": 1}
    assert launched(cluster, [actor] * 3) == {"gpu_on_demand": 1, "gpu_spot": 2}
    assert launched(cluster, [actor] * 8) == {"gpu_on_demand": 1, "gpu_spot": 7}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_work_without_a_gpu_starts_no_gpu_node(cluster):
    assert launched(cluster, [{"CPU": 0.25}] * 8) == {"cpu": 1}
    assert launched(cluster, [{"CPU": 6.0}] * 4) == {"cpu": 2}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ray_still_forgets_that_spot_was_refused():
    """If this fails, Ray falls back to on-demand now, and cluster.yaml may put spot first."""
    from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import (
        CloudResourceMonitor,
    )
    from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

    monitor = CloudResourceMonitor()
    refused = {"instance_type": "gpu_spot", "new_instance_status": Instance.ALLOCATION_FAILED}
    monitor.notify([InstanceUpdateEvent(instance_id="1", **refused)])
    assert monitor.get_recoverable_resource_availabilities() == {}
