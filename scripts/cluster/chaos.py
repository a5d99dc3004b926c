"""Kill workers, nodes and drivers at random over runs of cells, and see that nothing is lost, doubled or changed.

    python scripts/cluster/chaos.py [--place processes ray slurm] [--store disk full bucket] [--repeats 20] [--cells 40]

Each repetition runs the cells to the end, starting the driver again whenever it was killed, and compares records and
features with those of an undisturbed run. The store is a directory; with `full` a separate small disk (tmpfs, needs
root) that is filled to the last byte for seconds at a time; with `bucket` an S3 server started here, to which every
connection is cut, in the middle of whatever it carries, and refused for seconds. ray: three raylets on this host, of
which any but the head's may be killed, and others join late. slurm: needs a cluster, as scripts/cluster/test-cluster
starts one (`TCD_BENCH_RUN=scripts/cluster/chaos.py scripts/cluster/test-cluster --place slurm`); jobs called tcd-bench
are cancelled there.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
os.environ["PYTHONPATH"] = str(ROOT / "tests")
os.environ["RAY_AUTH_MODE"] = "token"
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

from sleeping import make_launch, make_runner_for  # noqa: E402

from bench.experiment.executors import Ray, Slurm  # noqa: E402
from bench.store.store import Store  # noqa: E402
from bench.workers.launch import Launch  # noqa: E402
from bench.workers.leases import Leases  # noqa: E402
from bench.workers.local import ThisMachine  # noqa: E402
from bench.workers.loop import Loop, WorkerContext  # noqa: E402
from bench.workers.pool import Executor, WorkerPool  # noqa: E402

WORK = "sleeping:make_runner_for"
LEASE_S = 4.0
STORE_RETRY_S = 60.0


def drive(kind: str, location: str, name: str, folder: str) -> None:
    """What a driver does: tend workers until none is needed."""
    store = Store(location, store_retry_s=STORE_RETRY_S)
    launch = Launch.load(store.files, name)
    executor: Executor
    if kind == "processes":
        executor = ThisMachine(location, name, 3, (), WORK)
    elif kind == "ray":
        from bench.workers.ray import RayCluster

        executor = RayCluster(location, name, Ray(address=os.environ["CHAOS_RAY"], cpus=1.0), "cpu", WORK)
    else:
        from bench.workers.slurm import JobArray

        executor = JobArray(location, name, Slurm(workers=3, folder=folder), WORK)
    pool = WorkerPool(executor, store, f"{name}", started=int(time.time()) % 100_000)
    while pool.reconcile(len(launch.cells)):
        time.sleep(0.2)
    pool.close()


class RayNodes:
    """Raylets of one host, started one after the other, killed without warning."""

    def __init__(self, count: int) -> None:
        self.port = 20_000 + random.randrange(10_000)  # below those that a system hands out
        os.environ["CHAOS_RAY"] = f"127.0.0.1:{self.port}"
        self._ray("start", "--head", f"--port={self.port}", "--include-dashboard=false", "--num-cpus=1")
        for _ in range(count - 1):
            self.join()

    def join(self) -> None:
        self._ray("start", f"--address=127.0.0.1:{self.port}", "--num-cpus=1")

    def kill_one(self) -> None:
        """The youngest raylet, and with it its workers."""
        raylets = [process for process in self._processes() if process.name() == "raylet"]
        if len(raylets) > 1:
            max(raylets, key=psutil.Process.create_time).kill()

    def stop(self) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _processes(self) -> list[psutil.Process]:
        """The processes of this cluster, which name its port; another cluster of the host is left alone."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = " ".join(process.info["cmdline"] or ())
            if "ray" in words and (f":{self.port}" in words or f"port={self.port}" in words):
                found.append(process)
        return found

    def _ray(self, *arguments: str) -> None:
        command = [str(Path(sys.executable).with_name("ray")), *arguments]
        if arguments[0] == "start":
            command += ["--node-ip-address=127.0.0.1", "--disable-usage-stats"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Disk:
    """A directory to store in."""

    trouble: str | None = None

    def __init__(self, folder: Path) -> None:
        self.location = str(folder / "run")

    def strike(self, seconds: float) -> None:
        """Trouble for so long; a sound disk has none."""

    def close(self) -> None:
        """Leave nothing behind."""


class SmallDisk(Disk):
    """A separate file system, which another writer fills at times."""

    trouble = "full"

    def __init__(self, folder: Path) -> None:
        self._mount = folder / "small"
        self._mount.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", self._mount], check=True)  # noqa: S607
        self.location = str(self._mount / "run")

    def strike(self, seconds: float) -> None:
        """No byte is left for so long."""
        filler = self._mount / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        time.sleep(seconds)
        filler.unlink()

    def close(self) -> None:
        """Unmount."""
        subprocess.run(["umount", "--lazy", self._mount], check=True)  # noqa: S607


class Bucket(Disk):
    """A bucket on an S3 server of our own, reached through a relay that can be cut."""

    trouble = "outage"

    def __init__(self, folder: Path) -> None:
        import boto3

        self._ports = free_port(), free_port()
        server = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._ports[1])]
        self._server = subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{self._ports[0]}"
        wait_for_port(self._ports[1])
        self._relay = self._connect()
        boto3.client("s3").create_bucket(Bucket="chaos")
        self.location = "s3://chaos/run"

    def _connect(self) -> subprocess.Popen[bytes]:
        relay = subprocess.Popen([sys.executable, __file__, "--relay", *map(str, self._ports)])
        wait_for_port(self._ports[0])
        return relay

    def strike(self, seconds: float) -> None:
        """Connections are cut, and refused for so long."""
        self._relay.kill()
        self._relay.wait()
        time.sleep(seconds)
        self._relay = self._connect()

    def close(self) -> None:
        """End both processes."""
        for process in (self._relay, self._server):
            process.kill()
            process.wait()


