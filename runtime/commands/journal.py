"""Which scenes of a folder are done, by content: the bundle, the options, the scene and the layout written for it.

One line of JSON is appended for each scene after its layout stands. A line torn by a crash is ignored: that scene
runs again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from runtime.bundle import Bundle, file_digest
from runtime.errors import SceneError
from runtime.manifest import FILE_NAME as MANIFEST_NAME
from runtime.scene import Request

FILE_NAME = "finished.jsonl"


@dataclass(frozen=True, slots=True)
class Journal:
    """The file, what makes its lines valid, and the lines that are."""

    path: Path
    key: str  # digest of bundle and options
    finished: dict[str, tuple[str, str]]  # output name -> digests of scene and layout
    ours: set[str]  # names of outputs that a run began to write

    @classmethod
    def open(cls, folder: Path, bundle: Bundle, request: Request) -> Journal:
        """Read the journal of an output folder, if there is one. Raises SceneError when it cannot be read."""
        options = json.dumps(dataclasses.asdict(request), sort_keys=True)
        key = hashlib.sha256((file_digest(bundle.folder / MANIFEST_NAME) + options).encode()).hexdigest()
        journal = cls(folder / FILE_NAME, key, {}, set())
        try:
            lines = journal.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return journal
        except OSError as error:
            raise SceneError(f"{journal.path}: cannot be read ({error.strerror}). Remove it, or mend it.") from error
        for line in lines:
            journal._take(line)
        return journal

    def has(self, scene: Path, output: Path) -> bool:
        """Whether this very scene was done with this bundle and these options, and its layout still stands."""
        digests = self.finished.get(output.name)
        try:
            return digests is not None and digests == (file_digest(scene), file_digest(output))
        except OSError:
            return False

    def begin(self, output: Path) -> None:
        """Note that a layout is about to be written here. Raises SceneError where someone else's file stands."""
        if output.name in self.ours:
            return
        if output.exists():
            raise SceneError(f"{output}: exists, and no run here wrote it. Move it away, or give --overwrite.")
        self._append({"output": output.name})
        self.ours.add(output.name)

    def add(self, scene: Path, output: Path) -> None:
        """Note a scene whose layout has been written. Raises SceneError when that fails."""
        digests = file_digest(scene), file_digest(output)
        self._append({"output": output.name, "key": self.key, "scene": digests[0], "layout": digests[1]})
        self.finished[output.name] = digests

    def _append(self, record: dict[str, str]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" * self._torn() + json.dumps(record) + "\n")
        except OSError as error:
            raise SceneError(
                f"{self.path}: cannot be written ({error.strerror}). Make room or choose another --output."
            ) from error

    def _torn(self) -> bool:
        """Whether the last line lacks its end."""
        try:
            with self.path.open("rb") as file:
                file.seek(-1, 2)
                return file.read(1) != b"\n"
        except OSError:
            return False

    def _take(self, line: str) -> None:
        try:
            record = json.loads(line)
            output = str(record["output"])
            self.ours.add(output)
            key, digests = str(record["key"]), (str(record["scene"]), str(record["layout"]))
        except (ValueError, TypeError, KeyError, RecursionError):  # torn, or not ours
            return
        if key == self.key:
            self.finished[output] = digests
        else:
            self.finished.pop(output, None)
