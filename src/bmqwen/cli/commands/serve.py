"""`bmqwen serve`."""

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from bmqwen.cli import options
from bmqwen.cli.options import device_ids
from bmqwen.cli.terminal import note, progress_bar
from bmqwen.errors import InputError, MissingDependencyError
from bmqwen.util.installation import install_command

if TYPE_CHECKING:
    from bmqwen.artifact.bundle import Bundle
    from bmqwen.generate.retrieval import Task
    from bmqwen.serve.pool.wire import EngineConfig

KEY_VARIABLE = "BMQWEN_API_KEY"
# Tokens of a text at most, of models for embeddings and reranking on the CPU.
RETRIEVAL_CONTEXT = 8192


@options.grouped(sampling=options.sampling_options(server=True), precision=options.precision)
def serve(
    model: options.Model = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; 0.0.0.0 means all.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="API key that clients must send; repeatable. Other users can see it in the process list: prefer "
            f"{KEY_VARIABLE} or --api-key-file.",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with API keys, one per line.")
    ] = None,
    insecure_no_key: Annotated[
        bool,
        typer.Option(
            "--insecure-no-key", help="Accept requests without a key from anyone who can reach --host."
        ),
    ] = False,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Origin of another web page that may use the server, such as https://chat.example.org; "
            "repeatable.",
        ),
    ] = None,
    embedding: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Embedding model to serve as well, at /v1/embeddings."),
    ] = None,
    rerank: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Reranking model to serve as well, at /v1/rerank.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model in requests; default: its own.")] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Another name that requests may use for it, such as gpt-4o; repeatable. '*' stands for any name.",
        ),
    ] = None,
    engine: options.Engine = "auto",
    device: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Chips to serve on, such as 0,1,2; a model in N parts takes N of them for each engine.",
        ),
    ] = None,
    replicas: Annotated[
        int, typer.Option(min=1, max=64, help="Engines to run side by side, on the CPU or the simulator.")
    ] = 1,
    sequences: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            help="Requests that an engine answers at once, on the CPU; default: as many as half of the free memory "
            "holds, 8 at most. A bundle for a chip has its own number.",
        ),
    ] = None,
    reproducible: Annotated[
        bool,
        typer.Option(
            "--reproducible",
            help="Compute on the CPU so that no answer depends on which others are computed at the same time; one "
            "request alone takes a fifth longer, or more.",
        ),
    ] = False,
    cache_mb: Annotated[
        int,
        typer.Option(min=0, help="Host memory per engine for the KV caches of waiting conversations, in MB."),
    ] = 1024,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait in the queue.")] = 128,
    time_limit: Annotated[
        float, typer.Option(min=1, help="Seconds that a request may take, from its arrival.")
    ] = 600.0,
    keep_conversations: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder in which the KV caches of conversations outlive the server, as many as --cache-mb holds.",
        ),
    ] = None,
    answer_seconds: Annotated[
        float,
        typer.Option(
            min=1,
            help="Seconds of writing after which an answer ends, if neither its request nor --max-tokens limits "
            "its length.",
        ),
    ] = 120.0,
    stop_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds that answers may take to finish after Ctrl-C.")
    ] = 30.0,
    hang_seconds: Annotated[
        float,
        typer.Option(
            min=1,
            help="Seconds that an engine told to stop an answer may be silent before it is restarted; on "
            "the simulator, longer than a launch takes.",
        ),
    ] = 300.0,
    load_seconds: Annotated[
        float, typer.Option(min=1, help="Seconds that an engine may take to load before it is restarted.")
    ] = 900.0,
    strict_fields: Annotated[
        bool,
        typer.Option(
            "--strict-fields",
            help="Refuse requests with fields that have no effect, instead of reporting them in the header "
            "x-bmqwen-ignored.",
        ),
    ] = False,
    *,
    sampling: options.Sampling,
    precision: "options.PrecisionOptions",
    adapter: options.Adapter = None,
    threads: options.Threads = None,
    context: options.Context = None,
    draft: options.Draft = "auto",
    offline: options.Offline = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not log requests.")] = False,
) -> None:
    """Serve MODEL: OpenAI's API at /v1, a web page at /. Ctrl-C lets running answers finish, then stops."""
    from bmqwen.hub.catalog import check_name

    for each in (model, embedding, rerank):
        check_name(each)  # said before the server is imported, which takes a while
    # First of what follows, for the rooms of the server need the same packages.
    server = _server()
    import asyncio

    from bmqwen.engine import params_of
    from bmqwen.generate.params import SamplingParams, choose_params
    from bmqwen.resolve import resolve_bundle
    from bmqwen.serve.defaults import Limits
    from bmqwen.serve.http.keys import ApiKeys
    from bmqwen.serve.http.middleware import LOCAL_NAMES, AccessRules
    from bmqwen.serve.pool.sequences import sequences_of
    from bmqwen.serve.pool.wire import EngineConfig

    choose_params(SamplingParams(), sampling)  # a wrong value is refused before anything is loaded
    given = api_key or []
    if variable := os.environ.pop(KEY_VARIABLE, ""):
        given = [*given, variable]
    keys = ApiKeys.read(given, api_key_file)
    local = server.is_local(host)
    rules = AccessRules(
        keys,
        hosts=frozenset({*LOCAL_NAMES, host}) if local and not keys else None,
        origins=[_origin(text) for text in cors_origin or ()],
    )
    server.check_exposure(host, rules, waived=insecure_no_key)
    chips = device_ids(device) if device is not None else []
    if chips and replicas > 1:
        raise InputError("give either --device or --replicas")
    with server.bind(host, port) as listener:
        with progress_bar() as bar:
            bundle = resolve_bundle(
                model, precision, adapter=adapter, offline=offline, progress=bar, chats=True, task="chat"
            )
            wanted: dict[Task, str | None] = {"embedding": embedding, "rerank": rerank}
            others = [
                (resolve_bundle(other, precision, offline=offline, progress=bar, task=task), task)
                for task, other in wanted.items()
                if other is not None
            ]
            if draft not in ("auto", "off"):
                drafting = resolve_bundle(draft, precision, offline=offline, progress=bar)
                draft = str(drafting.place.absolute())
        _require_room([bundle, *(other for other, _ in others)], engine, chips[0] if chips else 0)
        config = EngineConfig(
            str(bundle.place.absolute()),
            engine,
            threads or max(1, len(os.sched_getaffinity(0)) // replicas),
            context,
            saved_bytes=cache_mb << 20,
            draft=draft,
            sequences=sequences_of(bundle, sequences, context, replicas),
            reproducible=reproducible,
            hang_seconds=hang_seconds,
            load_seconds=load_seconds,
        )
        groups = chip_groups(bundle, chips)
        engines = [replace(config, devices=group) for group in groups] or [config] * replicas
        if keep_conversations is not None:
            folder = keep_conversations.absolute()
            engines = [
                replace(engine, kept=str(folder / str(number))) for number, engine in enumerate(engines)
            ]
        defaults = choose_params(params_of(bundle), sampling)
        if "max_tokens" not in sampling:
            defaults = replace(defaults, seconds=answer_seconds)
        limits = Limits(queue=queue, seconds=time_limit)
        served = server.model_of(bundle, name or bundle.model, defaults, limits)
        served = replace(served, aliases=tuple(alias or ()))
        beside = [
            (
                server.model_of(other, other.model, SamplingParams(), limits, task),
                [replace(_retrieval(config, other, task), devices=(chips[0] if chips else 0,))],
            )
            for other, task in others
        ]
        names = [one.name for one in (served, *(model for model, _ in beside))]
        if twice := next((one for one in names if names.count(one) > 1), None):
            raise InputError(f"two of these models are called {twice}: give the first one another --name")
        _log(quiet)
        address = server.url(listener)
        for each in (served, *(model for model, _ in beside)):
            note(f"{each.name} \u00b7 {each.precision} \u00b7 loading ...")

        def ready(engine_name: str, at_once: int) -> None:
            together = f" \u00b7 {at_once} answers at once" if at_once > 1 else ""
            note(f"{engine_name}{together} \u00b7 page {address} \u00b7 API {address}/v1 \u00b7 Ctrl-C stops")

        asyncio.run(
            server.serve(
                [(served, engines), *beside],
                rules,
                listener,
                stop_seconds=stop_seconds,
                strict_fields=strict_fields,
                on_ready=ready,
            )
        )
    note("stopped")


def _retrieval(config: "EngineConfig", bundle: "Bundle", task: "Task") -> "EngineConfig":
    """Return what the engine of a model beside the one that chats is to load."""
    on_cpu = bundle.kind == "onnx"
    return replace(
        config,
        model=str(bundle.place.absolute()),
        context_length=min(bundle.config.max_position_embeddings, RETRIEVAL_CONTEXT) if on_cpu else None,
        engine="auto" if on_cpu else config.engine,
        saved_bytes=0,
        draft="off",
        sequences=1,
        task=task,
    )


def chip_groups(bundle: "Bundle", chips: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the chips of each engine, in the order in which they were named; one alone is an engine's first.

    Raises InputError where the parts of the bundle do not come out even.
    """
    count = len(bundle.parts) if len(chips) > 1 and bundle.kind == "bmodel" else 1
    if len(chips) % count:
        raise InputError(
            f"--device {','.join(map(str, chips))}: {bundle.model} was compiled for {count} chips, "
            f"name {count} for each engine"
        )
    return [tuple(chips[i : i + count]) for i in range(0, len(chips), count)]


def _require_room(bundles: "Sequence[Bundle]", engine: str, chip: int) -> None:
    """Raise InputError where the models for a chip do not fit on it side by side."""
    from bmqwen.artifact.fit import memory_findings, together
    from bmqwen.chip.system import System
    from bmqwen.doctor.examination import find_request
    from bmqwen.quant.precision import PrecisionOptions
    from bmqwen.util.progress import Silent

    compiled = [bundle for bundle in bundles if bundle.kind == "bmodel"]
    if len(compiled) < 2 or engine == "sim":
        return
    requests = [
        find_request(str(bundle.place), PrecisionOptions(), None, offline=True, progress=Silent())
        for bundle in compiled
    ]
    for finding in memory_findings(together(requests), System(), device=chip):
        if finding.level == "error":
            raise InputError(f"{finding.text}: {finding.fix}")


def _server() -> ModuleType:
    """Import the server's module. Raises MissingDependencyError where what it stands on is not installed."""
    try:
        from bmqwen.serve.http import server
    except ImportError as error:
        raise MissingDependencyError(f"the server needs {error.name}: {install_command('serve')}") from error
    return server


def _origin(text: str) -> str:
    """Return an origin as browsers send it. Raises InputError for anything else."""
    found = re.fullmatch(r"(\*|[a-z][a-z0-9+.-]*://[^/?#@\s]+)/?", text.lower())
    if found is None:
        raise InputError(f"--cors-origin is {text!r}, but must be like https://chat.example.org")
    return found[1]


def _log(quiet: bool) -> None:
    """Lines of the server go to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log = logging.getLogger("bmqwen")
    log.addHandler(handler)
    # What an engine printed before it failed is wanted also where requests are not.
    log.setLevel(logging.INFO)
    logging.getLogger("bmqwen.serve").setLevel(logging.WARNING if quiet else logging.INFO)
