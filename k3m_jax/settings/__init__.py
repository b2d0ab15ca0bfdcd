"""The one schema of everything configurable; configuration files change `default_config()`."""

from k3m_jax.settings.groups import *  # noqa: F403  (a class for each group, all public)
from k3m_jax.settings.schema import DiskError, UserError
from k3m_jax.settings.settings import Settings, default_config
from k3m_jax.settings.task import Task
