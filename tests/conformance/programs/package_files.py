"""Makes packages for tests from a description on standard input, without anything that is not in the standard library.

    {"folder": …, "name": …, "version": …, "files": {path: text}, "requires": […], "scripts": {name: "module:function"},
     "raw": {path: text}, "zeros": {path: bytes}, "many": files, "times": number, "backend": text}

A wheel, or with `backend` a source archive that builds itself with this text as its PEP 517 backend. `raw` names are written
into the wheel as they are, also where no honest tool would; `zeros` are files of so many zeros, packed, `many` is a number of empty
files, and `times` how often all that is required is required.
"""

import base64
import hashlib
import io
import json
import os
import sys
import tarfile
import zipfile

given = json.load(sys.stdin)
name, version = given["name"], given["version"]
folder = os.path.join(given["folder"], name)
os.makedirs(folder, exist_ok=True)
os.chmod(folder, 0o755)


def wheel():
    info = f"{name}-{version}.dist-info"
    requires = "".join(f"Requires-Dist: {one}\n" for one in given.get("requires", [])) * given.get("times", 1)
    scripts = "".join(f"{script} = {target}\n" for script, target in given.get("scripts", {}).items())
    files = {
        **given.get("files", {}),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{scripts}",
        **given.get("raw", {}),
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text.encode())}\n"
    with zipfile.ZipFile(os.path.join(folder, f"{name}-{version}-py3-none-any.whl"), "w") as archive:
        for path, text in {**files, f"{info}/RECORD": record + f"{info}/RECORD,,\n"}.items():
            archive.writestr(path, text)
        for path, size in given.get("zeros", {}).items():
            packed = zipfile.ZipInfo(path)
            packed.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(packed, "w", force_zip64=True) as file:
                for _ in range(size >> 20):
                    file.write(bytes(1 << 20))
        for number in range(given.get("many", 0)):
            archive.writestr(f"{name}_files/{number}", "")


def source():
    top = f"{name}-{version}"
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with tarfile.open(os.path.join(folder, f"{top}.tar.gz"), "w:gz") as archive:
        for path, text in {"pyproject.toml": project, "PKG-INFO": about, "backend.py": given["backend"]}.items():
            member = tarfile.TarInfo(f"{top}/{path}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


source() if "backend" in given else wheel()
