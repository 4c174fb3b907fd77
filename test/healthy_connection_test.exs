defmodule EmbeddedEpmd.HealthyConnectionTest do
  # Two nodes with nothing wrong between them, however they are connected.
  use ExUnit.Case, async: true

  import Support.{Faults, Vm}

  alias EmbeddedEpmd.Doctor.Connection
  alias Support.{Carrier, Folder, Project, Tls}

  setup_all :table
  setup :names

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

  defp log_of(vm) do
    file = Path.join(Folder.new("log"), "log")
    :ok = call(vm, :logger, :add_handler, [:file, :logger_std_h, %{config: %{file: String.to_charlist(file)}}])
    :ok = call(vm, :logger, :set_primary_config, [:level, :all])
    file
  end

  defp task(context, home, arguments) do
    System.cmd("mix", ["embedded_epmd.doctor" | arguments],
      env: Project.here() ++ [{"HOME", home}, {"MIX_HOME", mix_home()}, {"ERL_EPMD_PORT", "#{context.port}"}],
      stderr_to_stdout: true
    )
  end

  defp mix_home, do: System.get_env("MIX_HOME") || Path.join(System.user_home!(), ".mix")
end
