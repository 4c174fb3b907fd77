defmodule Support.Service do
  @moduledoc """
  Services in the container: starts and ends them, and asks them and systemd. Each has the name of its node.
  """

  import ExUnit.Assertions
  import Support.{Container, Deadline}

  alias Support.Unit

  @doc "Starts a unit, which must succeed."
  def start(unit) do
    assert inside?(~w(systemctl start #{unit})), "systemctl start #{unit} failed: #{last_lines(journal(unit))}"
  end

  def stop(unit), do: inside(~w(systemctl stop #{unit}))

  def restart(unit), do: inside(~w(systemctl restart #{unit}))

  def restart_node(name) do
    restart(name)
    await_node(name)
  end

  @doc "Kills the main process of a service."
  def kill(name), do: inside(~w(kill -9 #{main_pid(name)}))

  def kill_node(name) do
    kill(name)
    await_node(name)
  end

  @doc "Kills all processes of a service."
  def kill_all(name), do: inside(~w(systemctl kill --signal=KILL #{name}))

  @doc "Starts these at once, and waits for them."
  def start_nodes(names) do
    names = List.wrap(names)
    {output, status} = run(~w(systemctl start) ++ names)
    assert status == 0, "they do not start: #{output}#{last_lines(journal(hd(names)))}"
    await_nodes(names)
  end

  @doc "Starts each of these when the one before it runs."
  def start_in_turn(names), do: for(name <- names, do: start_nodes(name))

  def await_nodes(names), do: for(name <- names, do: await_node(name))

  def await_node(name), do: assert_within(60, name in names())

  def found?(name), do: name in names()

  @doc "The names that the EPMD at 127.0.0.1 has."
  def names do
    {text, _} = run(~w(epmd -names))
    for [_, name] <- Regex.scan(~r/^name (.*) at port \d+$/m, text), do: name
  end

  @doc "The addresses with a listener at EPMD's port."
  def listening do
    lines = inside(~w(ss -Hltn) ++ ["sport = :4369"]) |> String.split("\n", trim: true)
    Enum.sort(for line <- lines, do: line |> String.split() |> Enum.at(3))
  end

  def daemon?, do: inside?(~w(pidof epmd))

  def main_pid(unit), do: property(unit, "MainPID")

  @doc "How many descriptors systemd keeps for a service."
  def stored(unit), do: String.to_integer(property(unit, "NFileDescriptorStore"))

  @doc "A property of a unit, as systemd shows it."
  def property(unit, property), do: inside(~w(systemctl show --property=#{property} --value #{unit}))

  def journal(unit), do: inside(~w(journalctl --no-pager --output=cat --unit=#{unit}))

  @doc "The lines of a unit's journal with this text."
  def logged(unit, text), do: for(line <- String.split(journal(unit), "\n"), line =~ text, do: line)

  @doc "The last text in a unit's journal that matches."
  def said(unit, regex), do: regex |> Regex.scan(journal(unit)) |> List.last() |> hd()

  @doc "What `rpc` prints, which must succeed."
  def rpc(name, expression) do
    {output, status} = bin(name, "rpc", expression)
    assert status == 0, "rpc of #{name} ended with status #{status}: #{output}"
    String.trim(output)
  end

  @doc "Runs a command of a service's release, with further variables; returns its output and status."
  def bin(name, command, expression, variables \\ []) do
    program = "/opt/#{name}/bin/#{Unit.release(name)}"
    run(~w(env RELEASE_DISTRIBUTION=sname RELEASE_NODE=#{name}) ++ variables ++ [program, command, expression])
  end

  def assert_rpc(name), do: assert(rpc(name, "IO.puts(node())") == "#{name}@#{hostname()}")

  @doc """
  What `rpc` says while nobody knows the node. It starts a daemon, at which the node registers within 2 seconds: where
  that was quicker, it says who it is.
  """
  def lost_rpc(name) do
    {said, status} = bin(name, "rpc", "IO.puts(node())")
    assert status == 0 or said =~ ":nodedown"
    assert daemon?(), "rpc of #{name} started no daemon, and says: #{said}"
    said |> String.split(": ", parts: 2) |> List.last() |> String.trim()
  end

  def doctor(name), do: rpc(name, "EmbeddedEpmd.doctor()")

  @doc "The role of a node; if it does not run, why."
  def role(name) do
    {role, _} = bin(name, "rpc", "IO.puts(EmbeddedEpmd.status().role)")
    String.trim(role)
  end

  @doc "Which of prod and stage serves the port."
  def owner(names \\ ["prod", "stage"]) do
    Enum.find(names, &(role(&1) == "serving")) || flunk("none of #{Enum.join(names, ", ")} serves the port")
  end

  @doc "Who stands by for a node."
  def standbys(name),
    do: String.split(rpc(name, ~S|IO.puts(Enum.map_join(EmbeddedEpmd.status().standbys, " ", & &1.name))|))

  @doc "Waits until so many stand by for a node."
  def await_standbys(name, count, seconds \\ 20),
    do: assert_within(seconds, {name, length(standbys(name))} == {name, count})

  @doc "The names in the table of a node, with their creations."
  def creations(name) do
    said =
      rpc(name, ~S"""
      {:ok, %{nodes: nodes}} = EmbeddedEpmd.subscribe()
      for %{name: name, creation: creation} <- nodes, not (name =~ ~r/^rpc-/), do: IO.puts("#{name} #{creation}")
      """)

    Map.new(String.split(said, "\n"), &List.to_tuple(String.split(&1)))
  end

  defp last_lines(text), do: text |> String.split("\n") |> Enum.take(-5) |> Enum.join("\n")
end
