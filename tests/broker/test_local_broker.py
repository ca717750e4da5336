"""The broker everything else is tested on: its own life, on real Kafka."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from local.broker import LocalBroker, answers
from tidegate.errors import TidegateError
from tidegate.settings import load_settings
from tidegate.topics import create_topics


def eventually(condition: Callable[[], bool], timeout_seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def write(servers: str, topic: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        await producer.send_and_wait(topic, value)


async def read(servers: str, topic: str, count: int) -> list[bytes]:
    async with AIOKafkaConsumer(topic, bootstrap_servers=servers, auto_offset_reset="earliest") as consumer:
        return [(await asyncio.wait_for(consumer.getone(), 20)).value for _ in range(count)]


def test_records_survive_a_clean_stop_and_a_kill_on_the_same_port() -> None:
    with LocalBroker(ephemeral=True) as broker:
        settings = load_settings(bootstrap_servers=broker.bootstrap_servers, topic_prefix="kept", partitions=1)
        asyncio.run(create_topics(settings))
        servers, directory = broker.bootstrap_servers, broker.directory
        asyncio.run(write(servers, "kept.context.v1", b"before the stop"))
        broker.stop()
        assert not answers(broker.port)
        broker.start()
        asyncio.run(write(servers, "kept.context.v1", b"before the kill"))
        broker.kill()
        broker.start()
        assert broker.bootstrap_servers == servers
        assert asyncio.run(read(servers, "kept.context.v1", 2)) == [b"before the stop", b"before the kill"]
        running = broker.pid
    assert broker.pid is None
    assert running is not None
    assert gone(running)
    assert not directory.exists()


def test_another_process_takes_up_the_data(tmp_path: Path) -> None:
    with LocalBroker(data_dir=tmp_path) as first:
        settings = load_settings(bootstrap_servers=first.bootstrap_servers, topic_prefix="kept", partitions=1)
        asyncio.run(create_topics(settings))
    with LocalBroker(data_dir=tmp_path) as second:  # on other ports
        settings = load_settings(bootstrap_servers=second.bootstrap_servers, topic_prefix="kept", partitions=1)
        assert not any(asyncio.run(create_topics(settings)).values())


def test_a_taken_port_is_told_with_what_to_do(broker: LocalBroker) -> None:
    with pytest.raises(TidegateError) as caught, LocalBroker(broker.port, ephemeral=True):
        pass
    assert f"Port {broker.port} on 127.0.0.1 is taken (a Kafka broker answers there)" in caught.value.message
    assert "--port" in caught.value.hint


def test_a_second_broker_on_the_same_data_is_told_so(tmp_path: Path) -> None:
    with LocalBroker(data_dir=tmp_path), pytest.raises(TidegateError) as caught, LocalBroker(data_dir=tmp_path):
        pass
    assert f"Another broker uses {tmp_path}" in caught.value.message
    assert "--data-dir" in caught.value.hint


def test_a_broker_that_ends_while_starting_shows_the_end_of_its_log() -> None:
    with pytest.raises(TidegateError) as caught, LocalBroker(ephemeral=True, properties={"node.id": -7}):
        pass
    assert "broker.log" in caught.value.message
    assert "node.id" in caught.value.message


def test_a_broker_does_not_outlive_the_process_that_started_it() -> None:
    script = (
        "import time; from local.broker import LocalBroker; b = LocalBroker(ephemeral=True); b.start();"
        "print(b.pid, b.directory, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, directory = parent.stdout.readline().split()
        assert not gone(int(pid))
        parent.kill()
    assert eventually(lambda: gone(int(pid)))
    assert eventually(lambda: not Path(directory).exists())


def test_ctrl_c_to_the_whole_group_stops_the_command_cleanly() -> None:
    command = [sys.executable, "-m", "tidegate", "broker", "--port", "0", "--ephemeral"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as running:
        assert running.stdout is not None
        lines = iter(running.stdout.readline, "")
        address = next(line for line in lines if "answers at" in line).split()[-1]
        directory = Path(next(line for line in lines if "data and log" in line).split()[3])
        assert answers(int(address.rpartition(":")[2]))
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait(30) == 0
    assert not directory.exists()
