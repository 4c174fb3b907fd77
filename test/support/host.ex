defmodule EmbeddedEpmd.Host do
  @moduledoc """
  What is asked of a host: several VMs of a test, by their nodes' names, on one port.
  """

  import EmbeddedEpmd.Vm
  import ExUnit.Assertions

  alias EmbeddedEpmd.Watch

  @doc "Options for VMs of which none can stand by for another: the hand-over has tests of its own."
  def alone, do: [flags: ~w(-kernel logger_level error -embedded_epmd hand_over false)]

  @doc "Boots so many nodes at the same time; returns the members by name."
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

  @doc "What a VM is to its host."
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

  @doc "One owner, which alone listens, and which knows everybody and nobody else."
  def assert_whole(host, port) do
    names = Enum.sort(Map.keys(host))
    eventually(fn -> Enum.sort(for(%{name: name} <- listed(port), do: name)) == names end)
    owner = owner(host)
    for {name, %{vm: vm}} <- host, name != owner, do: eventually(fn -> role(vm) == :joined end)
    # Those that stand by have the listener as well, a moment before that is told.
    eventually(fn ->
      standbys = for %{pid: pid} <- call(host[owner].vm, EmbeddedEpmd, :status).standbys, do: "#{pid}"
      listeners(port) -- standbys == [host[owner].pid]
    end)
  end

  defp listed(port), do: with(:none <- stock_names(port), do: [])

  @doc "From now on everybody looks everybody up, and sees which nodes go down."
  def watch(host) do
    names = Map.keys(host)
    for {_, %{vm: vm}} <- host, do: :ok = call(vm, Watch, :watch_names, [names])
  end

  @doc "Everybody was found since then, and nobody went down but the one that is gone."
  def assert_undisturbed(host, gone) do
    for {name, %{vm: vm}} <- host do
      # Everybody is looked up at least once after the change-over.
      before = call(vm, Watch, :seen).found
      seen = eventually(fn -> (seen = call(vm, Watch, :seen)).found >= before + map_size(host) and seen end)
      assert seen.missed == [], "#{name} missed #{inspect(seen.missed)}"
      assert seen.down -- [:"#{gone}@127.0.0.1"] == [], "#{name} lost #{inspect(seen.down)}"
    end
  end
end
