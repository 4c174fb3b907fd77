defmodule EmbeddedEpmd.MirrorTest do
  # The copy of the table in VMs that have joined, and their events.
  use ExUnit.Case, async: true

  import Support.{Host, Rounds, Vm}

  alias Support.Mailbox

  @count 10

  setup do
    %{port: free_port()}
  end

  @tag timeout: :infinity
  test "every VM knows its owner's table and tells its events, through changes of owner", %{port: port} do
    names = for _ <- 1..@count, do: unique("n")
    members = for {vm, name} <- Enum.zip(start_together(names, port), names), do: follow(%{vm: vm, name: name})

    Enum.reduce(1..rounds(3, 50), members, fn round, members ->
      same_tables(members)
      {[owner], others} = Enum.split_with(members, &(role(&1.vm) == :serving))
      # Two VMs must stand by, so that one can take over and the other goes on as its standby.
      eventually(fn -> length(call(owner.vm, EmbeddedEpmd, :status).standbys) == 2 end)
      before = Map.new(others, &{&1.name, length(events(&1))})
      if rem(round, 2) == 0, do: kill(owner.vm), else: :peer.stop(owner.vm)

      # Answered from memory while the port changes hands.
      for one <- others, other <- others, do: assert({:port, _, _} = find(one.vm, other.name))

      same_tables(others)
      for one <- others, do: assert([{:unregistered, %{name: _}}] = Enum.drop(events(one), before[one.name]))
      name = unique("n")
      [vm] = start_together([name], port)
      [follow(%{vm: vm, name: name}) | others]
    end)
  end

  test "a VM that cannot follow its owner asks it, and says so", %{port: port} do
    owner = start_ours(unique("owner"), port)
    name = unique("alone")
    alone = start_ours(name, port, flags: ~w(-embedded_epmd hand_over false))
    assert %{role: :serving, table: :here} = call(owner, EmbeddedEpmd, :status)
    assert %{role: :joined, table: :owner, names: 2} = call(alone, EmbeddedEpmd, :status)
    assert {:port, _, _} = find(alone, name)
    assert call(start_plain(port), EmbeddedEpmd, :status).table == nil
  end

  test "lookups and lists come from memory while the owner answers nobody", %{port: port} do
    owner_name = unique("owner")
    owner = start_ours(owner_name, port)
    name = unique("joined")
    vm = start_ours(name, port)
    eventually(fn -> call(vm, EmbeddedEpmd, :status).table == :copy end)
    pid = pid(owner)
    suspend(pid)

    assert {:port, _, _} = find(vm, owner_name)
    assert {:ok, [%{name: ^name}, %{name: ^owner_name}]} = call(vm, EmbeddedEpmd, :names)
    assert {:ok, [{_, _}, {_, _}]} = call(vm, :net_adm, :names, [~c"127.0.0.1"])
    assert %{names: 2} = call(vm, EmbeddedEpmd, :status)
    {_, 0} = System.cmd("kill", ["-CONT", pid])
  end

  defp follow(%{vm: vm} = member) do
    eventually(fn -> call(vm, EmbeddedEpmd, :status).table in [:here, :copy] end)
    supervise(vm)
    {subscriber, snapshot} = call(vm, Mailbox, :subscribe)
    Map.merge(member, %{subscriber: subscriber, nodes: snapshot.nodes})
  end

  # In each VM the snapshot and the events add up to the owner's table, and names/0 lists it.
  defp same_tables(members) do
    eventually(fn -> Enum.count(members, &(role(&1.vm) == :serving)) == 1 end)
    owner = Enum.find(members, &(role(&1.vm) == :serving))

    eventually(fn ->
      {:ok, names} = call(owner.vm, EmbeddedEpmd, :names)
      length(names) == length(members) and Enum.all?(members, &(table(&1) == Enum.sort(names) and same?(&1, names)))
    end)
  end

  defp same?(member, names), do: call(member.vm, EmbeddedEpmd, :names) == {:ok, names}

  defp table(member) do
    nodes = Map.new(member.nodes, &{&1.name, Map.delete(&1, :creation)})
    events(member) |> Enum.reduce(nodes, &apply_event/2) |> Map.values() |> Enum.sort()
  end

  defp apply_event({:registered, node}, nodes), do: Map.put(nodes, node.name, Map.delete(node, :creation))
  defp apply_event({:unregistered, node}, nodes), do: Map.delete(nodes, node.name)

  # Without changes of role.
  defp events(%{vm: vm, subscriber: subscriber}) do
    for {:embedded_epmd, {kind, _} = event} <- call(vm, Mailbox, :messages, [subscriber]), kind != :role, do: event
  end

  defp find(vm, name),
    do: call(vm, EmbeddedEpmd.Discovery, :port_please, [String.to_charlist(name), {127, 0, 0, 1}])
end
