defmodule EmbeddedEpmd.NodeTest do
  use ExUnit.Case, async: true

  import Support.Vm

  setup :port_and_name

  test "a node is registered when it has booted, and everybody finds it", %{
    port: port,
    name: name
  } do
    vm = start_ours(name, port)
    assert call(vm, EmbeddedEpmd, :status).role == :serving
    assert [%{name: ^name, port: dist}] = stock_names(port)
    assert {:ok, [%{name: ^name, port: ^dist}]} = call(vm, EmbeddedEpmd, :names)
    assert call(vm, :net_adm, :names) == {:ok, [{String.to_charlist(name), dist}]}

    assert {:port, ^dist, 6} = call(vm, EmbeddedEpmd.Discovery, :port_please, [~c"#{name}", {127, 0, 0, 1}])

    assert :noport == call(vm, EmbeddedEpmd.Discovery, :port_please, [~c"nobody", {127, 0, 0, 1}])
    assert call(vm, :erlang, :system_info, [:creation]) >= 4
    assert server_threads(pid(vm)) == 1
  end

  test "a stock node registers with us, finds us and is found, and its name goes with it", %{
    port: port,
    name: name
  } do
    ours = start_ours(name, port)
    stock_name = unique("stock")
    stock = start_stock(stock_name, port)

    assert call(stock, :net_adm, :ping, [:"#{name}@127.0.0.1"]) == :pong
    assert call(ours, :erlang, :nodes) == [:"#{stock_name}@127.0.0.1"]
    assert {:ok, names} = call(ours, EmbeddedEpmd, :names)
    assert Enum.map(names, &Map.delete(&1, :user)) == stock_names(port)
    {user, 0} = System.cmd("id", ["-u"])
    assert Enum.uniq(Enum.map(names, & &1.user)) == [user |> String.trim() |> String.to_integer()]
    assert Enum.map(names, & &1.name) == [stock_name, name]

    other = start_stock(unique("other"), port)
    assert call(ours, :net_adm, :ping, [call(other, :erlang, :node)]) == :pong

    :peer.stop(stock)
    eventually(fn -> stock_name not in Enum.map(stock_names(port), & &1.name) end)
  end

  test "a second VM joins the first, and serves when that is killed", %{port: port, name: name} do
    first = start_ours(name, port)
    second_name = unique("second")
    second = start_ours(second_name, port)
    assert call(second, EmbeddedEpmd, :status).role == :joined
    assert {:ok, names} = call(second, EmbeddedEpmd, :names)
    assert {:ok, names} == call(first, EmbeddedEpmd, :names)
    creation = call(second, :erlang, :system_info, [:creation])

    kill(first)
    eventually(fn -> call(second, EmbeddedEpmd, :status).role == :serving end)
    assert [%{name: ^second_name}] = stock_names(port)
    assert call(second, :erlang, :system_info, [:creation]) == creation
  end

  test "Node.stop takes the name out, Node.start puts it back", %{port: port, name: name} do
    vm = start_unnamed(port)
    supervise(vm)

    for _ <- 1..5 do
      assert {:ok, _} = call(vm, :net_kernel, :start, [[:"#{name}@127.0.0.1", :longnames]])
      assert [%{name: ^name}] = stock_names(port)
      assert server_threads(pid(vm)) == 1
      assert :ok == call(vm, :net_kernel, :stop)
      eventually(fn -> stock_names(port) == :none end)
    end

    eventually(fn -> server_threads(pid(vm)) == 0 end)
  end

  test "a name that is taken is refused as OTP refuses it", %{port: port, name: name} do
    _holder = start_ours(name, port)

    vm = start_unnamed(port)
    # OTP reports the failed start at length.
    call(vm, :logger, :set_primary_config, [:level, :none])

    assert {:error, _} = call(vm, :net_kernel, :start, [[:"#{name}@127.0.0.1", :longnames]])
    assert length(stock_names(port)) == 1
  end

  test "the supervised process killed 100 times: no leak, and no lookup fails", %{
    port: port,
    name: name
  } do
    vm = start_ours(name, port)
    supervise(vm)
    pid = pid(vm)
    before = descriptors(pid)

    asked = :counters.new(1, [])
    asker = Task.async(fn -> ask(name, port, asked) end)

    Enum.reduce(1..100, nil, fn _, last ->
      server =
        eventually(fn ->
          server = call(vm, :erlang, :whereis, [EmbeddedEpmd.Server])
          is_pid(server) and server != last and server
        end)

      call(vm, :erlang, :exit, [server, :kill])
      # Wait for a lookup between two kills, however fast the machine is.
      before = :counters.get(asked, 1)
      eventually(fn -> :counters.get(asked, 1) > before or not Process.alive?(asker.pid) end)
      server
    end)

    send(asker.pid, :stop)
    assert Task.await(asker, 30_000) >= 100
    eventually(fn -> is_pid(call(vm, :erlang, :whereis, [EmbeddedEpmd.Server])) end)
    assert server_threads(pid) == 1
    assert descriptors(pid) <= before + 1
    assert call(vm, EmbeddedEpmd, :status).role == :serving
  end

  test "programs that the VM starts do not inherit our sockets", %{port: port, name: name} do
    vm = start_ours(name, port)
    _stock = start_stock(unique("stock"), port)
    listing = vm |> call(:os, :cmd, [~c"ls -l /proc/self/fd"]) |> List.to_string()
    assert listing =~ "/proc"
    refute listing =~ "socket:"
  end

  # Looks the name up until told to stop; returns the number of lookups.
  defp ask(name, port, asked) do
    assert [%{name: ^name}] = stock_names(port)
    :counters.add(asked, 1, 1)

    receive do
      :stop -> :counters.get(asked, 1)
    after
      0 -> ask(name, port, asked)
    end
  end
end
