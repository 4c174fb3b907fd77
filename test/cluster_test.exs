defmodule EmbeddedEpmd.ClusterTest do
  use ExUnit.Case, async: true

  import Support.Vm

  alias EmbeddedEpmd.Boot.Restrictions
  alias EmbeddedEpmd.Cluster
  alias EmbeddedEpmd.Cluster.Users
  alias Support.{Attacker, Registration, Watch}

  # Only the first node has a cluster, and `global` would disconnect nodes that are not all connected to each other.
  @star ~w(-kernel prevent_overlapping_partitions false)

  setup do
    %{port: free_port(), tag: unique("")}
  end

  test "connects to those of its host that fit, as they come", %{port: port, tag: tag} do
    first = start_ours("app#{tag}", port, flags: @star)
    cluster(first, nodes: ["app*", "web1_*"])
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

  test "a pattern need not be in a list, and may have been compiled in another VM", %{port: port, tag: tag} do
    for {nodes, n} <- Enum.with_index(["app#{tag}*", ~r/^APP#{tag}/i]) do
      vm = start_ours("app#{tag}_#{n}", port)
      cluster(vm, nodes: nodes)
      other = start_ours("app#{tag}_other#{n}", port)
      eventually(fn -> call(other, :erlang, :node) in call(vm, Node, :list) end)
    end
  end

  test "what cannot be a node's name is left alone", %{port: port, tag: tag} do
    vm = start_ours("app#{tag}", port)
    cluster(vm, nodes: ["*"])
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

  describe "a node of another user" do
    test "who has no cookie gets in by reflection if the cluster trusts that user, and else not once in 200", context do
      %{port: port, tag: tag} = context

      if Attacker.possible?() do
        trusting = start_ours("trusting#{tag}", port)
        cluster(trusting, nodes: ["app#{tag}_evil"], users: [Attacker.user()])
        victim = start_ours("app#{tag}", port)
        log(victim)
        cluster(victim, nodes: ["app*"])

        # The control: this is how the attack succeeds.
        attacker = Attacker.reflect(port, node_port(trusting), "app#{tag}_evil")
        assert [Attacker.line(attacker), Attacker.line(attacker)] == ["connected", "authenticated"]

        attackers = Attacker.reflect(port, node_port(victim), "app#{tag}_evil_", 200)
        # A node of the same user, registered later, is connected.
        later = start_ours("app#{tag}_later", port)
        eventually(fn -> call(later, :erlang, :node) in call(victim, Node, :list) end)
        refute Attacker.connected?(attackers)

        assert [%{name: name, what: what}] = logged(victim, ~r/belongs to user/)
        assert name =~ "_evil"
        assert what =~ "belongs to user #{Attacker.user()}: name the user in users:"
      end
    end

    test "is left out as well where its names are reserved for both, and where this VM has no copy", context do
      %{port: port, tag: tag} = context

      if Attacker.possible?() do
        owner = start_ours("owner#{tag}", port)
        supervise(owner, reserved_names: [{"app*", [0, Attacker.user()]}])
        without_copy = ~w(-embedded_epmd hand_over false)

        for {name, flags} <- [{"app#{tag}a", []}, {"app#{tag}b", without_copy}] do
          victim = start_ours(name, port, flags: flags)
          log(victim)
          cluster(victim, nodes: ["app*"])
          attacker = Attacker.reflect(port, node_port(victim), name <> "_evil")
          later = start_ours(name <> "_later", port)
          eventually(fn -> call(later, :erlang, :node) in call(victim, Node, :list) end)
          if flags == without_copy, do: eventually(fn -> logged(victim, ~r/the user of a node that fits/) != [] end)
          refute Attacker.connected?(attacker)
        end
      end
    end

    test "cannot take the name between the decision and the lookup", %{port: port, tag: tag} do
      if Attacker.possible?() do
        victim = start_ours("app#{tag}", port)
        cluster(victim, nodes: ["none"])
        name = "app#{tag}_evil"
        _attacker = Attacker.reflect(port, node_port(victim), name)
        look_up = fn -> call(victim, EmbeddedEpmd.Discovery, :port_please, [to_charlist(name), {127, 0, 0, 1}]) end
        assert {:port, _, 6} = look_up.()
        call(victim, Restrictions, :restrict, [name, [0], &Users.listen?/3])
        assert look_up.() == {:error, :eacces}
        call(victim, Restrictions, :restrict, [name, [0, Attacker.user()], &Users.listen?/3])
        assert {:port, _, 6} = look_up.()
        call(victim, Restrictions, :restrict, [name, [0], &Users.listen?/3])
        call(victim, Restrictions, :release, [name])
        assert {:port, _, 6} = look_up.()
      end
    end

    test "is left out under OTP's daemon, and one of this user is connected", %{port: port, tag: tag} do
      if Attacker.possible?() do
        start_daemon(port)
        victim = start_ours("app#{tag}", port)
        log(victim)
        cluster(victim, nodes: ["app*"])
        attacker = Attacker.reflect(port, node_port(victim), "app#{tag}_evil")
        later = start_ours("app#{tag}_later", port)
        eventually(fn -> call(later, :erlang, :node) in call(victim, Node, :list) end)
        eventually(fn -> logged(victim, ~r/the user of a node that fits/) != [] end)
        refute Attacker.connected?(attacker)
      end
    end
  end

  describe "over TLS" do
    for {verify, connects?} <- [verify_peer: true, verify_none: false] do
      test "with #{verify} the user of a node #{if connects?, do: "does not matter", else: "matters"}", context do
        %{port: port, tag: tag} = context

        if Attacker.possible?() do
          options = Support.Tls.options(unquote(verify))
          tls = ~w(-proto_dist inet_tls -ssl_dist_optfile #{options})
          victim = start_ours("app#{tag}", port, flags: tls)
          attacker = Attacker.reflect(port, node_port(victim), "app#{tag}_evil")
          cluster(victim, nodes: ["app*"])

          if unquote(connects?) do
            assert Attacker.line(attacker) == "connected"
          else
            later = start_ours("app#{tag}_later", port, flags: tls)
            eventually(fn -> call(later, :erlang, :node) in call(victim, Node, :list) end)
            refute Attacker.connected?(attacker)
          end
        end
      end
    end
  end

  test "names that accept and say nothing take 16 connections at a time, and keep nobody else out", context do
    %{port: port, tag: tag} = context
    vm = start_ours("app#{tag}", port)
    {:ok, silent} = :gen_tcp.listen(0, [:binary, ip: {127, 0, 0, 1}, backlog: 500, active: false])
    {:ok, node_port} = :inet.port(silent)
    acceptor = Task.async(fn -> accept_all(silent, []) end)
    for n <- 1..100, do: Registration.register("app#{tag}_silent#{n}", port, node_port: node_port)
    cluster(vm, nodes: ["app*"])
    eventually(fn -> open(acceptor) >= 16 end)
    assert open(acceptor) <= 16
  end

  test "a node that refuses is told once, with the reason, and tried again when it registers anew", context do
    %{port: port, tag: tag} = context
    vm = start_ours("app#{tag}", port)
    log(vm)
    cluster(vm, nodes: ["app*"])
    other = start_ours("app#{tag}_other", port, flags: ["-setcookie", "another"])
    call(other, :erlang, :set_cookie, [:another])
    call(vm, :erlang, :send, [Cluster, :tick])
    eventually(fn -> logged(vm, ~r/does not reach a node/) != [] end)
    assert [%{name: name, reason: reason}] = logged(vm, ~r/does not reach a node/)
    assert name == "app#{tag}_other"
    assert reason =~ "cookie"
    assert %{nodes: %{^name => %{failures: 1}}} = call(vm, :sys, :get_state, [Cluster])
    kill(other)
    eventually(fn -> call(vm, :sys, :get_state, [Cluster]).nodes |> Map.has_key?(name) |> Kernel.not() end)
    again = start_ours(name, port)
    eventually(fn -> call(again, :erlang, :node) in call(vm, Node, :list) end)
  end

  test "the VMs of a release's commands are left alone", %{port: port, tag: tag} do
    vm = start_ours("app#{tag}", port)
    cluster(vm, nodes: ["*"])
    for kind <- ["rpc", "rem"], do: Registration.register("#{kind}-1f2e-app#{tag}", port)
    later = start_ours("later#{tag}", port)
    eventually(fn -> call(later, :erlang, :node) in call(vm, Node, :list) end)
    names = Map.keys(call(vm, :sys, :get_state, [Cluster]).nodes)
    assert "later#{tag}" in names
    refute Enum.any?(names, &(&1 =~ "-app"))
  end

  test "bad options are named" do
    assert_raise ArgumentError, ~r/nodes: expected a list of patterns .* got \["app@host"\]/, fn ->
      Cluster.start_link(nodes: ["app@host"])
    end

    assert_raise ArgumentError, ~r/got "app@host"/, fn -> Cluster.start_link(nodes: "app@host") end
    assert_raise ArgumentError, ~r/nodes: .* got nil/, fn -> Cluster.start_link([]) end

    assert_raise ArgumentError, ~r/users: expected .* got :prod/, fn ->
      Cluster.start_link(nodes: ["a"], users: :prod)
    end

    assert_raise ArgumentError, ~r/expected the options :nodes and :users, got \[node: "a"\]/, fn ->
      Cluster.start_link(node: "a")
    end
  end

  defp log(vm) do
    call(vm, Watch, :start)
    :ok = call(vm, Watch, :log)
  end

  defp logged(vm, pattern) do
    for {_level, text, report} <- call(vm, Watch, :seen).logged, text =~ pattern, do: report
  end

  defp node_port(vm) do
    [name, host] = vm |> call(:erlang, :node) |> Atom.to_string() |> String.split("@")
    {:port, port, _} = call(vm, EmbeddedEpmd.Discovery, :port_please, [to_charlist(name), to_charlist(host)])
    port
  end

  defp accept_all(listener, sockets) do
    receive do
      {:open, from} -> send(from, {:open, length(sockets)})
    after
      0 -> :ok
    end

    case :gen_tcp.accept(listener, 50) do
      {:ok, socket} -> accept_all(listener, [socket | sockets])
      {:error, :timeout} -> accept_all(listener, Enum.reject(sockets, &closed?/1))
    end
  end

  defp closed?(socket), do: match?({:error, :closed}, :gen_tcp.recv(socket, 0, 0)) and :gen_tcp.close(socket) == :ok

  defp open(acceptor) do
    send(acceptor.pid, {:open, self()})

    receive do
      {:open, count} -> count
    end
  end

  defp cluster(vm, options) do
    supervisor = supervise(vm)
    {:ok, _} = call(vm, :supervisor, :start_child, [supervisor, Supervisor.child_spec({Cluster, options}, [])])
  end
end
