defmodule Support.Host do
  @moduledoc """
  A host in a test: several VMs on one port, by the names of their nodes. Starts them, and checks promises.
  """

  import ExUnit.Assertions
  import Support.Vm

  alias Support.Watch

  @doc "Options for VMs that do not stand by for each other: the handover has tests of its own."
  def alone, do: [flags: ~w(-kernel logger_level error -embedded_epmd hand_over false)]

  @doc "Boots this many nodes at the same time; returns the members by name."
  def start_host(count, port, options) do
    names = for _ <- 1..count, do: unique("n")
    names |> start_together(port, options) |> members(names)
  end

  @doc "The members of a host by name."
  def members(vms, names) do
    for {vm, name} <- Enum.zip(vms, names), into: %{} do
      call(vm, Watch, :start)
      {name, %{vm: vm, name: name, pid: pid(vm)}}
    end
  end

  @doc "The role of a VM."
  def role(vm), do: call(vm, EmbeddedEpmd, :status).role

  @doc "The name of the one owner."
  def owner(host) do
    eventually(fn ->
      case for({name, %{vm: vm}} <- host, role(vm) == :serving, do: name) do
        [owner] -> owner
        _ -> nil
      end
    end)
  end

  @doc "Asserts that there is one owner, that only it and its standbys listen, and that it knows all members and nobody else."
  def assert_whole(host, port) do
    names = Enum.sort(Map.keys(host))
    eventually(fn -> Enum.sort(for(%{name: name} <- listed(port), do: name)) == names end)
    owner = owner(host)
    for {name, %{vm: vm}} <- host, name != owner, do: eventually(fn -> role(vm) == :joined end)
    # A standby has the listener a moment before the owner's status names it.
    eventually(fn ->
      standbys = for %{pid: pid} <- call(host[owner].vm, EmbeddedEpmd, :status).standbys, do: "#{pid}"
      listeners(port) -- standbys == [host[owner].pid]
    end)
  end

  defp listed(port), do: with(:none <- stock_names(port), do: [])

  @doc "From now on each VM looks all others up, and records which nodes go down."
  def watch(host) do
    names = Map.keys(host)
    for {_, %{vm: vm}} <- host, do: :ok = call(vm, Watch, :watch_names, [names])
  end

  @doc "Asserts that since `watch/1` every lookup found its node, and no node but `gone` went down."
  def assert_undisturbed(host, gone) do
    # Each name has been looked up at least once after the change-over.
    enough = for {name, %{vm: vm}} <- host, into: %{}, do: {name, call(vm, Watch, :seen).found + map_size(host)}

    for {name, %{vm: vm}} <- host do
      seen = eventually(fn -> (seen = call(vm, Watch, :seen)).found >= enough[name] and seen end)
      assert seen.missed == [], "#{name} missed #{inspect(seen.missed)}"
      assert seen.down -- [:"#{gone}@127.0.0.1"] == [], "#{name} lost #{inspect(seen.down)}"
    end
  end
end
