"""Hands the facts in settings.ini to setuptools; nothing is stated twice."""

from configparser import ConfigParser
from pathlib import Path
from shutil import copytree, ignore_patterns

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

parser = ConfigParser(delimiters=["="])
parser.read("settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]


def lines(key):
    return [line for line in cfg.get(key, "").splitlines() if line.strip()]


class WithBlog(build_py):
    """Puts templates and the site's configuration into the wheel; their source stays in `blog`."""

    def run(self):
        super().run()
        if not self.editable_mode:
            leave = ignore_patterns("posts", "drafts", "__pycache__", ".ipynb_checkpoints")
            copytree("blog", Path(self.build_lib) / "nas_nb" / "blog", ignore=leave, dirs_exist_ok=True)


extras = {key.removesuffix("_requirements"): lines(key) for key in cfg if key.endswith("_requirements")}
setup(
    version=cfg["version"],
    description=cfg["description"],
    cmdclass={"build_py": WithBlog},
    packages=find_packages(include=["nas_nb*"]),
    package_data={"nas_nb": ["estimate/*.csv"]},
    install_requires=lines("requirements"),
    extras_require=extras,
    python_requires=">=" + cfg["min_python"],
    entry_points={
        "nbdev": ["nas_nb = nas_nb._modidx:d"],
        "console_scripts": [cfg["console_scripts"]],
        "papermill.engine": [cfg["papermill_engine"]],
    },
)
