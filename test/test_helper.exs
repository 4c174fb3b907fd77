# What brings the library is loaded when it is needed.
for file <- ~w(target cargo http download prebuilt), do: Code.require_file("../native/mix/#{file}.exs", __DIR__)

{:ok, _} = Support.Ports.start_link([])

# Waiting for a condition has its own end, after a minute. Most tests wait for VMs most of the time.
# bin/test-systemd runs those under systemd.
excluded = if System.get_env("EMBEDDED_EPMD_CONTAINER"), do: [], else: [:systemd]
ExUnit.start(timeout: 300_000, max_cases: 4 * System.schedulers_online(), exclude: excluded)

# bin/test adds this to what Rust's tests say. What is excluded, another command runs.
ExUnit.after_suite(fn %{total: total, failures: failed, skipped: skipped, excluded: excluded} ->
  IO.puts("#{total - failed - skipped - excluded} passed, #{failed} failed, #{skipped} skipped")
end)
