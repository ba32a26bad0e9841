"""Steps of the toys' score network in float64 PyTorch, for tests/toy.rs: tests/golden/toy_network.json.

Parameters and data are numbers that any program can make (`wave`). Loss and gradients of the first step, and
the parameters after five steps of torch.optim.Adam on the same data.

    python tools/golden/toy.py
"""

import json
from pathlib import Path

import torch


def wave(n: int, step: int, scale: float) -> torch.Tensor:
    """Number i is scale ((i step) mod 997 - 498) / 498, rounded to f32."""
    i = torch.arange(n, dtype=torch.int64)
    return ((i * step % 997 - 498).double() / 498.0 * scale).float().double()


def main() -> None:
    """Writes the file."""
    d, hidden, rows = 2, 64, 50
    widths = [d + 1, hidden, hidden, d]
    parameters = []
    for layer in range(3):
        n_in, n_out = widths[layer], widths[layer + 1]
        scale = n_in**-0.5
        parameters.append(wave(n_in * n_out, 101 + layer, scale).reshape(n_out, n_in))
        parameters.append(wave(n_out, 211 + layer, scale))
    parameters = [p.clone().requires_grad_() for p in parameters]
    x, noise = wave(rows * (d + 1), 307, 2.0).reshape(rows, d + 1), wave(rows * d, 401, 1.5).reshape(rows, d)

    def loss() -> torch.Tensor:
        w1, b1, w2, b2, w3, b3 = parameters
        h = torch.relu(x @ w1.T + b1)
        h = torch.relu(h @ w2.T + b2)
        return ((h @ w3.T + b3 - noise) ** 2).mean()

    optimiser = torch.optim.Adam(parameters, lr=1e-3)
    losses, gradients = [], None
    for _ in range(5):
        optimiser.zero_grad()
        value = loss()
        value.backward()
        gradients = gradients or [p.grad.flatten().tolist() for p in parameters]
        optimiser.step()
        losses.append(value.item())

    def short(tensor: list[float]) -> list[float]:
        # Every seventh of a long one.
        return [float(f"{v:.9g}") for v in (tensor[::7] if len(tensor) > 300 else tensor)]

    out = {
        "torch": torch.__version__,
        "losses": losses,
        "gradients": [short(g) for g in gradients],
        "parameters": [short(p.detach().flatten().tolist()) for p in parameters],
    }
    path = Path(__file__).resolve().parents[2] / "tests" / "golden" / "toy_network.json"
    path.write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
