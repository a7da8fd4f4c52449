"""Calls of every method of the image builder, and a build of what needs no network."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import daytona as sdk
from checks import holds, raises, same, step
from recorder import ENDS, Recorder, absent

IMAGE = os.environ["SMALL_IMAGE"]


def images(daytona: Any) -> None:
    """The image builder: every method, then a build of what needs no network."""
    directory = Path(os.environ["SCRATCH"])
    texts = {
        "file.txt": "added\n",
        "requirements.txt": "numpy\n",
        "pyproject.toml": '[project]\nname = "a"\nversion = "1"\ndependencies = ["numpy"]\n',
        "Dockerfile": f"FROM {IMAGE}\n",
    }
    for name, text in texts.items():
        (directory / name).write_text(text)
    image = sdk.Image
    python = step(lambda: recorded_image(image).debian_slim("3.12"))
    step(lambda: holds("python" in python.pip_install("numpy").dockerfile(), "pip is in it"))
    step(lambda: python.pip_install_from_requirements(f"{directory}/requirements.txt"))
    step(lambda: python.pip_install_from_pyproject(f"{directory}/pyproject.toml", []))
    step(lambda: recorded_image(image).from_dockerfile(f"{directory}/Dockerfile"))
    for call in (
        lambda: recorded_image(image).from_dockerfile(f"{directory}/none"),
        lambda: python.pip_install_from_requirements(f"{directory}/none"),
        lambda: python.pip_install_from_pyproject(f"{directory}/none", []),
    ):
        step(lambda call=call: raises("DaytonaNotFoundError", call))
    mark = uuid.uuid4().hex
    built = step(
        lambda: (
            recorded_image(image)
            .base(IMAGE)
            .env({"MARK": mark})
            .run_commands("echo built > /built")
            .workdir("/tmp")
            .dockerfile_commands(["LABEL a=b"])
            .entrypoint(["sleep", "infinity"])
            .cmd(["infinity"])
        )
    )
    # Only shown: this SDK uploads files of a build over https alone, which test_sdk_stores.py has.
    added = step(lambda: recorded_image(image).base(IMAGE).add_local_file(f"{directory}/file.txt", "/added").add_local_dir(directory, "/dir"))
    step(lambda: holds("COPY" in added.dockerfile(), "the files are in it"))
    logs: list[str] = []
    params = sdk.CreateSandboxFromImageParams(image=built._target)
    made = step(lambda: daytona.create(params, timeout=150, on_snapshot_create_logs=logs.append))
    step(lambda: same(made.process.exec('echo "$MARK"; cat /built').result, f"{mark}\nbuilt\n"))
    step(lambda: holds(logs, "the build has a log"))
    step(lambda: daytona.delete(made))
    bad = sdk.CreateSandboxFromImageParams(image=image.base(IMAGE).run_commands(f"echo {mark}; exit 3"), labels={"bad": mark})
    step(lambda: raises("DaytonaError", lambda: daytona.create(bad, timeout=150)))
    # Its own alone: other suites run at the same time.
    step(lambda: [daytona.delete(s) for s in daytona.list() if (s.labels or {}).get("bad") == mark])


def recorded_image(cls: type) -> Any:
    """Image's class methods make images; both are recorded under the class's name."""
    return ImageRecorder(cls)


class ImageRecorder(Recorder):
    """An image, or the class that makes them."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name, None)
        if value is None:
            raise absent(sdk.Image, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            try:
                result = value(*arguments, **keywords)
            except Exception as error:
                ENDS[f"Image.{name}"].append(type(error).__name__)
                raise
            ENDS[f"Image.{name}"].append("ok")
            return ImageRecorder(result) if isinstance(result, sdk.Image) else result

        return call
