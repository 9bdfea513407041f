"""Autobahn Python on asyncio: python autobahn_asyncio.py '{"url": …}'"""

import asyncio

from autobahn.asyncio.component import Component, run
from autobahn_python import Talker

run([Talker(Component, asyncio.sleep).component], log_level=None)
