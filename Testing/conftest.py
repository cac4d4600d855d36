"""For all tests."""

from GaborSegLib.environment import wait_asleep

# Before torch is imported, and for all processes that tests start: else a busy machine is many times slower.
wait_asleep()
