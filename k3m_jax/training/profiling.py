"""A window of steps that the profiler looks at."""

import jax
from etils import epath

from k3m_jax.data.store.remote import LocalFolder
from k3m_jax.parallel import distributed
from k3m_jax.settings import Training


class ProfilerWindow:
    """Traces steps `profile_start` … + `profile_steps` into `profile/` of the run's folder.

    Of several processes the leading one does: they all do the same.
    """

    def __init__(self, training: Training, workdir: epath.PathLike):
        self._first = training.profile_start
        self._after = training.profile_start + training.profile_steps
        self._target = epath.Path(workdir) / "profile"
        self._folder: LocalFolder | None = None  # while the window is open

    def before(self, step: int) -> None:
        """Called before each step; opens the window, also for a run that resumes within it."""
        if self._first <= step < self._after and not self._folder and distributed.is_lead_process():
            self._folder = LocalFolder(self._target)
            jax.profiler.start_trace(str(self._folder.path))

    def after(self, step: int, result: jax.Array) -> None:
        """Called after each step; closes the window when `result`, of the last step, is there."""
        if self._folder and step + 1 >= self._after:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Writes what was traced, also of a window that the run's end cuts short."""
        if self._folder:
            jax.profiler.stop_trace()
            self._folder.close()
            self._folder = None
