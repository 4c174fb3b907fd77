defmodule EmbeddedEpmd.HealthTest do
  # The health checks over HTTP on the EPMD's port.
  use ExUnit.Case, async: true

  import Support.{Host, Http, Rounds, Vm}
  import Support.Faults, only: [suspended: 2]

  alias EmbeddedEpmd.Boot.Client
  alias Support.{Registration, Schedulers}

  @health ~w(-embedded_epmd health true)
  # Twice the time that a VM has for its answer. On a busy machine it counts that it comes while nothing of the VM runs.
  @kept 6_000
  @within rounds(@kept, 2_000)

  setup :port_and_name

  test "without the setting a request over HTTP is closed and counts for nothing, as ever", %{port: port, name: name} do
    vm = start_ours(name, port)
    {:ok, %{requests: before}} = call(vm, EmbeddedEpmd, :stats)
    assert get(port, "/live") == :closed
    assert {:ok, %{requests: ^before}} = call(vm, EmbeddedEpmd, :stats)
  end

  test "the setting of the child counts as well", %{port: port, name: name} do
    vm = start_ours(name, port)
    assert get(port, "/ready") == :closed
    supervise(vm, health: true)
    assert {503, _} = get(port, "/ready")
  end

  test "a VM is alive while its supervised process answers", %{port: port, name: name} do
    vm = start_ours(name, port, flags: @health)
    assert get(port, "/live") == {503, "the process EmbeddedEpmd does not run in the VM\n"}
    supervise(vm)
    assert get(port, "/live") == {200, "the VM is alive\n"}
    # The next process is asked, though this one has not answered.
    server = server(vm)
    :ok = call(vm, :sys, :suspend, [server])
    assert {503, "no process" <> _} = get(port, "/live")
    call(vm, Process, :exit, [server, :kill])
    eventually(fn -> match?({200, _}, get(port, "/live")) end)
  end

  for {keep, how} <- [block: "blocked", occupy: "busy with others"] do
    test "while the schedulers are #{how} a VM is not alive, its node is found, and it is alive afterwards", context do
      %{port: port, name: name} = context
      vm = start_ours(name, port, flags: @health)
      supervise(vm)
      {:ok, %{requests: before}} = call(vm, EmbeddedEpmd, :stats)
      :peer.cast(vm, Schedulers, unquote(keep), [@kept])
      silent = {503, "no process of the VM answered within 900 ms\n"}
      eventually(fn -> match?({_, ^silent}, timed(fn -> get(port, "/live") end)) end)

      # They all wait for one answer.
      probes = for _ <- 1..100, do: Task.async(fn -> timed(fn -> get(port, "/live") end) end)
      assert {:port, _, _} = Client.port(name, {127, 0, 0, 1}, port, 5_000)
      # It does not wait for theirs.
      assert Enum.all?(probes, &(Task.yield(&1, 0) == nil))
      assert {503, _} = get(port, "/live")
      for {took, response} <- Task.await_many(probes, 10_000), do: assert({took < @within, response} == {true, silent})
      assert [%{name: ^name}] = stock_names(port)
      eventually(fn -> match?({200, _}, get(port, "/live")) end)
      {:ok, %{requests: requests}} = call(vm, EmbeddedEpmd, :stats)
      assert requests.probes - before.probes > 100
    end
  end

  test "a process that does not answer gets one message, however many probes there are", %{port: port, name: name} do
    vm = start_ours(name, port, flags: @health)
    supervise(vm)
    server = server(vm)
    :ok = call(vm, :sys, :suspend, [server])
    probes = for _ <- 1..100, do: Task.async(fn -> get(port, "/live") end)
    for response <- Task.await_many(probes, 10_000), do: assert({503, "no process" <> _} = response)
    {:messages, messages} = call(vm, Process, :info, [server, :messages])
    assert Enum.count(messages, &(&1 == {:embedded_epmd, :probe})) == 1
    :ok = call(vm, :sys, :resume, [server])
    eventually(fn -> match?({200, _}, get(port, "/live")) end)
  end

  test "a VM is ready when it says so, until it says otherwise, also over a restart of its server", context do
    %{port: port, name: name} = context
    vm = start_ours(name, port, flags: @health)
    supervise(vm)
    not_ready = {503, "the VM is not ready: its application has not called EmbeddedEpmd.ready(true)\n"}
    assert get(port, "/ready") == not_ready
    assert call(vm, EmbeddedEpmd, :ready, [true]) == :ok
    assert get(port, "/ready") == {200, "the VM is ready\n"}
    {:ok, server} = call(vm, EmbeddedEpmd.Boot.Lifecycle, :server)
    call(vm, EmbeddedEpmd.Native, :stop, [server, false])
    eventually(fn -> match?([_], listeners(port)) and match?({200, _}, get(port, "/ready")) end)
    assert call(vm, EmbeddedEpmd, :ready, [false]) == :ok
    assert get(port, "/ready") == not_ready
    assert_raise ArgumentError, ~r/must be true or false, got: :yes/, fn -> EmbeddedEpmd.ready(:yes) end
  end

  test "with a cluster it is ready while the nodes that it expects are connected", %{port: port, name: name} do
    vm = start_ours(name, port, flags: @health ++ ~w(-kernel prevent_overlapping_partitions false))
    supervise(vm)
    call(vm, EmbeddedEpmd, :ready, [true])
    {:ok, _} = call(vm, GenServer, :start, [EmbeddedEpmd.Cluster, {["app*"], []}, [name: EmbeddedEpmd.Cluster]])
    eventually(fn -> match?({200, _}, get(port, "/ready")) end)
    other = start_ours("app#{name}", port)
    eventually(fn -> call(other, :erlang, :node) in call(vm, Node, :list) end)
    eventually(fn -> match?({200, _}, get(port, "/ready")) end)
    assert metric(port, "cluster_nodes_expected") == 2
    ready = {200, "the VM is ready\n"}
    other_node = call(other, :erlang, :node)

    # Three times, since the nodes are also looked at every five seconds.
    for _ <- 1..3 do
      # It registers, and nobody can connect to it.
      {socket, _} = Registration.register("appless#{name}", port)
      soon(port, {503, "the VM is not ready: 2 of the 3 expected nodes are connected\n"})
      :gen_tcp.close(socket)
      soon(port, ready)

      # A connection ends while its node stays registered.
      call(vm, :erlang, :set_cookie, [other_node, :wrong])
      call(vm, :erlang, :disconnect_node, [other_node])
      soon(port, {503, "the VM is not ready: 1 of the 2 expected nodes are connected\n"})
      call(vm, :erlang, :set_cookie, [other_node, :test])
      # It ends as an attempt of the cluster does that has just begun with the wrong cookie.
      eventually(fn -> call(vm, Node, :connect, [other_node]) end)
      soon(port, ready)
    end
  end

  test "of several VMs of a host each is asked by the name of its node", %{port: port, name: name} do
    owner = start_ours(name, port, flags: @health)
    supervise(owner)
    follower = unique("follower")
    vm = start_ours(follower, port, flags: @health)
    supervise(vm)
    stock = unique("stock")
    start_stock(stock, port)
    alone = unique("alone")
    start_ours(alone, port, flags: ~w(-embedded_epmd hand_over false))
    eventually(fn -> match?([_], call(owner, EmbeddedEpmd, :status).standbys) end)

    assert get(port, "/live/#{name}") == {200, "the VM is alive\n"}
    assert get(port, "/live/#{follower}") == {200, "the VM is alive\n"}
    assert {503, _} = get(port, "/ready/#{follower}")
    call(vm, EmbeddedEpmd, :ready, [true])
    assert {200, _} = get(port, "/ready/#{follower}")
    assert {503, _} = get(port, "/ready")

    for other <- [stock, alone],
        do: assert({404, "the VM of this node cannot be asked" <> _} = get(port, "/live/#{other}"))

    assert get(port, "/live/nobody") == {404, "no node of this name is registered\n"}

    # One that hangs.
    suspended(vm, fn ->
      for path <- ["/live/", "/ready/"] do
        {took, response} = timed(fn -> get(port, path <> follower) end)
        assert {took < @within, response} == {true, {503, "the VM did not answer within 900 ms\n"}}
      end

      assert {200, _} = get(port, "/live")
    end)

    eventually(fn -> match?({200, _}, get(port, "/live/#{follower}")) end)

    # The standby answers when its owner has gone.
    kill(owner)
    eventually(fn -> role(vm) == :serving end)
    assert {200, _} = get(port, "/live")
    assert {200, _} = get(port, "/ready")
    eventually(fn -> match?({404, _}, get(port, "/live/#{name}")) end)
  end

  test "a request may come in pieces, must be one of HTTP, and the port goes on as before", %{port: port, name: name} do
    vm = start_ours(name, port, flags: @health)
    supervise(vm)
    assert {200, _} = send_raw(port, ["G", "E", "T /live HTTP/1.0\r\n", "\r\n"])
    assert {400, _} = send_raw(port, ["GET /live\r\n\r\n"])
    assert {400, _} = send_raw(port, ["GET /live HTTP/1.1\r\nA: " <> String.duplicate("x", 5_000) <> "\r\n\r\n"])
    assert {404, _} = get(port, "/")
    # Nothing else of HTTP is any different from other bytes that are no request.
    assert send_raw(port, ["HEAD /live HTTP/1.1\r\n\r\n"]) == :closed
    assert {:port, _, _} = Client.port(name, {127, 0, 0, 1}, port, 5_000)
  end

  test "the metrics are those of stats, name nobody, and Prometheus takes them", %{port: port, name: name} do
    vm = start_ours(name, port, flags: @health)
    supervise(vm)
    {:port, _, _} = Client.port(name, {127, 0, 0, 1}, port, 5_000)
    {200, text} = get(port, "/metrics")
    refute text =~ name
    {:ok, stats} = call(vm, EmbeddedEpmd, :stats)
    assert metric(text, ~s(requests_total{request="lookup",outcome="found"})) == stats.requests.port_please.found
    assert metric(text, "names") == 1
    assert metric(text, ~s(role{role="serving"})) == 1
    refute text =~ "cluster"

    assert Enum.all?(
             String.split(text, "\n", trim: true),
             &(&1 =~ ~r/^(# (HELP|TYPE) )?embedded_epmd_[a-z_]+(\{[^}]*\})? ./)
           )
  end

  defp soon(port, response), do: eventually(fn -> get(port, "/ready") == response end, 2_000)

  defp metric(port, name) when is_integer(port) do
    {200, text} = get(port, "/metrics")
    metric(text, name)
  end

  defp metric(text, name) do
    line = Enum.find(String.split(text, "\n"), &String.starts_with?(&1, "embedded_epmd_#{name} "))
    line |> String.split(" ") |> List.last() |> String.to_integer()
  end
end
