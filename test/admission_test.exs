defmodule EmbeddedEpmd.AdmissionTest do
  # Two nodes whose ports can be reached: whether one accepts the other.
  use ExUnit.Case, async: true

  import Support.{Faults, Vm}

  alias EmbeddedEpmd.Doctor.Connection.Admission
  alias Support.{Attacker, Tls}

  @quiet ~w(-kernel logger_level none)

  setup_all :table
  setup :names

  ## The handshake

  test "the node's VM hangs", context do
    a = start_ours(context.here, context.port)
    b = start_ours(context.other, context.port)
    node = node_of(b)

    suspended(b, fn ->
      assert_fault(context, "VM hangs", a, node, :handshake, "takes the connection, and says nothing.")
    end)
  end

  test "another program has the node's port", context do
    a = start_ours(context.here, context.port)
    node = :"#{context.other}@127.0.0.1"
    register(context, Attacker.answers(["HTTP/1.1 400 Bad Request\r\n\r\n"]), 6)
    assert_fault(context, "no node, but HTTP", a, node, :handshake, "Whoever answers for #{node} is no Erlang node")
  end

  test "nobody is behind the node's port", context do
    a = start_ours(context.here, context.port)
    register(context, Attacker.answers([]), 6)
    node = :"#{context.other}@127.0.0.1"

    assert_fault(
      context,
      "forwarder to nowhere",
      a,
      node,
      :handshake,
      "ends them at the first message: connection closed."
    )
  end

  test "another node has the port", context do
    {a, b} = pair(context, flags: @quiet)
    {:ok, names} = call(a, EmbeddedEpmd, :names)
    %{port: port} = Enum.find(names, &(&1.name == context.other))
    put(a, :endpoints, [{"third@127.0.0.1", port}])
    sentence = "At that port the node #{node_of(b)} answers, and not third@127.0.0.1."
    assert_fault(context, "endpoint to another node", a, :"third@127.0.0.1", :handshake, sentence)
  end

  test "the other speaks TLS, this one does not, and the reverse", context do
    tls = ~w(-proto_dist inet_tls -ssl_dist_optfile #{Tls.options()}) ++ @quiet
    a = start_ours(context.here, context.port, flags: @quiet)
    b = start_ours(context.other, context.port, flags: tls)
    assert_fault(context, "TLS there", a, node_of(b), :handshake, "#{node_of(b)} speaks TLS, and this VM does not.")
    assert_fault(context, "TLS here", b, node_of(a), :handshake, "This VM speaks TLS, and #{node_of(a)} does not.")
  end

  for {who, client} <- [{"this one", :verify_peer}, {"the other", :verify_none}] do
    test "a certificate that #{who} does not accept", context do
      [a, b] =
        for name <- [context.here, context.other] do
          # Each trusts its own authority only.
          options = Tls.options(:verify_peer, unquote(client))
          start_ours(name, context.port, flags: ~w(-proto_dist inet_tls -ssl_dist_optfile #{options}) ++ @quiet)
        end

      sentence = "#{node_of(b)} and this VM do not agree on TLS: alert unknown_ca."
      assert_fault(context, "certificate refused by #{unquote(who)}", a, node_of(b), :handshake, sentence)
    end
  end

  test "not allowed, there and here", context do
    {a, b} = pair(context, flags: @quiet)
    :ok = call(b, :net_kernel, :allow, [[:"friend@127.0.0.5"]])
    assert_fault(context, "not allowed there", a, node_of(b), :handshake, "does not allow doctor-#{context.here}-")
    assert_fault(context, "not allowed here", b, node_of(a), :here, "This node does not allow #{node_of(a)}")
  end

  test "the cookie differs, here, there, or for that node alone", context do
    {a, b} = pair(context, flags: @quiet)
    node = node_of(b)
    refused = "#{node} does not accept the cookie of this VM"
    true = call(b, :erlang, :set_cookie, [:another])
    assert_fault(context, "cookie differs", a, node, :handshake, refused <> ".")

    true = call(b, :erlang, :set_cookie, [:test])
    assert_healthy(examine(a, node))
    true = call(a, :erlang, :set_cookie, [node, :another])
    assert_fault(context, "set_cookie/2", a, node, :handshake, refused <> ", which Node.set_cookie/2 set for it alone.")

    assert Enum.any?(
             whats(examine(a, node)),
             &(&1 =~ "This node has a cookie for #{node} alone")
           )

    # A cookie for one node alone may also be what makes the connection possible.
    true = call(a, :erlang, :set_cookie, [node, :third])
    true = call(b, :erlang, :set_cookie, [:third])
    assert_connected(a, b)
  end

  ## The name of the probe

  test "a host whose name leaves little room", context do
    # An address like any other to OTP, and as long as a host's name may be.
    host = "127.0.0." <> String.duplicate("0", 200) <> "1"
    names = for name <- [context.here, context.other], do: String.pad_trailing(name, 40, "x")
    [a, b] = for name <- names, do: start_ours(name, context.port, host: host, flags: inetrc("") ++ @quiet)
    assert_healthy(examine(a, node_of(b)))
  end

  test "is an atom's, whatever this node is called" do
    for name <- ["a", String.duplicate("x", 200), String.duplicate("é", 120)], length <- [1, 9, 200, 230, 253] do
      host = String.duplicate("h", length)
      probe = Admission.probe_name(name, host, "1234567")
      assert byte_size(probe) <= 255
      assert String.valid?(probe)
      assert [<<"d", _::binary>>, ^host] = String.split(probe, "@")
      if length <= 230, do: assert(probe =~ ~r/^doctor-.*-1234567@/)
    end
  end

  ## The name at the other node

  test "another node of this name is connected there", context do
    {a, b} = pair(context, flags: @quiet)
    {:ok, names} = call(a, EmbeddedEpmd, :names)
    %{port: port} = Enum.find(names, &(&1.name == context.other))
    twin = start_ours(context.here, free_port(), flags: @quiet)
    put(twin, :endpoints, [{"#{node_of(b)}", port}])
    assert call(twin, :net_kernel, :connect_node, [node_of(b)])

    findings = examine(a, node_of(b))
    note(context, "name taken there", findings)
    assert [%{step: :identity, what: what}] = for(%{status: :problem} = problem <- findings, do: problem)
    assert what =~ "#{node_of(b)} is connected to another node called #{node_of(a)}, from 127.0.0.1, port "
    # The twin has not been disturbed.
    assert call(b, :erlang, :nodes) == [node_of(twin)]
    assert call(twin, :erpc, :call, [node_of(b), :erlang, :node, []]) == node_of(b)
  end
end
