defmodule EmbeddedEpmd.LifecycleTest do
  # How long the server lives, in every kind of VM.
  use ExUnit.Case, async: true

  import Support.Attacker, only: [register_as_nobody: 2, register_as_nobody: 3]
  import Support.Vm

  alias Support.{Mailbox, Watch}

  @supervisor Support.Vm.Supervisor
  @everywhere [env: [{"ERL_EPMD_ADDRESS", ""}]]

  setup :port_and_name

  describe "a VM that is no node" do
    test "has no server, and needs none, until it becomes one", %{port: port, name: name} do
      vm = start_unnamed(port)
      supervise(vm)
      server = server(vm)

      for _ <- 1..3 do
        assert %{role: :stopped, port: nil, names: nil} = call(vm, EmbeddedEpmd, :status)
        assert call(vm, EmbeddedEpmd, :names) == {:error, :stopped}
        assert listening(port) == []
        assert {:ok, _} = become_node(vm, name)
        assert [%{name: ^name}] = stock_names(port)
        assert call(vm, EmbeddedEpmd, :status).role == :serving
        assert :ok == call(vm, :net_kernel, :stop)
        eventually(fn -> server_threads(pid(vm)) == 0 end)
      end

      assert server(vm) == server
    end

    test "shows other hosts nothing, also where nothing routes to us", %{port: port, name: name} do
      vm = start_plain(port, @everywhere)
      supervise(vm)
      assert listening(port) -- ["127.0.0.1", "::1"] == []

      # As a node it listens on all addresses, and on loopback only when it is no node any more.
      assert {:ok, _} = become_node(vm, name)
      assert [%{name: ^name}] = stock_names(port)
      eventually(fn -> "0.0.0.0" in listening(port) end)
      assert [%{name: ^name}] = stock_names(port)
      assert :ok == call(vm, :net_kernel, :stop)
      eventually(fn -> stock_names(port) in [[], :none] and listening(port) -- ["127.0.0.1", "::1"] == [] end)
    end

    test "shows other hosts nothing, whoever registers with it", %{port: port, name: name} do
      # OTP 27.2 and later would have no server here without the flag.
      vm = start_plain(port, [flags: ~w(-epmd_module erl_epmd)] ++ @everywhere)
      supervise(vm)
      register_as_nobody(unique("nobody"), port)
      stock = start_stock(unique("stock"), port)
      assert [_, _] = stock_names(port)
      assert closed?(vm, port)

      # A VM that is to be a node and does not become one shows nothing, either.
      hush(vm)
      [%{name: taken} | _] = stock_names(port)
      starting = Task.async(fn -> become_node(vm, taken) end)
      seen = fn seen -> if Task.yield(starting, 0), do: :ok, else: closed?(vm, port) and seen.(seen) end
      assert seen.(seen) == :ok
      assert call(vm, :erlang, :node) == :nonode@nohost
      assert closed?(vm, port)

      # As a node it does.
      assert {:ok, _} = become_node(vm, name)
      eventually(fn -> "0.0.0.0" in listening(port) end)
      assert call(stock, :net_adm, :ping, [:"#{name}@127.0.0.1"]) == :pong
    end

    test "shows other hosts nothing while it is said to become one", %{port: port} do
      vm = start_plain(port, @everywhere)
      call(vm, Mailbox, :start, [:net_kernel])
      supervise(vm)
      assert "127.0.0.1" in listening(port)
      assert closed?(vm, port)
    end

    test "takes the port from no node, and finds those that have it", %{port: port, name: name} do
      plain = start_plain(port)
      supervise(plain)
      node = start_ours(name, port)
      assert [%{name: ^name}] = stock_names(port)
      other = unique("other")
      assert {:ok, _} = become_node(plain, other)
      assert Enum.sort(Enum.map(stock_names(port), & &1.name)) == Enum.sort([name, other])
      assert call(plain, :net_adm, :ping, [call(node, :erlang, :node)]) == :pong

      assert :ok == call(plain, :net_kernel, :stop)
      assert :ok == call(plain, :supervisor, :terminate_child, [@supervisor, EmbeddedEpmd])
      eventually(fn -> match?([%{name: ^name}], stock_names(port)) end)
      assert call(node, EmbeddedEpmd, :status).role == :serving
    end

    test "has no server any more when nobody asks for one", %{port: port} do
      vm = start_plain(port)
      supervise(vm)
      assert :ok == call(vm, :supervisor, :terminate_child, [@supervisor, EmbeddedEpmd])
      assert listening(port) == []
      assert server_threads(pid(vm)) == 0
    end

    test "runs beside something that is no EPMD, and cannot become a node", %{port: port, name: name} do
      hold(port)

      for vm <- [start_unnamed(port), start_plain(port)] do
        hush(vm)
        supervise(vm)
        assert is_pid(server(vm))
        assert {:error, _} = become_node(vm, name)
        assert call(vm, :erlang, :node) == :nonode@nohost
        assert is_pid(server(vm))
      end
    end

    test "can become one before the child, once it is prepared", %{port: port, name: name} do
      for {start, n} <- Enum.with_index([&start_plain/1, &start_unnamed/1]) do
        vm = start.(port)
        hush(vm)
        # OTP's client finds no daemon. Where OTP calls Discovery, nothing has to be prepared.
        if n == 0, do: assert({:error, _} = become_node(vm, name))
        assert :ok == call(vm, EmbeddedEpmd, :prepare, [[log_level: :error]])
        assert {:ok, _} = become_node(vm, name)
        assert [%{name: ^name}] = stock_names(port)
        supervise(vm, log_level: :error)
        assert %{role: :serving, names: 1} = call(vm, EmbeddedEpmd, :status)
        assert :ok == call(vm, EmbeddedEpmd, :prepare, [[log_level: :error]])
        kill(vm)
        eventually(fn -> listening(port) == [] end)
      end
    end

    test "becomes one with OTP's client where the library cannot be loaded, with one warning", context do
      %{port: port, name: name} = context
      start_daemon(port)
      vm = start_plain(port, ebin: without_library())
      call(vm, Watch, :start)
      :ok = call(vm, Watch, :log)
      supervise(vm)
      assert {:ok, _} = become_node(vm, name)
      assert [%{name: ^name}] = stock_names(port)
      # It tries again.
      call(vm, :erlang, :send, [EmbeddedEpmd.Server, {:embedded_epmd, :started}])
      call(vm, :sys, :get_state, [EmbeddedEpmd.Server])
      assert [{:warning, sentence, _}] = call(vm, Watch, :seen).logged
      assert sentence =~ ~r/^the native library .* cannot be loaded: .*; trying again$/
    end

    test "is told why it cannot become a node", %{port: port, name: name} do
      hold(port)
      vm = start_unnamed(port)
      hush(vm)
      assert {:error, reason} = become_node(vm, name)
      assert inspect(reason) =~ "127.0.0.1:#{port} is in use by a program that does not answer as an EPMD"
    end
  end

  describe "a node" do
    test "whose EPMD is another shows other hosts nothing of ours, also to who takes its name", context do
      %{port: port, name: name} = context
      # OTP's client did not find an EPMD when this node booted, and needs none. Before 27.2 nothing else can be told.
      vm = start_stock(name, port, [flags: ["-erl_epmd_port", "#{free_port()}"]] ++ @everywhere)
      supervise(vm)
      assert "127.0.0.1" in listening(port)
      assert closed?(vm, port)

      {:ok, own_port} = call(vm, :erl_epmd, :listen_port_please, [~c"", ~c""])
      register_as_nobody(name, port, node_port: own_port)
      assert closed?(vm, port)
    end

    test "whose discovery module passes all on to ours is open to other hosts", %{port: port, name: name} do
      flags = ["-epmd_module", "Elixir.Support.PassingOn"]
      vm = start_stock(name, port, [flags: flags] ++ @everywhere)
      supervise(vm)
      assert [%{name: ^name}] = stock_names(port)
      assert "0.0.0.0" in listening(port)
    end

    test "that joined an owner before it became one stands by for it", %{port: port, name: name} do
      owner = start_ours(unique("owner"), port)
      vm = start_plain(port)
      supervise(vm)
      refute call(vm, EmbeddedEpmd, :status).stands_by
      assert {:ok, _} = become_node(vm, name)
      eventually(fn -> match?(%{stands_by: true, table: :copy}, call(vm, EmbeddedEpmd, :status)) end)
      kill(owner)
      eventually(fn -> match?([%{name: ^name}], stock_names(port)) end)
    end

    test "is found without its application", %{port: port, name: name} do
      vm = start_ours(name, port)
      supervise(vm)
      joined = start_ours(unique("joined"), port)
      before = stock_names(port)

      assert :ok == call(vm, :supervisor, :terminate_child, [@supervisor, EmbeddedEpmd])
      assert %{role: :serving, changes: changes} = call(vm, EmbeddedEpmd, :status)
      assert stock_names(port) == before
      assert call(joined, :net_adm, :ping, [:"#{name}@127.0.0.1"]) == :pong

      # The next supervised process claims the same server.
      assert {:ok, _} = call(vm, :supervisor, :restart_child, [@supervisor, EmbeddedEpmd])
      assert {:ok, _} = call(vm, :erlang, :apply, [EmbeddedEpmd, :stats, []])
      assert %{role: :serving, changes: ^changes} = call(vm, EmbeddedEpmd, :status)
      assert server_threads(pid(vm)) == 1

      # The server also survives the end of the whole application.
      call(vm, :erlang, :exit, [call(vm, :erlang, :whereis, [@supervisor]), :kill])
      eventually(fn -> server(vm) == :undefined end)
      assert stock_names(port) == before
    end

    test "is found by a stock node's way, without the flag", %{port: port, name: name} do
      vm = start_plain(port)
      supervise(vm)
      assert {:ok, _} = become_node(vm, name)
      assert :ok == call(vm, :supervisor, :terminate_child, [@supervisor, EmbeddedEpmd])
      assert [%{name: ^name}] = stock_names(port)
    end

    test "gets a server again that ended", %{port: port, name: name} do
      vm = start_ours(name, port)
      supervise(vm)
      server = server(vm)
      creation = call(vm, :erlang, :system_info, [:creation])

      for _ <- 1..3 do
        {:ok, native} = call(vm, EmbeddedEpmd.Boot.Lifecycle, :server)
        :ok = call(vm, EmbeddedEpmd.Native, :stop, [native, false])
        eventually(fn -> match?([%{name: ^name}], stock_names(port)) end)
        {:ok, %{nodes: [%{creation: ^creation}]}} = snapshot(vm)
        assert server_threads(pid(vm)) == 1
      end

      assert server(vm) == server
    end
  end

  test "a node is told at boot which address its host's name has and its server lacks", %{port: port} do
    for {addresses, told} <- [{"127.0.0.1", true}, {"127.0.0.1,127.0.1.1", false}, {"", false}] do
      vm = start_ours(unique("ours"), port, host: "127.0.1.1", env: [{"ERL_EPMD_ADDRESS", addresses}])
      call(vm, Watch, :start)
      :ok = call(vm, Watch, :log)
      call(vm, :logger, :remove_handler, [:default])
      supervise(vm)
      logged = fn -> call(vm, Watch, :seen).logged end
      eventually(fn -> List.keymember?(logged.(), :notice, 0) end)

      warnings = fn ->
        for {:warning, "no EPMD listens at the address of" <> _, report} <- logged.(), do: report.address
      end

      if told, do: eventually(fn -> warnings.() == ["127.0.1.1"] end), else: assert(warnings.() == [])
      pid = pid(vm)
      :peer.stop(vm)
      eventually(fn -> not File.exists?("/proc/#{pid}") end)
    end
  end

  test "attempts to start the server do not add up", %{port: port} do
    hold(port)
    vm = start_plain(port)
    hush(vm)
    supervise(vm)
    for _ <- 1..6, do: call(vm, :erlang, :send, [EmbeddedEpmd.Server, {:embedded_epmd, :started}])
    # All of its timers of the next seconds end while it reads no message.
    :ok = call(vm, :sys, :suspend, [EmbeddedEpmd.Server])
    call(vm, :erlang, :send_after, [4_000, EmbeddedEpmd.Server, :mark])
    waiting = fn -> call(vm, Mailbox, :messages, [EmbeddedEpmd.Server]) end
    eventually(fn -> :mark in waiting.() end)
    assert length(waiting.()) <= 2
  end

  test "subscribers are told when the server goes and when one comes", %{port: port, name: name} do
    vm = start_unnamed(port)
    supervise(vm)
    {subscriber, %{role: :stopped, nodes: []}} = call(vm, Mailbox, :subscribe)
    call(vm, :erlang, :register, [:subscriber, subscriber])
    events = fn -> for {:embedded_epmd, event} <- call(vm, Mailbox, :messages, [:subscriber]), do: event end
    assert {:ok, _} = become_node(vm, name)
    eventually(fn -> match?([{:role, :serving}, {:registered, %{name: ^name}}], events.()) end)
    assert :ok == call(vm, :net_kernel, :stop)
    eventually(fn -> List.last(events.()) == {:role, :stopped} end)
    assert {:ok, _} = become_node(vm, name)

    eventually(fn ->
      match?([{:role, :serving}, {:registered, %{name: ^name}}], Enum.take(events.(), -2)) and length(events.()) > 4
    end)
  end

  describe "a second supervised process" do
    test "starts, and follows the first", %{port: port, name: name} do
      vm = start_ours(name, port)
      supervise(vm)
      first = server(vm)
      assert {:ok, second} = supervise_second(vm, @supervisor)
      assert server(vm) == first

      assert :ok == call(vm, :supervisor, :terminate_child, [@supervisor, EmbeddedEpmd])
      eventually(fn -> server(vm) == second end)
      assert [%{name: ^name}] = stock_names(port)
      assert {:ok, %{role: :serving}} = snapshot(vm)

      # The first one is started again, and waits now.
      assert {:ok, _} = call(vm, :supervisor, :restart_child, [@supervisor, EmbeddedEpmd])
      assert server(vm) == second
    end

    test "is forgotten when it has ended", %{port: port, name: name} do
      vm = start_ours(name, port)
      supervise(vm)
      {:ok, _} = supervise_second(vm, @supervisor)

      for _ <- 1..5 do
        :ok = call(vm, :supervisor, :terminate_child, [@supervisor, :second])
        {:ok, _} = call(vm, :supervisor, :restart_child, [@supervisor, :second])
      end

      assert [_] = call(vm, :sys, :get_state, [EmbeddedEpmd.Server]).waiting
    end

    test "keeps the server of a VM that is no node", %{port: port} do
      vm = start_plain(port)
      supervise(vm)
      assert {:ok, _} = supervise_second(vm, @supervisor)
      before = listening(port)
      assert :ok == call(vm, :supervisor, :terminate_child, [@supervisor, EmbeddedEpmd])
      assert listening(port) == before
      assert :ok == call(vm, :supervisor, :terminate_child, [@supervisor, :second])
      assert listening(port) == []
    end

    test "is told where its options contradict those of the first", %{port: port, name: name} do
      vm = start_ours(name, port)
      supervise(vm, log_level: :error)
      assert {:error, sentence} = supervise_second(vm, @supervisor, log_level: :info)
      assert inspect(sentence) =~ "the option log_level of a second EmbeddedEpmd in this VM says :info"
      assert inspect(sentence) =~ "runs with :error"
      assert {:ok, _} = supervise_second(vm, @supervisor, log_level: :error)
    end

    test "is also told so of whom the port may be handed over to", %{port: port, name: name} do
      vm = start_ours(name, port)
      supervise(vm, hand_over: [users: ["root"]])
      assert {:error, sentence} = supervise_second(vm, @supervisor, hand_over: [users: ["daemon"]])

      assert inspect(sentence) =~
               ~S(the option hand_over of a second EmbeddedEpmd in this VM says [users: [\"daemon\"]])

      assert {:error, _} = supervise_second(vm, @supervisor, hand_over: [groups: ["root"]])
      assert {:error, _} = supervise_second(vm, @supervisor, reserved_names: [{"prod", "root"}])
      assert {:ok, _} = supervise_second(vm, @supervisor, hand_over: [users: ["root"]])
    end
  end

  # Whether only this host can reach the port, once the supervised process knows of all that has happened.
  defp closed?(vm, port) do
    _ = call(vm, :sys, :get_state, [EmbeddedEpmd.Server])
    listening(port) -- ["127.0.0.1", "::1"] == []
  end

  # The modules in a folder of their own, as on a machine for which the library was not built.
  defp without_library do
    ebin = Path.join(Support.Folder.new("no_library"), "embedded_epmd/ebin")
    File.mkdir_p!(Path.dirname(ebin))
    File.cp_r!(Path.join(:code.lib_dir(:embedded_epmd), "ebin"), ebin)
    ebin
  end

  # The snapshot of a new subscriber.
  defp snapshot(vm) do
    {_, snapshot} = call(vm, Mailbox, :subscribe)
    {:ok, snapshot}
  end
end
