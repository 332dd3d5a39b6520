"""Hands the facts in settings.ini to setuptools; nothing is stated twice."""

from configparser import ConfigParser

from setuptools import find_packages, setup

parser = ConfigParser(delimiters=["="])
parser.read("settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]


def lines(key):
    return [line for line in cfg.get(key, "").splitlines() if line.strip()]


extras = {key.removesuffix("_requirements"): lines(key) for key in cfg if key.endswith("_requirements")}
setup(
    version=cfg["version"],
    description=cfg["description"],
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
