defmodule EmbeddedEpmd.DistributionTest do
  # Each kind of OTP's distribution, between two real VMs whose lookups go through this library.
  use ExUnit.Case, async: true

  import Support.Vm

  setup do
    %{port: free_port(), first: unique("first"), second: unique("second")}
  end

  test "TLS", %{port: port, first: first, second: second} do
    flags = ~w(-proto_dist inet_tls -ssl_dist_optfile #{Support.Tls.options()})
    [a, b] = for name <- [first, second], do: start_ours(name, port, flags: flags)
    assert_connected(a, b)
    assert registered(port) == Enum.sort([first, second])
    # Each has TLS processes. A node without TLS can look them up, but not connect.
    for vm <- [a, b], do: assert(call(vm, :erlang, :whereis, [:ssl_dist_sup]) |> is_pid())
    plain = start_ours(unique("plain"), port)
    assert {:port, _, _} = look_up(plain, first, {127, 0, 0, 1})
    assert call(plain, :net_adm, :ping, [node_of(a)]) == :pang
  end

  test "IPv6", %{port: port, first: first, second: second} do
    assert {:ok, socket} = :gen_tcp.listen(0, [:inet6, ip: {0, 0, 0, 0, 0, 0, 0, 1}]), "this needs the address ::1"
    :gen_tcp.close(socket)
    [a, b] = for name <- [first, second], do: start_ours(name, port, host: "::1", flags: ~w(-proto_dist inet6_tcp))
    assert_connected(a, b)
    assert call(a, EmbeddedEpmd, :status).addresses == ["::1", "127.0.0.1"]
    assert {:port, _, _} = look_up(b, first, {0, 0, 0, 0, 0, 0, 0, 1})
    # That is where OTP's client registers without inet6_tcp.
    assert {:port, _, _} = look_up(b, first, {127, 0, 0, 1})
  end

  test "short names", %{port: port, first: first, second: second} do
    {:ok, host} = :inet.gethostname()
    options = [host: to_string(host), longnames: false]
    [a, b] = for name <- [first, second], do: start_ours(name, port, options)
    assert node_of(a) == :"#{first}@#{host}"
    assert call(a, :net_kernel, :longnames) == false
    assert_connected(a, b)
  end

  test "long names", %{port: port, first: first, second: second} do
    [a, b] = for name <- [first, second], do: start_ours(name, port)
    assert call(a, :net_kernel, :longnames) == true
    assert_connected(a, b)
  end

  test "a fixed port needs no lookup, and is registered all the same", %{port: port, first: first, second: second} do
    fixed = free_port()
    a = start_ours(first, port, flags: ~w(-erl_epmd_port #{fixed}))
    # A node that expects all others at the fixed port looks nobody up: its own EPMD is on another port.
    b = start_ours(second, free_port(), flags: ~w(-erl_epmd_port #{fixed} -dist_listen false))
    assert call(b, :net_kernel, :connect_node, [node_of(a)])
    assert stock_names(port) == [%{name: first, port: fixed}]
    # A node without the flag looks it up.
    c = start_ours(unique("third"), port)
    assert_connected(c, a)
  end

  test "a range of ports", %{port: port, first: first, second: second} do
    least = free_port()
    range = least..(least + 20)
    flags = ~w(-kernel inet_dist_listen_min #{range.first} inet_dist_listen_max #{range.last})
    [a, b] = for name <- [first, second], do: start_ours(name, port, flags: flags)
    assert_connected(a, b)
    assert Enum.all?(stock_names(port), &(&1.port in range))
  end

  test "a name that the other node gives", %{port: port, first: first} do
    {:ok, host} = :inet.gethostname()
    a = start_ours(first, port, host: to_string(host), longnames: false)
    b = start_unnamed(port, ~w(-sname undefined))
    assert call(b, :erlang, :node) == :nonode@nohost
    assert call(b, :net_kernel, :connect_node, [node_of(a)])
    given = call(b, :erlang, :node)
    assert given != :nonode@nohost
    assert call(a, :erlang, :nodes, [:hidden]) == [given]
    # Such a node does not listen, so it does not register.
    assert registered(port) == [first]
  end

  test "a hidden node", %{port: port, first: first, second: second} do
    a = start_ours(first, port)
    b = start_ours(second, port, flags: ~w(-hidden))
    assert call(a, :net_kernel, :connect_node, [node_of(b)])
    assert call(a, :erlang, :nodes) == []
    assert call(a, :erlang, :nodes, [:hidden]) == [node_of(b)]
    assert registered(port) == Enum.sort([first, second])
  end

  test "a node that does not listen", %{port: port, first: first, second: second} do
    a = start_ours(first, port)
    b = start_ours(second, port, flags: ~w(-dist_listen false))
    assert registered(port) == [first]
    assert call(b, :net_kernel, :connect_node, [node_of(a)])
    assert call(a, :erlang, :nodes, [:hidden]) == [node_of(b)]
  end

  test "threads and processes say what they are", %{port: port, first: first} do
    vm = start_ours(first, port)
    supervise(vm)
    assert server_threads(pid(vm)) == 1
    server = call(vm, :erlang, :whereis, [EmbeddedEpmd.Server])
    assert {:registered_name, EmbeddedEpmd.Server} = call(vm, :erlang, :process_info, [server, :registered_name])
    assert {EmbeddedEpmd.Server, :init, 1} = call(vm, :proc_lib, :translate_initial_call, [server])
  end

  ## What is asked

  defp assert_connected(a, b) do
    assert call(a, :net_adm, :ping, [node_of(b)]) == :pong
    assert call(a, :erpc, :call, [node_of(b), :erlang, :node, []]) == node_of(b)
    assert node_of(a) in call(b, :erlang, :nodes)
  end

  defp node_of(vm), do: call(vm, :erlang, :node)

  defp look_up(vm, name, ip), do: call(vm, EmbeddedEpmd.Discovery, :port_please, [String.to_charlist(name), ip])

  defp registered(port), do: port |> stock_names() |> Enum.map(& &1.name) |> Enum.sort()
end
