"""The kinds of processes of the application, and how each is found.

Called by the cases that kill. Invariant: only processes of that application are found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import psutil

from actors.processes import Pack

KINDS: Mapping[str, Callable[[str], bool]] = {
    "engine": lambda line: line.startswith("ray::ServeReplica:engine-"),
    "ingress": lambda line: line.startswith("ray::ServeReplica:mulm:ingress"),
    "serve controller": lambda line: line.startswith("ray::ServeController"),
    "ledger": lambda line: line.startswith("ray::LedgerHost"),
    "store": lambda line: line.startswith("ray::StoreHost"),
    "limiter": lambda line: line.startswith("ray::Limit"),
    "train worker": lambda line: "RayTrainWorker" in line,
    "train controller": lambda line: "TrainController" in line,
    "aggregator": lambda line: line.startswith("ray::OuterSyncHost"),
    "island": lambda line: line.startswith("ray::IslandWorker"),
    "job driver": lambda line: "-m jobs.train" in line and "--run" in line,
    "build driver": lambda line: "-m jobs.prepare" in line and "--run" in line,
    "job supervisor": lambda line: "JobSupervisor" in line,
    "dashboard": lambda line: "ray/dashboard/dashboard.py" in line,
    "dashboard agent": lambda line: "DashboardAgent" in line,
    "runtime env agent": lambda line: "RuntimeEnvAgent" in line,
    "gcs": lambda line: "/gcs/gcs_server" in line,
    "raylet": lambda line: "/raylet/raylet" in line,
    "keeper": lambda line: "-m jobs.keeper" in line,
    "head": lambda line: "ray.scripts.scripts start --head" in line,
}


def victims(pack: Pack, kind: str) -> list[psutil.Process]:
    """The living processes of a kind, by their ids."""
    is_one = KINDS[kind]
    found = [process for process in pack.find() if is_one(line_of(process))]
    return sorted(found, key=lambda process: process.pid)


def line_of(process: psutil.Process) -> str:
    """A process's command line; empty when it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kind_of(process: psutil.Process) -> str:
    """What a process is, in a word."""
    line = line_of(process)
    named = next((kind for kind, is_one in KINDS.items() if is_one(line)), "")
    return named or line.partition(" ")[0].rpartition("/")[2]
