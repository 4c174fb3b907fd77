defmodule EmbeddedEpmd.ConnectionTest do
  # The steps of a connection up to the other node's port.
  use ExUnit.Case, async: true

  import Support.{Faults, Vm}

  alias Support.{Attacker, Network}

  @quiet ~w(-kernel logger_level none)

  setup_all :table
  setup :names

  ## The name

  test "no name, and its own", context do
    a = start_ours(context.here, context.port)

    for malformed <- ["other", "other@", "@host", "a@b@c", String.duplicate("x", 250) <> "@host.b"] do
      assert [%{status: :problem, step: :name, what: what}] = examine(a, malformed)
      assert what == "#{inspect(malformed)} is no name of a node."
    end

    assert [%{status: :problem, what: what}] = examine(a, node_of(a))
    assert what == "#{node_of(a)} is this node."
  end

  test "a long name asks for a short one, and a short one for a long one", context do
    {:ok, host} = :inet.gethostname()
    long = start_ours(context.here, context.port, flags: @quiet)

    short =
      start_ours(context.other, context.port,
        host: "#{host}",
        longnames: false,
        flags: inetrc("{host,{127,0,0,1},[\"#{host}\"]}.") ++ @quiet
      )

    assert_fault(context, "short name, asked by a long one", long, node_of(short), :name, "has a long name, and")
    assert_fault(context, "long name, asked by a short one", short, node_of(long), :name, "has a short name, and")
  end

  ## The address

  test "a host without an address, and one of the other family", context do
    a = start_ours(context.here, context.port, flags: inetrc("{host,{64768,0,0,0,0,0,0,7},[\"six.internal\"]}."))

    assert_fault(context, "unknown host", a, :"x@db.internal", :address, "The host db.internal has no IPv4 address")

    problem =
      assert_fault(context, "host with IPv6 only", a, :"x@six.internal", :address, "The host six.internal has no IPv4")

    assert problem.fix =~ "It has the IPv6 address fd00::7: start all nodes with -proto_dist inet6_tcp"
  end

  test "a host that the hosts file says is this machine", context do
    a = start_ours(context.here, context.port, flags: inetrc("{host,{127,0,1,1},[\"db.internal\"]}."))
    assert_fault(context, "hosts file says 127.0.1.1", a, :"x@db.internal", :epmd, "of 127.0.1.1 refuses connections.")
    findings = examine(a, :"x@db.internal")
    assert %{status: :warning, what: what} = Enum.find(findings, &(&1.step == :address))
    assert what == "The host db.internal is 127.0.1.1, which is this machine."
  end

  test "what the hosts file and the DNS say", context do
    lines = name_server({127, 0, 0, 9}) <> "\n{host,{127,0,0,7},[\"db.internal\"]}."
    a = start_ours(context.here, context.port, flags: inetrc(lines, [:file, :dns]))
    address = fn host -> for %{step: :address} = finding <- examine(a, "x@#{host}"), do: finding end

    assert [%{status: :warning, what: loopback}, %{status: :warning, what: differ}, %{status: :ok, what: by}] =
             address.("db.internal")

    assert loopback == "The host db.internal is 127.0.0.7, which is this machine."
    assert differ == "The host db.internal is 127.0.0.7; by the DNS it is 127.0.0.9."
    assert by == "The host db.internal is 127.0.0.7, by the hosts file."
    assert "The host app.internal is 127.0.0.9, by the DNS." in whats(address.("app.internal"))

    assert_fault(
      context,
      "old entry in the hosts file",
      a,
      :"x@db.internal",
      :epmd,
      "of 127.0.0.7 refuses connections."
    )
  end

  test "a host's name that the DNS cannot have", context do
    a = start_ours(context.here, context.port, flags: inetrc(name_server({127, 0, 0, 9}), [:file, :dns]))
    [problem] = for %{step: :address} = found <- examine(a, "x@#{String.duplicate("h", 64)}.internal"), do: found
    assert problem.what =~ "has no IPv4 address: invalid argument."
  end

  test "names that are unlikely", context do
    a = start_ours(context.here, context.port, host: "127.0.0.1")
    [%{status: :warning, what: characters} | _] = examine(a, "my.app@127.0.0.1")
    assert characters == "my.app@127.0.0.1 has characters that OTP gives no node."

    flags = inetrc("{host,{127,0,0,1},[\"localhost\"]}.")
    short = start_ours(context.other, context.port, host: "localhost", longnames: false, flags: flags)
    [%{status: :warning, what: there} | _] = examine(short, "x@localhost")
    assert there == "The host of x@localhost is localhost."
    [%{status: :warning, what: here} | _] = examine(short, "x@db")
    assert here == "The host of this node, #{node_of(short)}, is localhost."
  end

  ## The EPMD

  test "nobody has the EPMD's port", context do
    a = start_ours(context.here, context.port)
    assert_fault(context, "no EPMD", a, :"x@127.0.0.9", :epmd, "Port #{context.port} of 127.0.0.9 refuses connections.")
  end

  test "another program has the EPMD's port", context do
    a = start_ours(context.here, context.port)
    Attacker.answers(["HTTP/1.1 400 Bad Request\r\n\r\n"], ip: {127, 0, 0, 9}, port: context.port)

    assert_fault(
      context,
      "no EPMD, but HTTP",
      a,
      :"x@127.0.0.9",
      :epmd,
      "of 127.0.0.9 takes connections, but is no EPMD"
    )
  end

  test "the EPMD hangs", context do
    a = start_ours(context.here, context.port)
    b = start_ours(context.other, context.port, host: "127.0.0.9")
    node = node_of(b)
    suspended(b, fn -> assert_fault(context, "EPMD hangs", a, node, :epmd, "answers nothing within 3 seconds.") end)
  end

  test "the EPMD does not know the name, but one that is near", context do
    {a, _b} = pair(context)
    near = String.replace(context.other, "other", "ohter")
    sentence = "the EPMD does not know #{near}. It knows #{context.other}, "
    problem = assert_fault(context, "name misspelt", a, :"#{near}@127.0.0.1", :epmd, sentence)
    assert problem.what =~ "which is near."
    assert_fault(context, "no such name", a, :"zzz@127.0.0.1", :epmd, "It knows #{context.here}, #{context.other}.")
  end

  test "a node of before OTP 23", context do
    a = start_ours(context.here, context.port, flags: @quiet)
    register(context, free_port(), 5)
    sentence = "which speaks version 5 of the distribution protocol."
    assert_fault(context, "OTP 22", a, :"#{context.other}@127.0.0.1", :epmd, sentence)
  end

  ## The node's port

  test "the node listens at another address", context do
    a = start_ours(context.here, context.port)
    b = start_ours(context.other, context.port, host: "127.0.0.2", env: [{"ERL_EPMD_ADDRESS", "127.0.0.1"}])
    # It is registered with the EPMD of 127.0.0.1, and listens at 127.0.0.2.
    assert node_of(b) == :"#{context.other}@127.0.0.2"

    assert_fault(
      context,
      "node elsewhere",
      a,
      :"#{context.other}@127.0.0.1",
      :port,
      "of 127.0.0.1 refuses connections."
    )
  end

  test "a firewall: no answer from the EPMD, from the node, none let out, and no way at all", context do
    network = Network.start()
    option = Network.option(network)
    inner = free_port()
    flags = ~w(-kernel inet_dist_listen_min #{inner} inet_dist_listen_max #{inner})
    a = start_ours(context.here, context.port, [option])
    b = start_ours(context.other, context.port, [option, host: "127.0.0.9", flags: flags])
    assert_healthy(examine(a, node_of(b)))

    Network.drop(network, inner)
    sentence = "Port #{inner} of 127.0.0.9 does not answer within 3 seconds."
    problem = assert_fault(context, "firewall before the node", a, node_of(b), :port, sentence)
    assert problem.fix =~ "Open the ports that nodes take, any unless inet_dist_listen_min"

    Network.run(network, ~w(ip rule add pref 11 ipproto 6 sport #{context.port} blackhole))
    sentence = "Port #{context.port} of 127.0.0.9 does not answer within 3 seconds."
    assert_fault(context, "firewall before the EPMD", a, node_of(b), :epmd, sentence)

    Network.run(network, ~w(ip address add 10.99.0.1/24 dev lo))
    Network.run(network, ~w(ip route add prohibit 10.98.0.1))
    sentence = "Port #{context.port} of 10.98.0.1 is closed to this machine by itself: permission denied."
    assert_fault(context, "firewall of this machine", a, :"x@10.98.0.1", :epmd, sentence)
    assert_fault(context, "no route", a, :"x@10.97.0.1", :epmd, "Port #{context.port} of 10.97.0.1 cannot be reached")
  end

  test "an EPMD that does not answer this host", context do
    [one, other] = Network.start_linked("10.99.0.1", "10.99.0.2")
    a = start_ours(context.here, context.port, [Network.option(one), host: "10.99.0.1"])
    flags = ["-embedded_epmd", "allow", "[<<\"10.1.0.0/16\">>]"]
    b = start_ours(context.other, context.port, [Network.option(other), host: "10.99.0.2", flags: flags])
    assert_fault(context, "EPMD with an allow-list", a, node_of(b), :epmd, "does not answer this host")
  end
end
