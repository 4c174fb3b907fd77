defmodule Support.Lookups do
  @moduledoc """
  Looks names up in the container all the while: bin/test-systemd.d/probe.exs, which runs in it.
  """

  import ExUnit.Assertions

  alias Support.Container

  # Milliseconds.
  @patience 30_000

  @doc "Starts to look up these names, whose nodes must be registered. It ends with the test."
  def start_lookups(names) do
    ebin = Container.inside(["sh", "-c", "echo /opt/made/ours/prod/lib/embedded_epmd-*/ebin"])
    probe = ~w(elixir -pa #{ebin} -r /opt/made/prober.ex /opt/made/probe.exs) ++ names
    [program | arguments] = Container.enter() ++ probe
    options = [:binary, :stderr_to_stdout, :exit_status, line: 100_000, args: arguments]
    lookups = Port.open({:spawn_executable, System.find_executable(program)}, options)
    assert answer(lookups) == "asking"
    lookups
  end

  @doc "The lookups since the last time: how many failed, the milliseconds that the longest took, the wrong answers."
  def looked_up(lookups) do
    Port.command(lookups, "\n")
    [failed, longest, wrong] = String.split(answer(lookups), " ", parts: 3)
    %{failed: String.to_integer(failed), longest: String.to_integer(longest), wrong: wrong}
  end

  @doc "Asserts that none has failed since the last time; returns the milliseconds that the longest took."
  def assert_none_failed(lookups, what) do
    looked_up = looked_up(lookups)
    assert looked_up.failed == 0, "#{what}: #{looked_up.failed} lookups failed: #{looked_up.wrong}"
    looked_up.longest
  end

  @doc "Ends it; returns how many lookups there were."
  def stop_lookups(lookups) do
    Port.command(lookups, "stop\n")
    asked = String.to_integer(answer(lookups))

    receive do
      {^lookups, {:exit_status, _}} -> asked
    after
      @patience -> flunk("the prober does not end")
    end
  end

  defp answer(lookups) do
    receive do
      {^lookups, {:data, {:eol, line}}} -> line
      {^lookups, {:exit_status, status}} -> flunk("the prober ended with status #{status}")
    after
      @patience -> flunk("the prober does not answer")
    end
  end
end
