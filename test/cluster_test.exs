defmodule EmbeddedEpmd.ClusterTest do
  use ExUnit.Case, async: true

  import EmbeddedEpmd.Vm

  alias EmbeddedEpmd.{Cluster, Registration}

  # Only the first node has a cluster, and `global` would disconnect nodes that are not all connected to each other.
  @star ~w(-kernel prevent_overlapping_partitions false)

  setup do
    %{port: free_port(), tag: unique("")}
  end

  test "connects to those of its host that fit, as they come", %{port: port, tag: tag} do
    first = start_ours("app#{tag}", port, flags: @star)
    cluster(first, nodes: ["app*", "web?_#{tag}"])
    fits = for name <- ["app#{tag}b", "web1_#{tag}"], do: start_ours(name, port, flags: @star)
    others = for name <- ["db#{tag}", "web10_#{tag}"], do: start_ours(name, port)
    nodes = for vm <- fits, do: call(vm, :erlang, :node)
    eventually(fn -> call(first, Node, :list) |> Enum.sort() == Enum.sort(nodes) end)
    # A node that went down and came back is connected again.
    [vm | _] = fits
    kill(vm)
    eventually(fn -> length(call(first, Node, :list)) == 1 end)
    start_ours("app#{tag}b", port, flags: @star)
    eventually(fn -> call(first, Node, :list) |> Enum.sort() == Enum.sort(nodes) end)
    for vm <- others, do: assert(call(vm, Node, :list) == [])
  end

  test "works in a VM that has joined, also where that asks its owner", %{port: port, tag: tag} do
    start_ours("app#{tag}a", port)

    for {name, flags} <- [{"b", []}, {"c", ~w(-embedded_epmd hand_over false)}] do
      vm = start_ours("app#{tag}#{name}", port, flags: flags)
      cluster(vm, nodes: [~r/^app/])
      eventually(fn -> :"app#{tag}a@127.0.0.1" in call(vm, Node, :list) end)
      later = start_ours("app#{tag}#{name}2", port)
      eventually(fn -> call(later, :erlang, :node) in call(vm, Node, :list) end)
    end
  end

  test "what cannot be a node's name is left alone", %{port: port, tag: tag} do
    vm = start_ours("app#{tag}", port)
    cluster(vm, [])
    process = call(vm, :erlang, :whereis, [Cluster])

    sockets =
      for name <- [String.duplicate("x", 255), "a@b"] do
        {socket, _creation} = Registration.register(name, port)
        socket
      end

    later = start_ours("later#{tag}", port)
    eventually(fn -> call(later, :erlang, :node) in call(vm, Node, :list) end)
    assert call(vm, :erlang, :whereis, [Cluster]) == process
    Enum.each(sockets, &:gen_tcp.close/1)
  end

  test "bad options are named" do
    assert_raise ArgumentError, ~r/nodes: expected a list of patterns .* got \["app@host"\]/, fn ->
      Cluster.start_link(nodes: ["app@host"])
    end

    assert_raise ArgumentError, ~r/got "app\*"/, fn -> Cluster.start_link(nodes: "app*") end

    assert_raise ArgumentError, ~r/expected the options :nodes and :name, got \[node: "a"\]/, fn ->
      Cluster.start_link(node: "a")
    end
  end

  defp cluster(vm, options) do
    supervisor = supervise(vm)
    {:ok, _} = call(vm, :supervisor, :start_child, [supervisor, Supervisor.child_spec({Cluster, options}, [])])
  end
end
