defmodule EmbeddedEpmd.ConnectionTest do
  # The steps of a connection up to the other node's port, and connections without a fault.
  use ExUnit.Case, async: true

  import Support.{Faults, Vm}

  alias EmbeddedEpmd.Doctor.Connection
  alias Support.{Attacker, Carrier, Folder, Network, Tls}

  @moduletag timeout: 120_000
  @quiet ~w(-kernel logger_level none)

  setup_all :table
  setup :names

  ## Nothing is wrong

  describe "two healthy nodes:" do
    test "every step is ok, and nothing is left of it", context do
      {a, b} = pair(context)
      node = node_of(b)
      log = log_of(b)
      # The first examination may open descriptors that stay open.
      assert_healthy(examine(a, node))
      before = descriptors(pid(a))

      for _ <- 1..5 do
        findings = examine(a, node)
        assert Enum.map(findings, & &1.step) == [:name, :here, :address, :epmd, :port, :handshake, :identity]
        assert Enum.all?(findings, &(&1.status == :ok)), Connection.format(findings)
        assert Enum.all?(findings, &(is_integer(&1.took) and &1.took >= 0))
        note(context, "none", findings)
      end

      assert call(a, :erlang, :nodes, [:connected]) == []
      eventually(fn -> call(b, :erlang, :nodes, [:connected]) == [] end)
      # All six probes had one name, so the other node keeps one atom.
      assert [probe] = for(known <- call(b, :erlang, :nodes, [:known]), "#{known}" =~ "doctor", do: known)
      assert Atom.to_string(probe) =~ ~r/^doctor-#{context.here}-\d+@127\.0\.0\.1$/
      assert File.read!(log) == ""
      eventually(fn -> descriptors(pid(a)) <= before end)

      assert_connected(a, b)
      assert "#{context.here}@127.0.0.1 is connected to #{node} now." in whats(examine(a, node))
    end

    test "many ask at once", context do
      {a, b} = pair(context)
      node = node_of(b)
      all = for _ <- 1..8, do: Task.async(fn -> examine(a, node) end)
      for findings <- Task.await_many(all, 60_000), do: assert_healthy(findings)
    end

    test "over IPv6", context do
      {a, b} = pair(context, host: "::1", flags: ~w(-proto_dist inet6_tcp))
      assert_fine(context, "none, over IPv6", a, b)
    end

    test "over TLS, of two sources of its options", context do
      file = Tls.options()
      {a, b} = pair(context, flags: ~w(-proto_dist inet_tls -ssl_dist_optfile #{file}))
      assert_fine(context, "none, over TLS", a, b)

      certificate = Tls.certificate()

      flags = ~w(-proto_dist inet_tls -ssl_dist_opt server_certfile #{certificate} client_certfile #{certificate}
           server_verify verify_none client_verify verify_none)

      {a, b} = pair(%{context | here: unique("here"), other: unique("other")}, flags: flags)
      assert_fine(context, "none, over TLS by flags", a, b)
    end

    for carrier <- ["socket", "tls_socket"] do
      @tag skip: not Carrier.available?() and "needs the carriers of OTP 29"
      test "over inet_epmd and #{carrier}, one standing by for the other", context do
        {a, b} = pair(context, flags: Carrier.flags(unquote(carrier)))
        assert_fine(context, "none, over inet_epmd and #{unquote(carrier)}", a, b)
        eventually(fn -> call(a, EmbeddedEpmd, :status).stands_by or call(b, EmbeddedEpmd, :status).stands_by end)
        # Plain nodes and this one do not connect, and the doctor tells that from a carrier that it knows.
        if unquote(carrier) == "tls_socket" do
          plain = start_ours(unique("plain"), context.port)
          assert [%{what: what}] = for(%{status: :problem} = problem <- examine(plain, node_of(a)), do: problem)
          assert what =~ "speaks TLS, and this VM does not"
        end
      end
    end

    test "over a carrier that nobody here knows, of which no problem is told", context do
      a = start_ours(context.here, context.port)
      state = %{node: "b@127.0.0.1", here: nil, family: {:unknown, "inet_quic"}}
      assert {[%{status: :warning, what: what}], _} = call(a, Connection.Here, :examine, [state])
      assert what == "The distribution of this VM is inet_quic."
    end

    test "with short names", context do
      # This file alone resolves the host, since the machine's name server may not know it.
      {:ok, host} = :inet.gethostname()
      {a, b} = pair(context, host: "#{host}", longnames: false, flags: inetrc("{host,{127,0,0,1},[\"#{host}\"]}."))
      assert_fine(context, "none, short names", a, b)
    end

    test "with an endpoint", context do
      a = start_ours(context.here, context.port)
      # The nodes are registered on different ports, so only the endpoint leads to the other one.
      b = start_ours(context.other, free_port())
      {:ok, [%{port: port}]} = call(b, EmbeddedEpmd, :names)
      put(a, :endpoints, [{"#{context.other}@*", port}])
      assert_fine(context, "none, by an endpoint", a, b)
    end

    test "with the port of the child", context do
      # Nothing but the child names the port, so that the server and its lookups alone know it.
      unset = [env: [{"ERL_EPMD_PORT", ""}]]
      a = start_unnamed(nil, [], unset)
      supervise(a, port: context.port)
      {:ok, _} = become_node(a, context.here)
      b = start_ours(context.other, context.port)
      assert_fine(context, "none, port of the child", a, b)
    end

    test "with OTP's client on this side", context do
      b = start_ours(context.other, context.port)
      a = start_stock(context.here, context.port)
      assert_fine(context, "none, asked by OTP's client", a, b)
    end

    test "the settings of this side are told", context do
      flags = ~w(-hidden -dist_listen false -kernel dist_auto_connect never connect_all false net_ticktime 30)
      {a, b} = pair(context)
      lone = start_ours(unique("lone"), context.port, flags: flags)
      findings = examine(lone, node_of(b))
      assert [] == for(%{status: :problem} = problem <- findings, do: problem)
      text = Enum.join(whats(for %{step: :here} = finding <- findings, do: finding), " ")

      for told <- ["does not listen", "is hidden", "dist_auto_connect never", "connect_all false", "of 30 seconds"],
          do: assert(text =~ told)

      assert call(lone, :net_kernel, :connect_node, [node_of(a)])
    end

    test "a VM that is no node asks as one would, by the task", context do
      b = start_ours(context.other, context.port)
      home = Folder.new("home")
      File.write!(Path.join(home, ".erlang.cookie"), "test")
      assert {text, 0} = task(context, home, ["#{node_of(b)}"])
      assert text =~ "ok       #{node_of(b)} lets the probe in: the cookies are the same. ("
      File.write!(Path.join(home, ".erlang.cookie"), "another")
      assert {text, 1} = task(context, home, ["#{node_of(b)}"])
      assert text =~ "PROBLEM  #{node_of(b)} does not accept the cookie of this VM, which is that of its flag or of"
      File.rm!(Path.join(home, ".erlang.cookie"))
      assert {text, 0} = task(context, home, ["#{node_of(b)}"])
      assert text =~ "warning  #{node_of(b)} answers, but this VM has no cookie to show."
      assert {text, 1} = task(context, home, ["a@b", "c@d"])
      assert text =~ "expected one NODE at most, got: a@b c@d"
    end
  end

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

  defp log_of(vm) do
    file = Path.join(Folder.new("log"), "log")
    :ok = call(vm, :logger, :add_handler, [:file, :logger_std_h, %{config: %{file: String.to_charlist(file)}}])
    :ok = call(vm, :logger, :set_primary_config, [:level, :all])
    file
  end

  defp task(context, home, arguments) do
    System.cmd("mix", ["embedded_epmd.doctor" | arguments],
      env: [
        {"MIX_ENV", "test"},
        {"HOME", home},
        {"MIX_HOME", mix_home()},
        {"ERL_EPMD_PORT", "#{context.port}"},
        {"EMBEDDED_EPMD_NATIVE", Path.join(:code.priv_dir(:embedded_epmd), "native/epmd_nif.so")}
      ],
      stderr_to_stdout: true
    )
  end

  defp mix_home, do: System.get_env("MIX_HOME") || Path.join(System.user_home!(), ".mix")
end
