"""The module das_cuda without torch and without the program: python -m unittest discover python/tests"""

import base64
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import textwrap
import unittest

FOLDER = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(FOLDER))

from das_cuda import load_run, serve  # noqa: E402


def request(number, images, **more):
    """A line for a scorer; `images` are bytes."""
    encoded = [base64.b64encode(image).decode() for image in images]
    prompts = [f"prompt {i}" for i in range(len(images))]
    message = {"id": number, "prompts": prompts, "images": encoded, "width": 2, "height": 1, "gradient": False}
    return json.dumps({**message, **more}) + "\n"


def talk(program, *requests):
    """Runs a scorer; its lines, its standard error and its exit status."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        input="".join(requests),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(FOLDER)},
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr, done.returncode


class Serve(unittest.TestCase):
    def test_hello_and_answers(self):
        program = """
            from das_cuda import serve
            def length(images, prompts):
                return [len(image) + len(prompt) for image, prompt in zip(images, prompts)]
            serve(length, gradient=False, images="png", alpha=0.5)
        """
        lines, _, status = talk(program, request(0, [b"abc", b""]), request(1, [b"a"]))
        hello = {"das_cuda_reward": 1, "name": "length", "gradient": False, "images": "png", "prompts": True}
        self.assertEqual(lines[0], {**hello, "alpha": 0.5})
        self.assertEqual(lines[1:], [{"id": 0, "scores": [11.0, 8.0]}, {"id": 1, "scores": [9.0]}])
        self.assertEqual(status, 0)

    def test_prints_do_not_reach_the_protocol(self):
        program = """
            import os, subprocess, sys
            import das_cuda
            das_cuda.protect_stdout()
            print("while loading")
            def f(images, prompts):
                print("from Python")
                os.write(1, b"from below\\n")
                subprocess.run([sys.executable, "-c", "print('from a child')"])
                return [1.0] * len(images)
            das_cuda.serve(f, gradient=False, images="png")
        """
        lines, errors, _ = talk(program, request(0, [b"a"]))
        self.assertEqual(lines[1:], [{"id": 0, "scores": [1.0]}])
        for text in ["while loading", "from Python", "from below", "from a child"]:
            self.assertIn(text, errors)

    def test_requests_are_read_by_nothing_else(self):
        program = """
            import subprocess, sys
            from das_cuda import serve
            def f(images, prompts):
                child = "import sys; print(len(sys.stdin.read()))"
                left = int(subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout)
                if images[0] == b"ask":
                    input("which? ")
                return [float(left)]
            serve(f, gradient=False, images="png")
        """
        lines, _, status = talk(program, request(0, [b"x"]), request(1, [b"ask"]), request(2, [b"x"]))
        self.assertEqual(lines[1], {"id": 0, "scores": [0.0]})
        self.assertEqual(lines[2], {"id": 1, "error": "EOFError: EOF when reading a line"})
        self.assertEqual(lines[3], {"id": 2, "scores": [0.0]})
        self.assertEqual(status, 0)

    def test_what_is_wrong_is_said(self):
        program = """
            from das_cuda import serve
            def f(images, prompts):
                if images[0] == b"few":
                    return [1.0]
                if images[0] == b"nan":
                    return [float("nan"), float("inf")]
                raise RuntimeError("out of memory")
            serve(f, gradient=False, images="png")
        """
        lines, errors, status = talk(program, *(request(i, [b, b""]) for i, b in enumerate([b"few", b"nan", b"x"])))
        self.assertEqual(lines[1], {"id": 0, "error": "ValueError: 1 scores for 2 images"})
        self.assertEqual(lines[2], {"id": 1, "scores": [None, None]})
        self.assertEqual(lines[3], {"id": 2, "error": "RuntimeError: out of memory"})
        self.assertIn("Traceback", errors)
        self.assertEqual(status, 0)

    def test_wrong_options(self):
        for options, says in [({"images": "jpeg"}, "choose one of"), ({"images": "pil"}, "gradient=False")]:
            with self.assertRaises(ValueError) as raised:
                serve(len, **options)
            self.assertIn(says, str(raised.exception))

    def test_a_missing_library_is_named(self):
        program = """
            import sys
            sys.modules["torch"] = None
            from das_cuda import serve
            serve(lambda images, prompts: 0)
        """
        lines, errors, status = talk(program)
        self.assertEqual((lines, status), ([], 1))
        self.assertIn("needs torch", errors)


class LoadRun(unittest.TestCase):
    def test_columns(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            with self.assertRaises(FileNotFoundError) as raised:
                load_run(path)
            self.assertIn("run.json", str(raised.exception))
            (path / "run.json").write_text('{"prompt": "a star"}')
            self.assertEqual(load_run(path), ({"prompt": "a star"}, {}, {}))
            (path / "trace.jsonl").write_text('{"step": 0, "ess": 4.0}\n{"step": 1, "note": "x"}\n')
            (path / "particles.jsonl").write_text('{"weight": 0.5}\n{"weight": 0.25}\n')
            run = load_run(folder)
            self.assertEqual(run.trace, {"step": [0, 1], "ess": [4.0, None], "note": [None, "x"]})
            self.assertEqual(run.particles, {"weight": [0.5, 0.25]})
            (path / "trace.jsonl").write_text('{"step": 0}\n{"ste')
            with self.assertRaises(ValueError) as raised:
                load_run(folder)
            self.assertIn("line 2", str(raised.exception))


if __name__ == "__main__":
    unittest.main()