STORES = {"disk": Disk, "full": SmallDisk, "bucket": Bucket}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"no server listens at port {port}")


def relay(port: int, target: int) -> None:
    """Carry bytes between two ports until killed."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(carry(reader, back), carry(there, writer))

    async def serve() -> None:
        async with await asyncio.start_server(accept, "127.0.0.1", port) as server:
            await server.serve_forever()

    asyncio.run(serve())


def repeat(kind: str, where: str, cells: int, dice: random.Random, calm: dict[str, object]) -> tuple[str, bool]:
    """One run with kills; what happened, and whether it ended as the calm one."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        disk = STORES[where](Path(folder))
        stack.callback(disk.close)
        nodes = RayNodes(3) if kind == "ray" else None
        if nodes:
            stack.callback(nodes.stop)
        log = Path(folder) / "log"
        store = Store(disk.location, store_retry_s=STORE_RETRY_S)
        common = {"lease_s": LEASE_S, "max_attempts": 50, "store_retry_s": STORE_RETRY_S}
        make_launch(store, log, cells, seconds=0.15, groups=3, chunks=2, common=common)
        events: Counter[str] = Counter()
        folders = str(Path(folder) / "slurm")
        command = [sys.executable, __file__, "--drive", kind, store.location, "launch", folders]
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 600
        while (code := driver.poll()) != 0 and time.monotonic() < end:
            if code is not None:
                driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                continue
            with suppress(subprocess.TimeoutExpired):
                driver.wait(dice.uniform(0.5, 2.0))
            if driver.poll() is not None or sum(events.values()) >= 8 or not log.exists():
                continue
            trouble = [disk.trouble] * 3 if disk.trouble else []
            event = dice.choice(["worker"] * 3 + ["driver", *(["node", "join"] if nodes else []), *trouble])
            events[event] += 1
            if event == disk.trouble:
                disk.strike(dice.uniform(0.5, 5.0))
            elif event == "worker":
                pids = {int(line.split()[2]) for line in log.read_text().splitlines()[-6:]}
                with suppress(ProcessLookupError):
                    os.kill(dice.choice(sorted(pids)), signal.SIGKILL)
            elif event == "driver":
                driver.kill()
                driver.wait()
            elif nodes:
                nodes.kill_one() if event == "node" else nodes.join()
        driver.kill()
        driver.wait()
        if kind == "slurm":  # tasks of drivers that were killed find nothing left to do, but may not have looked yet
            subprocess.run(["scancel", "--me", "--name=tcd-bench"], check=True)  # noqa: S607
        begun = len(log.read_text().splitlines())
        said = ", ".join(f"{count} {event}" for event, count in sorted(events.items()))
        found = contents(store)
        return f"{said}; {begun} chunks begun, {len(found)} records", found == calm


def contents(store: Store) -> dict[str, object]:
    """What a run left, without times: what must not differ."""
    return {r.key: (r.status, r.images, store.cell(r.key).features("e")["image"].tolist()) for r in store.records()}


def calm_run(cells: int) -> dict[str, object]:
    """The undisturbed run, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "run")
        launch = make_launch(store, Path(folder) / "log", cells, groups=3, chunks=2)
        context = WorkerContext()
        work, todo = make_runner_for(launch, store, context)
        for _ in Loop(work, store, Leases(store.files, "calm"), launch.name, context).run(todo):
            pass
        return contents(store)


def main() -> int:
    if sys.argv[1:2] == ["--drive"]:
        drive(*sys.argv[2:6])
        return 0
    if sys.argv[1:2] == ["--relay"]:
        relay(int(sys.argv[2]), int(sys.argv[3]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", nargs="+", choices=("processes", "ray", "slurm"), default=["processes", "ray"])
    parser.add_argument("--store", nargs="+", choices=STORES, default=["disk"])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--cells", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    choice = parser.parse_args()
    calm = calm_run(choice.cells)
    bad = 0
    runs = [(kind, where, i) for kind in choice.place for where in choice.store for i in range(choice.repeats)]
    for kind, where, i in runs:
        what, equal = repeat(kind, where, choice.cells, random.Random(choice.seed + i), calm)
        bad += not equal
        print(f"{kind} {where} {i + 1}/{choice.repeats}: {what}; {'equal' if equal else 'DIFFERS'}", flush=True)
    print(f"{bad} of {len(runs)} runs differ from the undisturbed one")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
