"""`up`: start the stack, say when it is ready, keep it running, stop it in order."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import redis

from local import ports
from local.console import Console
from local.folder import DataFolder
from local.ready import wait_ready
from local.reload import API, WORKERS, Watch
from local.server import answers
from local.stack import Options, Stack, build, listen
from local.supervisor import Supervisor
from shared import keys
from shared.beside import data_folder
from shared.catalog import Catalog, load_catalog
from shared.credentials import FLOWER_USER
from shared.errors import ConfigError, StoreUnavailable
from shared.loopback import needs_keys
from shared.redis_url import Address
from shared.registry_store import RegistryStore
from shared.settings import load_settings
from shared.store import check_server, client

_STORE_S = 10.0
KEYS_S = 0.5  # between two looks for the first API key
START_DEATHS = 3  # a process that dies so often before the first ready will not get better by itself


def up(options: Options) -> int:
    """Blocks until SIGINT, SIGTERM or SIGHUP; returns the exit code. Raises ConfigError before anything is started."""
    catalog = load_catalog(options.models)
    settings = load_settings()
    if options.redis_url:
        _check(settings.redis_address())
    folder = DataFolder(options.data_dir)
    folder.lock()
    try:
        with listen(options) as listener:
            stack = build(options, settings, folder.lock_fd, listener)
            auth = needs_keys(settings.auth, listener.getsockname()[0])
            return asyncio.run(_Up(options, stack, catalog, folder, listener, auth=auth).run())
    finally:
        folder.release()


class _Up:
    """One run. Everything in the main thread's event loop."""

    def __init__(
        self,
        options: Options,
        stack: Stack,
        catalog: Catalog,
        folder: DataFolder,
        listener: socket.socket,
        *,
        auth: bool,
    ) -> None:
        self._options, self._stack, self._catalog, self._folder = options, stack, catalog, folder
        self._listener, self._auth = listener, auth
        self._apis, self._workers = [spec.name for spec in stack.apis], [spec.name for spec in stack.workers]
        self._console = Console(sys.stdout, max(map(len, ("ml-service", *self._apis, *self._workers))))
        self._supervisor = Supervisor(self._console, self._changed)
        self._stop = asyncio.Event()
        self._ready = False
        self._code = 0

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._asked_to_stop)
        jobs: list[asyncio.Task[Any]] = [asyncio.create_task(self._start())]
        if self._options.reload:
            jobs.append(asyncio.create_task(self._reload()))
        stopped = asyncio.create_task(self._stop.wait())
        try:
            while not stopped.done():
                done, _ = await asyncio.wait({stopped, *jobs}, return_when=asyncio.FIRST_COMPLETED)
                for job in [job for job in jobs if job in done]:
                    jobs.remove(job)
                    job.result()  # a fault of our own: stop everything and show it
        finally:
            for job in (stopped, *jobs):
                job.cancel()
            await self._shut_down()
        return self._code

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            self._supervisor.hurry()
        self._stop.set()

    async def _start(self) -> None:
        stack, began = self._stack, time.monotonic()
        self._console.say(f"starting; data in {self._options.data_dir.resolve()}")
        if stack.redis is not None:
            self._supervisor.start([stack.redis])
            while not await asyncio.to_thread(self._redis_answers):  # noqa: ASYNC110 - another process's state
                await asyncio.sleep(0.02)
            # Outright: the folder is ours, so what seems to live in it has just been killed.
            await asyncio.to_thread(partial(self._store(self._catalog).seed, exact=True, outright=True))
        self._supervisor.start([*stack.workers, stack.flower])
        if self._auth:
            await self._first_key()
        self._supervisor.start(stack.apis)
        models = [name for name, spec in self._catalog.models.items() if spec.load == "preload"]
        await wait_ready(stack.api_url, stack.flower_url, models, self._console.say)
        self._ready = True
        self._console.say(
            f"ready after {time.monotonic() - began:.1f} s, serving {', '.join(self._catalog.models)}\n"
            f"  API     {stack.api_url}\n"
            f"  Console {stack.api_url}/console   (try a model, watch the service)\n"
            f"  Flower  {stack.flower_url}   (user {FLOWER_USER}, password in {stack.flower_password})\n"
            "Ctrl-C stops everything; accepted jobs stay in the data folder"
        )

    async def _first_key(self) -> None:
        """Returns when the API may start: it refuses to where callers need a key and there is none."""
        address = self._stack.redis_address
        if await asyncio.to_thread(_has_keys, address):
            return
        self._console.say(
            f"callers need an API key on {self._stack.api_host or '*'}; the API starts when there is one. Make it by\n"
            f"  {_in_folder(self._options.data_dir)}python -m api keys create --name NAME --scope admin\n"
            "or start again with ML_AUTH=off"
        )
        while not await asyncio.to_thread(_has_keys, address):  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(KEYS_S)

    def _store(self, catalog: Catalog) -> RegistryStore:
        return RegistryStore(client(self._stack.redis_address, timeout_s=_STORE_S, connect_s=_STORE_S), catalog)

    def _redis_answers(self) -> bool:
        pid = self._supervisor.pids.get("redis")
        return pid is not None and answers(self._stack.redis_address, pid)

    async def _reload(self) -> None:
        watch = Watch(self._options.models, self._catalog)
        while True:
            await asyncio.sleep(0.5)
            parts = await asyncio.to_thread(watch.touched)
            names = self._apis * (API in parts) + self._workers * (WORKERS in parts)
            if parts == {API, WORKERS}:
                await asyncio.to_thread(self._take_in)
            if names:
                self._console.say(f"files changed: restarting {', '.join(names)}")
            for name in names:
                if name in self._supervisor.children:
                    self._supervisor.children[name].restart()

    def _take_in(self) -> None:
        """Whoever edits restarts everything: no version needs a new name."""
        try:
            self._store(load_catalog(self._options.models)).seed(exact=True, outright=True)
        except (ConfigError, redis.RedisError) as error:
            self._console.say(f"the models file is not taken in: {error}")

    def _changed(self) -> None:
        self._folder.write(
            {
                "api_url": self._stack.api_url,
                "flower_url": self._stack.flower_url,
                "redis_url": self._stack.redis_url,
                "processes": self._supervisor.pids,
            }
        )
        if self._ready or self._stop.is_set() or self._options.reload:
            return
        for name, child in self._supervisor.children.items():
            if child.deaths >= START_DEATHS:
                self._console.say(
                    f"{name} died {child.deaths} times while starting: giving up; its own words are above"
                )
                self._code = 1
                self._stop.set()

    async def _shut_down(self) -> None:
        self._console.say("stopping (Ctrl-C again: do not wait)")
        ports.let_go(self._listener)
        await self._supervisor.stop(self._apis, [*self._workers, "flower"])  # then the rest: redis, all on its disk
        self._console.say("stopped")


def _check(address: Address) -> None:
    with client(address, timeout_s=_STORE_S, connect_s=_STORE_S) as store:
        try:
            check_server(store)
        except StoreUnavailable as error:
            raise ConfigError(f"ML_REDIS_URL: no server answers at {address.place()}: {error.message}") from None


def _has_keys(address: Address) -> bool:
    with client(address, timeout_s=_STORE_S, connect_s=_STORE_S) as store, contextlib.suppress(redis.RedisError):
        return bool(store.exists(keys.KEYS))
    return False


def _in_folder(data_dir: Path) -> str:
    """What a command needs before it to find this `up` (shared/beside.py), from here."""
    return "" if data_dir == data_folder() else f"ML_DATA_DIR={shlex.quote(str(data_dir))} "
