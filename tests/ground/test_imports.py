"""The closure of imports is what really runs: no more than the modules needed, and none missing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from genforge import imports


def test_closure_holds_every_module_that_an_import_loads() -> None:
    module = "genforge.data.preparation"
    found = imports.closure([module])
    program = (
        f"import json, sys, {module}; print(json.dumps([m for m in sys.modules if m.split('.')[0] == 'genforge']))"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert set(json.loads(output)) <= set(found)
    assert not any("objectives" in name or "training" in name for name in found)


def test_a_copy_of_the_closure_is_enough_to_import_the_module(tmp_path: Path) -> None:
    module = "genforge.data.preparation"
    for path in imports.closure([module]).values():
        target = tmp_path / path.relative_to(imports.PACKAGE.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import {module} as m; print(m.__file__)"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.strip().startswith(str(tmp_path))


def test_the_digest_follows_the_code_that_is_used_and_no_other(tmp_path: Path, monkeypatch) -> None:
    package = tmp_path / "genforge"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "used.py").write_text("x = 1\n")
    (package / "unused.py").write_text("x = 1\n")
    (package / "top.py").write_text("def f():\n    from genforge import used\n")
    monkeypatch.setattr(imports, "PACKAGE", package)

    def digest() -> str:
        imports._imported.cache_clear()
        return imports.code_digest(["genforge.top"])

    before = digest()
    (package / "unused.py").write_text("x = 2\n")
    assert digest() == before
    (package / "used.py").write_text("x = 2\n")
    assert digest() != before
