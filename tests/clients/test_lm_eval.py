"""lm-evaluation-harness finds with the server what transformers computes with the same float model."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.checkpoints import tiny_config, write_checkpoint
from support.client_environment import environment_python
from support.live_server import live_server

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
QUESTIONS: list[dict[str, Any]] = [
    {"question": f"hello you and the {word}", "choices": [" the", " and you", " hello"], "label": place % 3}
    for place, word in enumerate(
        ["system", "user", "hello", "你好", "assistant", "doing", "the and", "you。"]
    )
]
CHOICES = """
task: toy_choices
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
target_delimiter: ""
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ANSWERS = """
task: toy_answers
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
target_delimiter: ""
doc_to_target: "{{label}}"
generation_kwargs: {until: ["<|im_end|>"], max_gen_toks: 12, temperature: 0}
metric_list: [{metric: exact_match}]
"""


def evaluated(python: Path, folder: Path, url: str) -> dict[str, list[dict[str, Any]]]:
    """The samples of both tasks."""
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    for name, task in (("choices", CHOICES), ("answers", ANSWERS)):
        (folder / f"{name}.yaml").write_text(task.replace("FILE", str(data)))
    arguments = f"model=toy,base_url={url}/v1/completions,num_concurrent=1,max_retries=1,max_length=256"
    command: list[str | Path] = [
        python,
        "-m",
        "lm_eval",
        "run",
        "--model",
        "local-completions",
        "--model_args",
        arguments,
    ]
    tasks: list[str | Path] = [
        "--tasks",
        "toy_choices,toy_answers",
        "--include_path",
        folder,
        "--batch_size",
        "32",
    ]
    done = subprocess.run(
        [*command, *tasks, "--output_path", folder / "out", "--log_samples"],
        capture_output=True,
        text=True,
        env=os.environ | {"HOME": str(folder), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert "Using remote tokenizer backend" in done.stdout + done.stderr
    found = {}
    for name in ("choices", "answers"):
        (file,) = (folder / "out").rglob(f"samples_toy_{name}_*.jsonl")
        samples = [json.loads(line) for line in file.read_text().splitlines()]
        found[name] = sorted(samples, key=lambda sample: int(sample["doc_id"]))
    return found


@pytest.mark.clients
@pytest.mark.reference
def test_a_task_is_scored_as_by_transformers(tmp_path: Path) -> None:
    import torch
    import transformers

    folder = write_checkpoint(tmp_path / "toy", tiny_config(max_position_embeddings=512))
    with live_server(folder, "--quant", "f32", "--name", "toy", cache=tmp_path / "cache") as server:
        found = evaluated(environment_python(REQUIREMENTS), tmp_path, server.url)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    for sample, question in zip(found["choices"], QUESTIONS, strict=True):
        for choice, response in zip(question["choices"], sample["filtered_resps"], strict=True):
            context = tokenizer.encode(question["question"])
            whole = tokenizer.encode(question["question"] + choice)
            with torch.no_grad():
                logprobs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            own = sum(float(logprobs[place - 1, whole[place]]) for place in range(len(context), len(whole)))
            greedy = all(
                int(logprobs[place - 1].argmax()) == whole[place] for place in range(len(context), len(whole))
            )
            # Both compute in float32, in another order.
            assert float(response[0]) == pytest.approx(own, abs=1e-3)
            assert (str(response[1]) == "True") is greedy
    for sample, question in zip(found["answers"], QUESTIONS, strict=True):
        prompt = torch.tensor([tokenizer.encode(question["question"])])
        with torch.no_grad():
            ids = model.generate(prompt, max_new_tokens=12, do_sample=False, pad_token_id=0)[
                0, prompt.shape[1] :
            ]
        own = tokenizer.decode(ids, skip_special_tokens=True)
        # The server shows no half of a character where the length ends an answer.
        assert own.rstrip("\ufffd") == sample["filtered_resps"][0].rstrip("\ufffd")
