"""Packages Mercury for pip. The one place where its direct requirements stand.

`install_requires` is what the server and the client import, `test` what `make test` adds; `make pins` resolves both and
writes the exact set, with all that they bring, to requirements/run.txt and requirements/test.txt.
"""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "mercury/__init__.py").read_text("utf-8"), re.MULTILINE)
assert VERSION, "mercury/__init__.py names no __version__"

setup(
    name="mercury-chat",
    version=VERSION[1],
    description="A chat service to run next to your application",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    author="The Mercury authors",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    package_dir={"": "."},  # makes an editable install put this folder on the path, where Twisted finds the plugin
    # Named one by one: find_packages() would take in a folder `twisted` that is not Twisted. The last one adds one file
    # to Twisted's plugins folder and owns nothing else there.
    packages=[
        "mercury",
        "mercury.bus",
        "mercury.cli",
        "mercury.client",
        "mercury.core",
        "mercury.core.delivery",
        "mercury.domain",
        "mercury.gotalk",
        "mercury.http",
        "mercury.net",
        "mercury.node",
        "mercury.reference",
        "mercury.rest",
        "mercury.settings",
        "mercury.stores",
        "mercury.stores.memory",
        "mercury.stores.mysql",
        "mercury.stores.redis",
        "mercury.stores.sqlite",
        "mercury.websocket",
        "mercury.websocket.fast",
        "mercury.websocket.subprotocols",
        "mercury.websocket.wamp",
        "mercury.workers",
        "twisted.plugins",
    ],
    package_data={"mercury.gotalk": ["static/*"], "mercury.stores.redis": ["lua/*.lua"]},
    entry_points={
        "console_scripts": [
            "mercury = mercury.cli.server:main",
            "mercury-admin = mercury.cli.admin:main",
            "mercury-client = mercury.client.main:main",
            "mercury-keys = mercury.cli.keys:main",
        ]
    },
    install_requires=[
        "argon2-cffi>=25.1",
        "autobahn[twisted]>=26.10.2",  # older ones let a small frame unpack past the payload limit
        "cbor2>=6.2",  # comes with autobahn as well
        "cryptography>=49",  # comes with autobahn and PyMySQL as well
        "hiredis>=3.1",  # without it txredisapi takes a turn of the reactor for each part of a reply
        "klein>=24.8",
        "msgspec>=0.22",
        "prometheus_client>=0.26",
        "prompt_toolkit>=3.0.50",
        "PyMySQL[rsa]>=1.2.4",  # rsa: for the passwords of MySQL 8
        "pyOpenSSL>=26",  # comes with autobahn and Twisted's TLS as well
        "PyYAML>=6.0.2",
        "service-identity>=24.1",  # comes with autobahn and Twisted's TLS as well
        "Twisted>=26.10",
        "txredisapi>=1.6",
        "Werkzeug>=3.0.6",  # comes with klein, which leaves the version open
        "zope.interface>=8",
    ],
    extras_require={
        "test": [
            "hypothesis>=6.170",
            "mypy>=2.4",
            "mypy-zope>=1.0.17",
            "packaging>=26",
            "playwright>=1.65",
            "pyte>=0.8.2",
            "pytest>=9.2",
            "pytest-twisted>=1.14.3",
            "pytest-xdist>=3.8",
            "ruff>=0.17.6",
            "schemathesis>=4.32.5",
            "sqlmap>=1.10",
            "types-PyMySQL>=1.2",
            "types-PyYAML>=6.0.12",
        ]
    },
)
