# Waiting for a condition has its own end, after a minute.
ExUnit.start(timeout: 300_000)
