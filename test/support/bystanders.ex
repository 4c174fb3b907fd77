defmodule Support.Bystanders do
  @moduledoc """
  Nodes in the container that must not notice what happens: they are looked up all the while, by
  bin/test-systemd.d/probe.exs, and the connections over which they are registered stay.
  """

  import ExUnit.Assertions

  alias Support.{Container, StockNode}

  # Milliseconds.
  @patience 30_000

  @doc "Starts to look up these names, whose nodes must be registered. It ends with the test."
  def watch(names) do
    ebin = Container.inside(["sh", "-c", "echo /opt/made/ours/prod/lib/embedded_epmd-*/ebin"])
    probe = ~w(elixir -pa #{ebin} -r /opt/made/prober.ex /opt/made/probe.exs) ++ names
    [program | arguments] = Container.enter() ++ probe
    options = [:binary, :stderr_to_stdout, :exit_status, line: 100_000, args: arguments]
    prober = Port.open({:spawn_executable, System.find_executable(program)}, options)
    assert answer(prober) == "asking"
    %{prober: prober, names: names, sockets: StockNode.sockets(names)}
  end

  @doc "The lookups since the last time: how many failed, the milliseconds that the longest took, the wrong answers."
  def looked_up(%{prober: prober}) do
    Port.command(prober, "\n")
    [failed, longest, wrong] = String.split(answer(prober), " ", parts: 3)
    %{failed: String.to_integer(failed), longest: String.to_integer(longest), wrong: wrong}
  end

  @doc "Asserts that the connections are the same, and that no more lookups failed since the last time; returns those."
  def assert_undisturbed(watched, what, allowed \\ 0) do
    looked_up = looked_up(watched)
    assert looked_up.failed <= allowed, "#{inspect(what)}: #{looked_up.failed} lookups failed: #{looked_up.wrong}"
    assert {what, StockNode.sockets(watched.names)} == {what, watched.sockets}
    looked_up
  end

  @doc "Ends it; returns how many lookups there were."
  def stop_watching(%{prober: prober}) do
    Port.command(prober, "stop\n")
    asked = String.to_integer(answer(prober))
    assert_receive {^prober, {:exit_status, _}}, @patience
    asked
  end

  defp answer(prober) do
    receive do
      {^prober, {:data, {:eol, line}}} -> line
      {^prober, {:exit_status, status}} -> flunk("the prober ended with status #{status}")
    after
      @patience -> flunk("the prober does not answer")
    end
  end
end
