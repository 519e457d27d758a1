"""Finds the packages: ``passes/`` is installed as ``rfc_compile.passes``."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["rfc_compile", "rfc_compile.*"]),
        "rfc_compile.passes",
        *(f"rfc_compile.passes.{name}" for name in find_packages("passes")),
    ]
)
