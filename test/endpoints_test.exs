defmodule EmbeddedEpmd.EndpointsTest do
  use ExUnit.Case, async: true

  import Support.Vm

  alias EmbeddedEpmd.Boot.Config
  alias EmbeddedEpmd.{Discovery, Endpoints}
  alias Support.{Forwarder, Mesh, Network}

  @outside {10, 99, 0, 1}
  @other_outside {10, 99, 0, 2}

  test "the first that matches counts" do
    vm = start_ours(unique("asks"), free_port(), flags: ~w(-kernel logger_level none))
    set(vm, :endpoints, [{"app@db.internal", {"10.0.0.2", 1}}, {"app@*", {"10.0.0.3", 2}}, {"*", {"10.0.0.4", 3}}])
    assert please(vm, "app", "db.internal") == {:ok, {10, 0, 0, 2}, 1, 6}
    assert please(vm, "app", "other") == {:ok, {10, 0, 0, 3}, 2, 6}
    assert please(vm, "db", "db.internal") == {:ok, {10, 0, 0, 4}, 3, 6}
    set(vm, :endpoints, [{"*", {"10.0.0.4", 3}}, {"app@db.internal", {"10.0.0.2", 1}}])
    assert please(vm, "app", "db.internal") == {:ok, {10, 0, 0, 4}, 3, 6}
  end

  for {what, setting, sentence} <- [
        {"a map", %{"app@db" => 1},
         "must be a list of nodes with endpoints, or {module, function}, got: \#{<<\"app@db\">> => 1}"},
        {"a name without a host", [{"app", 9100}], "got: {<<\"app\">>,9100}"},
        {"an atom for a name", [{:app@db, 9100}], "got: {app@db,9100}"},
        {"port 0", [{"app@db", {"db", 0}}], "got: {<<\"app@db\">>,{<<\"db\">>,0}}"},
        {"no host", [{"app@db", {"", 1}}], "{host, port}, a port, or {module, function}, got:"},
        {"no address", [{"app@db", {{1, 2, 3}, 1}}], "got: {<<\"app@db\">>,{{1,2,3},1}}"}
      ] do
    test "#{what} is refused, with what came" do
      error = assert_raise ArgumentError, fn -> Config.load(endpoints: unquote(Macro.escape(setting))) end
      assert error.message =~ "embedded_epmd: the option endpoints must be a list of nodes"
      assert error.message =~ unquote(sentence)
    end
  end

  test "an advertised port is one" do
    assert Config.load(advertised_port: 30_100).advertised_port == 30_100

    for wrong <- [0, "x", [port: 1], 65_536] do
      error = assert_raise ArgumentError, fn -> Config.load(advertised_port: wrong) end
      assert error.message =~ "the option advertised_port must be a port from 1 to 65535, got: "
    end
  end

  test "endpoints are found in a VM as it runs; where there is none the host is resolved" do
    vm = start_ours(unique("asks"), free_port(), flags: ~w(-kernel logger_level none))

    set(vm, :endpoints, [
      {"app@db.internal", {"10.0.0.2", 9100}},
      {"*@127.0.0.1", 30_100},
      {"six@*", {"fd00::6", 6}},
      {"mine@raises.internal", {Mesh, :raises}},
      {"mine@hangs.internal", {Mesh, :hangs}},
      {"mine@wrong.internal", {Mesh, :wrong}},
      {"mine@*", {Mesh, :mine}}
    ])

    assert please(vm, "app", "db.internal") == {:ok, {10, 0, 0, 2}, 9100, 6}
    assert please(vm, "app", "127.0.0.1") == {:ok, {127, 0, 0, 1}, 30_100, 6}
    assert please(vm, "app", "127.0.0.2") == {:ok, {127, 0, 0, 2}}
    assert please(vm, "six", "a.b", :inet6) == {:ok, {0xFD00, 0, 0, 0, 0, 0, 0, 6}, 6, 6}
    assert {:error, _} = please(vm, "six", "a.b", :inet)
    assert please(vm, "mine", "10.1.1.1") == {:ok, {10, 0, 0, 9}, 9, 6}
    # If a function fails, the next pattern counts.
    for host <- ["raises.internal", "hangs.internal", "wrong.internal"],
        do: assert(please(vm, "mine", host) == {:ok, {10, 0, 0, 9}, 9, 6})

    set(vm, :endpoints, {Mesh, :mine})
    assert please(vm, "other", "127.0.0.3") == {:ok, {127, 0, 0, 3}}
    # An invalid setting does not end the VM.
    set(vm, :endpoints, :wrong)
    assert please(vm, "app", "127.0.0.1") == {:ok, {127, 0, 0, 1}}
  end

  test "the advertised port is registered" do
    port = free_port()
    name = unique("behind")
    vm = start_ours(name, port, flags: ~w(-embedded_epmd advertised_port 30100))
    assert stock_names(port) == [%{name: name, port: 30_100}]
    # A node whose server was restarted registers with the same port again.
    {:ok, server} = call(vm, EmbeddedEpmd.Boot.Lifecycle, :server)
    supervise(vm)
    :ok = call(vm, EmbeddedEpmd.Native, :stop, [server, false])
    eventually(fn -> stock_names(port) == [%{name: name, port: 30_100}] end)
  end

  test "two nodes in networks of their own connect by endpoints, and by what is advertised, in both directions" do
    [one, other] = Network.start_linked("10.99.0.1", "10.99.0.2")
    port = free_port()

    # Each node listens on its own loopback; only its forwarder can be reached from the other network.
    [{a, _}, {b, _}] =
      for {network, ip} <- [{one, @outside}, {other, @other_outside}] do
        name = unique("inside")
        vm = start_ours(name, port, [Network.option(network), flags: flags()])
        {:port, inner, _} = call(vm, Discovery, :port_please, [String.to_charlist(name), {127, 0, 0, 1}])
        :ok = call(vm, Forwarder, :start, [ip, 30_100, {{127, 0, 0, 1}, inner}])
        {vm, inner}
      end

    [a_node, b_node] = for vm <- [a, b], do: call(vm, :erlang, :node)
    # Without endpoints each node looks the other one up in its own network.
    refute call(a, :net_kernel, :connect_node, [b_node])

    set(a, :endpoints, [{Atom.to_string(b_node), {"10.99.0.2", 30_100}}])
    assert call(a, :net_kernel, :connect_node, [b_node])
    assert call(b, :erlang, :nodes) == [a_node]
    assert call(a, :erpc, :call, [b_node, :erlang, :node, []]) == b_node

    # What `global` still has to say to the other node would connect again.
    set(a, :endpoints, [])
    call(a, :erlang, :disconnect_node, [b_node])
    eventually(fn -> call(b, :erlang, :nodes) == [] end)
    refute call(b, :net_kernel, :connect_node, [a_node])
    set(b, :endpoints, [{"*@127.0.0.1", {"10.99.0.1", 30_100}}])
    assert call(b, :net_kernel, :connect_node, [a_node])
    assert call(a, :erlang, :nodes) == [b_node]
  end

  test "a node behind a forwarder that advertises its port is found by the EPMD of its network" do
    [one, other] = Network.start_linked("10.99.0.1", "10.99.0.2")
    port = free_port()
    everywhere = [{"ERL_EPMD_ADDRESS", "0.0.0.0"}]

    a =
      start_ours(unique("seen"), port, [
        Network.option(one),
        env: everywhere,
        host: "10.99.0.1",
        flags: behind(9_100, 30_100)
      ])

    b = start_ours(unique("asks"), port, [Network.option(other), host: "10.99.0.2"])
    :ok = call(a, Forwarder, :start, [@outside, 30_100, {@outside, 9_100}])
    a_node = call(a, :erlang, :node)
    [name, _] = a_node |> Atom.to_charlist() |> :string.split("@")
    assert call(b, Discovery, :port_please, [name, @outside]) == {:port, 30_100, 6}
    assert call(b, :net_kernel, :connect_node, [a_node])
  end

  ## What is done there

  defp flags, do: ~w(-kernel logger_level none)

  defp behind(inner, outer) do
    flags() ++
      ~w(inet_dist_listen_min #{inner} inet_dist_listen_max #{inner}) ++
      ~w(-embedded_epmd advertised_port #{outer})
  end

  defp set(vm, key, value), do: :ok = call(vm, :application, :set_env, [:embedded_epmd, key, value])

  defp please(vm, name, host, family \\ :inet),
    do: call(vm, Discovery, :address_please, [String.to_charlist(name), String.to_charlist(host), family])
end
