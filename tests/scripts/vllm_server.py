"""Stands for `vllm serve`: the HTTP protocol that TRL's VLLMClient speaks, on a CPU, with the weights of a small model.

Sends of weights come over a socket where vLLM has NCCL. What was generated is appended to `--log`, a JSON object per request. With
`--die_in NAME --die_at N` the process ends by SIGKILL in the middle of the Nth request of that name.
"""

import argparse
import json
import os
import signal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Client
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

CONFIG = {"weight_transfer_config": {"backend": "nccl"}, "model_config": {"logprobs_mode": "processed_logprobs"}}


class Engine:
    """A model that samples, and takes new weights from a trainer."""

    def __init__(self, path: str, seed: int):
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
        self.eos_token_id = AutoTokenizer.from_pretrained(path).eos_token_id
        self.random = torch.Generator().manual_seed(seed)
        self.trainer = None

    def connect(self, init_info: dict) -> None:
        """Join the trainer, which listens."""
        self.trainer = Client((init_info["master_address"], init_info["master_port"]))

    def receive(self, names: list[str], dtype_names: list[str], shapes: list[list[int]]) -> None:
        """Take the tensors that the trainer sends, in this order; an error for one that the model does not have."""
        parameters = dict(self.model.named_parameters())
        for name, dtype, shape in zip(names, dtype_names, shapes, strict=True):
            sent = torch.frombuffer(bytearray(self.trainer.recv_bytes()), dtype=getattr(torch, dtype))
            parameters[name].data.copy_(sent.view(shape))

    @torch.no_grad()
    def choices(self, prompt: list[int], n: int, max_tokens: int, temperature: float) -> list[dict]:
        """Samples of a prompt, as the completions endpoint describes them; nothing is kept between tokens, so small is fast."""
        ids_BT = torch.tensor([prompt] * n)
        sampled_B, logps_B, alive_B = [[] for _ in range(n)], [[] for _ in range(n)], [True] * n
        for _ in range(max_tokens):
            log_probs_BV = (self.model(ids_BT).logits[:, -1] / temperature).log_softmax(-1)
            next_B = torch.multinomial(log_probs_BV.exp(), 1, generator=self.random)
            for row in range(n):
                if alive_B[row]:
                    sampled_B[row].append(int(next_B[row]))
                    logps_B[row].append(float(log_probs_BV[row, next_B[row]]))
                    alive_B[row] = sampled_B[row][-1] != self.eos_token_id
            if not any(alive_B):
                break
            ids_BT = torch.cat([ids_BT, next_B], dim=1)
        return [self._choice(prompt, *sample) for sample in zip(sampled_B, logps_B, strict=True)]

    def _choice(self, prompt: list[int], sampled: list[int], logps: list[float]) -> dict:
        names = [f"token_id:{token}" for token in sampled]
        tops = [{name: logp} for name, logp in zip(names, logps, strict=True)]
        logprobs = {"tokens": names, "token_logprobs": logps, "top_logprobs": tops}
        return {"prompt_token_ids": prompt, "token_ids": sampled, "logprobs": logprobs}


def handler(engine: Engine, log: Path, die_in: str, die_at: int) -> type[BaseHTTPRequestHandler]:
    """The requests that TRL makes of vLLM 0.28 and later."""
    asked: dict[str, int] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            model = {"data": [{"id": "stand-in"}]}
            known = {
                "/health": {},
                "/v1/models": model,
                "/server_info": {"vllm_config": CONFIG},
                "/get_world_size": {"world_size": 1},
            }
            self._answer(known.get(path))

        def do_POST(self) -> None:
            name = self.path.strip("/").split("/")[-1]
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            given = json.loads(body or "{}")
            asked[name] = asked.get(name, 0) + 1
            if name == die_in and asked[name] == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = {}
            if name == "init_weight_transfer_engine":
                engine.connect(given["init_info"])
            elif name == "update_weights":
                engine.receive(**given["update_info"])
            elif name == "reset_prefix_cache":
                answer = {"success": True}
            elif name == "completions":
                how = given["n"], given["max_tokens"], given["temperature"]
                answer = {"choices": [choice for prompt in given["prompt"] for choice in engine.choices(prompt, *how)]}
                made = [[choice["prompt_token_ids"], choice["token_ids"]] for choice in answer["choices"]]
                with open(log, "a") as file:
                    file.write(json.dumps(made) + "\n")
            elif name not in ("start_weight_update", "finish_weight_update"):
                answer = None
            self._answer(answer)

        def _answer(self, content: dict | None) -> None:
            text = json.dumps({} if content is None else content).encode()
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *words) -> None:
            """Nothing is printed."""

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--die_in", default="")
    parser.add_argument("--die_at", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    made = handler(Engine(args.model, args.seed), args.log, args.die_in, args.die_at)
    ThreadingHTTPServer(("127.0.0.1", args.port), made).serve_forever()


if __name__ == "__main__":
    main()
