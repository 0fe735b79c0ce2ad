"""A small fleet measured, and the same one simulated: is `fleet_model.py` right?

`python benchmarks/fleet_measured.py MODEL`, with the extra `cluster`: a Ray cluster of two nodes on this machine, three
replicas of MODEL whose steps are slowed down to a pace (`paced_engine.py`), people who ask as those of the simulation
do. MODEL should be tiny, never end an answer by itself, and write text whose tokens are the same when it is read again,
which random weights do not: `write_talker(endless=True)` of the tests. Prints a row of each.
"""

import argparse
import asyncio
import json
import math
import os
import random
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx
import ray
from ray import serve
from ray.cluster_utils import Cluster

from bmqwen.cluster.application import build
from bmqwen.cluster.config import parse_config
from bmqwen.cluster.engine_replica import EngineReplica
from bmqwen.cluster.running import ENVIRONMENT
from bmqwen.serve.pool import replica
from fleet_model import Box, Fleet, Outcome, Users, percentile

REPLICAS = 3
SEQUENCES = 4
READ_RATE, STEP_S = 200.0, 0.05
PEOPLE = Users(think_s=6.0, turns=4.0, question=70.0, answer=40.0, spread=0.5, instructions=0, context=2048)
# Tokens of a word of three digits and a blank, and around a question, with the tokenizer of the tests' tiny models.
WORD, TEMPLATE = 4, 27
PORT = 8470


class PacedReplica(EngineReplica):
    """A replica whose engine has a pace."""

    async def __init__(self, *arguments: Any) -> None:  # type: ignore[misc]
        replica.ENGINE_MODULE = "paced_engine"
        await super().__init__(*arguments)


async def measure(users: int, seconds: float) -> Outcome:
    """Let people ask for so long; the first third is not counted."""
    chance = random.Random(1)
    rows: list[tuple[float, float, int, int, bool]] = []
    begin = time.monotonic()
    end = begin + seconds

    def length(median: float) -> int:
        return max(1, round(chance.lognormvariate(math.log(median), PEOPLE.spread)))

    async def person(client: httpx.AsyncClient) -> None:
        messages: list[dict[str, str]] = []
        await asyncio.sleep(chance.uniform(0, PEOPLE.think_s))
        while time.monotonic() < end:
            # No two questions are alike.
            count = max(1, (length(PEOPLE.question) - TEMPLATE) // WORD)
            words = " ".join(str(chance.randrange(100, 999)) for _ in range(count))
            messages.append({"role": "user", "content": words})
            asked = time.monotonic()
            first, text = 0.0, ""
            usage: dict[str, Any] = {}
            body = {
                "messages": messages,
                "max_tokens": length(PEOPLE.answer),
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            url = f"http://127.0.0.1:{PORT}/v1/chat/completions"
            async with client.stream("POST", url, json=body) as response:
                async for line in response.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    event = json.loads(line[6:])
                    usage = event.get("usage") or usage
                    said = "".join(
                        choice["delta"].get("content") or "" for choice in event.get("choices", [])
                    )
                    if said and not first:
                        first = time.monotonic()
                    text += said
            cached = usage["prompt_tokens_details"]["cached_tokens"]
            later = len(messages) > 1
            # More than what all prompts have in common.
            rows.append((asked, first - asked, usage["completion_tokens"], cached - 30 * later, later))
            messages.append({"role": "assistant", "content": text})
            if chance.random() < 1 / PEOPLE.turns or usage["total_tokens"] > PEOPLE.context // 2:
                messages = []
            await asyncio.sleep(chance.expovariate(1 / PEOPLE.think_s))

    async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=users)) as client:
        await asyncio.gather(*(person(client) for _ in range(users)))
    counted = [row for row in rows if row[0] - begin >= seconds / 3]
    times = sorted(row[1] for row in counted)
    return Outcome(
        REPLICAS,
        users,
        "measured",
        len(counted),
        percentile(times, 0.5),
        percentile(times, 0.95),
        percentile(times, 0.99),
        fmean(row[3] > 0 for row in counted if row[4]),
        math.nan,
        sum(row[2] for row in counted) / (seconds * 2 / 3),
    )


def main() -> None:
    """Measure and simulate what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--users", type=int, nargs="+", default=[12, 24])
    parser.add_argument("--seconds", type=float, default=90.0)
    given = parser.parse_args()
    # Ray's workers are to yield to all else by default.
    os.environ |= {"RAY_worker_niceness": "0"}
    os.environ["PACE"] = f"{READ_RATE} {STEP_S}"
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    store = 100 << 20
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": store, "include_dashboard": False},
    )
    for _ in range(2):
        cluster.add_node(num_cpus=4, object_store_memory=store)
    model = {
        "model": str(given.model.absolute()),
        "quant": "f32",
        "replicas": REPLICAS,
        "threads": 2,
        "sequences": SEQUENCES,
        "draft": "off",
        "cache_mb": 256,
    }
    config = parse_config({"models": [model], "port": PORT, "front": {"cpus": 0.5}}, "the benchmark")
    outcomes = []
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        serve.start(
            http_options={"host": "127.0.0.1", "port": PORT},
            controller_options={"runtime_env": {"env_vars": ENVIRONMENT}},
        )
        serve.run(build(config, PacedReplica), name="bmqwen", route_prefix="/")
        box = Box(READ_RATE, tuple(count / STEP_S for count in range(1, SEQUENCES + 1)), SEQUENCES)
        for users in given.users:
            outcomes.append(asyncio.run(measure(users, given.seconds)))
            outcomes.append(Fleet(REPLICAS, users, box=box, people=PEOPLE).run(20 * given.seconds))
        serve.shutdown()
    finally:
        ray.shutdown()
        cluster.shutdown()
    for outcome in outcomes:
        print(outcome, file=sys.stdout)


if __name__ == "__main__":
    main()
