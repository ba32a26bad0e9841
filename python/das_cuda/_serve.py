"""A function as a scorer of das-cuda (docs/reward-protocol.md): JSON lines over standard input and output."""

import array
import base64
import io
import json
import math
import os
import sys
import traceback

_VERSION = 1
_requests = None
_answers = None


def protect_stdout():
    """From here on, whatever this process prints goes to standard error; standard output is for answers.

    Standard input is for requests in the same way: whatever else reads it, `input()` or a child process,
    finds it empty. `serve` does this by itself. Call it earlier, before the imports that print while they load
    a model.
    """
    global _requests, _answers
    if _answers is None:
        _requests = os.fdopen(os.dup(0), encoding="utf-8")
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        sys.stdout.flush()
        _answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
        # The descriptor too, which libraries of C and child processes write to.
        os.dup2(2, 1)
        sys.stdout = sys.stderr


def serve(f, *, gradient=True, images=None, name=None, alpha=None, prompts=True):
    """Answers das-cuda until it closes standard input.

    `f(images, prompts)` returns one score per image, larger is better: a tensor, an array or a list. `images`
    says what it gets:

    - `"torch"` (the default): a tensor (n, 3, h, w) of float32 in [0, 1] on the CPU; with `gradient` autograd
      differentiates the scores with respect to it where das-cuda asks for that;
    - `"numpy"` (the default with `gradient=False`): the same as an array;
    - `"pil"`: a list of PIL images, of 8 bits;
    - `"png"`: a list of PNG files as bytes.

    `prompts` is a list of n strings; `prompts=False` says that scores do not depend on them. `name` is for
    messages, `alpha` the `--kl` of runs that give none. An exception in `f` ends the run and is shown there.
    A score that is NaN or infinite loses its particle.
    """
    if images is None:
        images = "torch" if gradient else "numpy"
    if images not in _FORMS:
        raise ValueError(f"images is {images!r}; choose one of {', '.join(map(repr, _FORMS))}")
    if gradient and images != "torch":
        raise ValueError(f"images={images!r} has no gradient; give gradient=False as well")
    protect_stdout()
    _check(images)
    hello = {
        "das_cuda_reward": _VERSION,
        "name": name or getattr(f, "__name__", type(f).__name__),
        "gradient": bool(gradient),
        "images": "png" if images in ("pil", "png") else "f32",
        "prompts": bool(prompts),
    }
    if alpha is not None:
        hello["alpha"] = alpha
    _write(_answers, hello)
    for line in _requests:
        _write(_answers, _answer(f, images, json.loads(line)))


def _write(out, message):
    out.write(json.dumps(message, allow_nan=False) + "\n")
    out.flush()


def _answer(f, images, request):
    try:
        decoded = _FORMS[images](request)
        if not request["gradient"]:
            return {"id": request["id"], "scores": _scores(_without_gradient(f, images, decoded, request), request)}
        scores, gradients = _with_gradient(f, decoded, request)
        return {"id": request["id"], "scores": scores, "gradients": gradients}
    except Exception as error:
        traceback.print_exc()
        return {"id": request["id"], "error": f"{type(error).__name__}: {error}"}


def _without_gradient(f, images, decoded, request):
    if images != "torch":
        return f(decoded, request["prompts"])
    import torch

    with torch.no_grad():
        return f(decoded, request["prompts"])


def _with_gradient(f, x, request):
    import torch

    x.requires_grad_(True)
    scores = f(x, request["prompts"])
    if not isinstance(scores, torch.Tensor) or scores.grad_fn is None:
        raise ValueError(
            "the scores have no gradient: return a tensor that was computed from the images "
            "(nothing under no_grad, detach or item), or serve with gradient=False"
        )
    values = _scores(scores, request)
    (grad,) = torch.autograd.grad(scores.sum(), x)
    rows = grad.to(torch.float32).permute(0, 2, 3, 1).contiguous()
    return values, [_base64(_bytes(row)) for row in rows]


def _bytes(row):
    """The little-endian float32 of a tensor; without NumPy, which torch does not need."""
    data = array.array("f", row.reshape(-1).cpu().tolist())
    if sys.byteorder == "big":
        data.byteswap()
    return data.tobytes()


def _base64(data):
    return base64.b64encode(data).decode("ascii")


def _scores(scores, request):
    """One number or None for each image."""
    if hasattr(scores, "detach"):
        scores = scores.detach()
    if hasattr(scores, "tolist"):
        scores = scores.reshape(-1).tolist()
    scores = [float(score) for score in scores]
    if len(scores) != len(request["images"]):
        raise ValueError(f"{len(scores)} scores for {len(request['images'])} images")
    return [score if math.isfinite(score) else None for score in scores]


def _check(images):
    """What a form of images needs, before the first request."""
    needs = {"torch": "torch", "numpy": "numpy", "pil": "PIL.Image"}.get(images)
    if needs is None:
        return
    try:
        __import__(needs)
    except ImportError as error:
        raise ImportError(
            f"serve(images={images!r}) needs {needs.split('.')[0]}, which is not installed here; "
            f"install it, or see help(serve) for the other forms of images"
        ) from error


def _png(request):
    return [base64.b64decode(image) for image in request["images"]]


def _pil(request):
    from PIL import Image

    return [Image.open(io.BytesIO(image)).convert("RGB") for image in _png(request)]


def _numpy(request):
    import numpy

    data = b"".join(_png(request))
    shape = (len(request["images"]), request["height"], request["width"], 3)
    rows = numpy.frombuffer(data, dtype="<f4").reshape(shape).astype("float32")
    return numpy.ascontiguousarray(rows.transpose(0, 3, 1, 2))


def _torch(request):
    import torch

    data = bytearray(b"".join(_png(request)))
    rows = torch.frombuffer(data, dtype=torch.float32)
    rows = rows.reshape(len(request["images"]), request["height"], request["width"], 3)
    return rows.permute(0, 3, 1, 2).contiguous()


_FORMS = {"torch": _torch, "numpy": _numpy, "pil": _pil, "png": _png}
