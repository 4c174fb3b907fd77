defmodule EmbeddedEpmd.SettingsTest do
  # Every source of settings with every setting, as in the table of `t:EmbeddedEpmd.option/0`: each holds, or is
  # refused with a sentence that says where to set it.
  use ExUnit.Case, async: true

  import EmbeddedEpmd.Vm

  alias EmbeddedEpmd.{Config, Lifecycle}

  # Each differs from its default.
  @others [
    relaxed: true,
    remote_names: true,
    allow: ["10.0.0.0/8"],
    owners: %{"prod" => ["root"], "billing_*" => ["root", "4711"]},
    request_deadline: 400,
    max_waiting: 3,
    max_waiting_per_source: 2,
    descriptor_share: 33,
    hand_over: false,
    standbys: 3,
    endpoints: %{"app@db.internal" => {"10.0.0.2", 9100}, "*@mesh.internal" => {EmbeddedEpmd.Mesh, :mine}},
    log_level: :error
  ]
  @addresses ["127.0.0.1", "127.0.0.2"]
  # Port and addresses do not come from the environment, unless a test sets them.
  @unset [{"ERL_EPMD_PORT", ""}, {"ERL_EPMD_ADDRESS", ""}]

  setup do
    port = free_port()

    %{
      port: port,
      name: unique("ours"),
      settings: [port: port, addresses: @addresses, advertise: [port: 30_100]] ++ @others
    }
  end

  test "these are all settings", %{settings: settings} do
    assert Enum.sort(Keyword.keys(settings)) ==
             Enum.sort(
               Map.keys(Config.load()) -- [:inet6, :trusted_users, :trusted_groups, :port_chosen, :addresses_chosen]
             )

    for {key, value} <- settings, do: assert(Config.load()[key] != value)
  end

  describe "from the start hold those of" do
    test "the environment", %{port: port, name: name} do
      environment = [{"ERL_EPMD_ADDRESS", Enum.join(@addresses, ",")}, {"ERL_EPMD_RELAXED_COMMAND_CHECK", "1"}]
      vm = start_ours(name, port, env: environment)
      supervise(vm)
      assert_holds(vm, port: port, addresses: @addresses, relaxed: true)
    end

    test "-embedded_epmd in vm.args", %{name: name, settings: settings} do
      flags = for {key, value} <- settings, word <- ["-embedded_epmd", "#{key}", erlang(value)], do: word
      vm = start_ours(name, nil, flags: flags, env: @unset)
      assert_holds(vm, settings)
      supervise(vm)
      assert_holds(vm, settings)
    end

    test "a configuration file", %{name: name, settings: settings} do
      file = Path.join(System.tmp_dir!(), "#{name}.config")
      on_exit(fn -> File.rm!(file) end)
      File.write!(file, :io_lib.format("~tp.~n", [[embedded_epmd: settings]]))
      vm = start_ours(name, nil, flags: ["-config", file], env: @unset)
      assert_holds(vm, settings)
    end
  end

  # A release reads runtime.exs after its server has started and before its applications start.
  for {source, name} <- [runtime: "runtime.exs", option: "the child"] do
    describe "in a node, of #{name}" do
      test "all hold that can", %{port: port, name: name} do
        vm = start_ours(name, port, env: [{"ERL_EPMD_ADDRESS", ""}])
        settings = [addresses: @addresses] ++ @others
        assert {:ok, _} = give(vm, unquote(source), settings)
        assert_holds(vm, settings)
        assert Enum.sort(listening(port)) == @addresses
        assert [%{name: ^name}] = stock_names(port)
      end

      test "addresses hold for what it would serve, where it has joined", %{port: port, name: name} do
        owner = start_ours(unique("owner"), port, env: [{"ERL_EPMD_ADDRESS", ""}])
        vm = start_ours(name, port, env: [{"ERL_EPMD_ADDRESS", ""}])
        assert {:ok, _} = give(vm, unquote(source), addresses: ["127.0.0.1"])
        kill(owner)
        eventually(fn -> call(vm, EmbeddedEpmd, :status).role == :serving end)
        eventually(fn -> listening(port) == ["127.0.0.1"] end)
        assert [%{name: ^name}] = stock_names(port)
      end

      test "an address that this host does not have is refused", %{port: port, name: name} do
        vm = start_ours(name, port, env: [{"ERL_EPMD_ADDRESS", ""}])
        before = listening(port)
        hush(vm)
        assert {:error, reason} = give(vm, unquote(source), addresses: ["192.0.2.1"])
        assert inspect(reason) =~ "cannot listen on 192.0.2.1:#{port}"
        assert listening(port) == before
        assert [%{name: ^name}] = stock_names(port)
      end

      test "another port is refused, and it is said where it belongs", %{port: port, name: name} do
        other = free_port()
        vm = start_ours(name, nil, env: @unset, flags: ~w(-embedded_epmd port #{port}))
        hush(vm)
        assert {:error, reason} = give(vm, unquote(source), port: other)
        text = inspect(reason)
        assert text =~ "says #{other}, but this VM's server runs on port #{port}"
        assert text =~ "Set ERL_EPMD_PORT, or -embedded_epmd port #{other} in vm.args, or the port in config.exs"
        # The node is still registered.
        assert [%{name: ^name}] = stock_names(port)
        assert {:ok, _} = give(vm, unquote(source), port: port)
      end
    end

    test "in a node, another advertised port of #{name} is refused, and it is said where it belongs", %{
      port: port,
      name: name
    } do
      vm = start_ours(name, port)
      hush(vm)
      assert {:error, reason} = give(vm, unquote(source), advertise: [port: 30_100])
      [%{name: ^name, port: registered}] = stock_names(port)
      assert inspect(reason) =~ "says 30100, but this node is registered with port #{registered}"
      assert inspect(reason) =~ "Set -embedded_epmd advertise '[{port,30100}]' in vm.args, or advertise in config.exs"
    end

    test "in a VM that becomes a node later, all of #{name} hold", %{name: name, settings: settings} do
      vm = start_unnamed(nil, [], env: @unset)
      assert {:ok, _} = give(vm, unquote(source), settings)
      assert {:ok, _} = become_node(vm, name)
      assert_holds(vm, settings)
    end
  end

  test "the environment comes before the option, and that before the configuration", %{port: port, name: name} do
    vm = start_ours(name, port)
    call(vm, :application, :set_env, [:embedded_epmd, :log_level, :debug])
    call(vm, :application, :set_env, [:embedded_epmd, :max_waiting, 9])
    assert {:ok, _} = give(vm, :option, port: free_port(), addresses: ["127.0.0.9"], log_level: :error)
    assert_holds(vm, port: port, addresses: ["127.0.0.1"], log_level: :error, max_waiting: 9)
  end

  defp give(vm, source, settings) do
    # Under this supervisor, without its own child, the child with the settings is started.
    if call(vm, :erlang, :whereis, [EmbeddedEpmd.Vm.Supervisor]) == :undefined do
      supervise(vm)
      :ok = call(vm, :supervisor, :terminate_child, [EmbeddedEpmd.Vm.Supervisor, EmbeddedEpmd])
    end

    if source == :runtime, do: call(vm, :application, :set_env, [[embedded_epmd: settings], [persistent: true]])
    supervise_second(vm, EmbeddedEpmd.Vm.Supervisor, if(source == :option, do: settings, else: []))
  end

  # Checks the configuration that the server was given and, where possible, the behaviour of the server.
  defp assert_holds(vm, settings) do
    config = call(vm, Config, :load, [call(vm, Lifecycle, :options)])
    assert Map.take(config, Keyword.keys(settings)) == Map.new(settings)
    status = call(vm, EmbeddedEpmd, :status)
    assert status.role == :serving
    for {key, value} <- Keyword.take(settings, [:port, :addresses]), do: assert(Map.fetch!(status, key) == value)
    if settings[:relaxed], do: assert({:ok, "NOEXIST" <> _} = stop_nobody(status))
    if settings[:request_deadline], do: assert(say_nothing(status) == {:error, :closed})
  end

  # Without `relaxed` the server would close the connection without a reply.
  defp stop_nobody(status), do: status |> connect() |> ask("snobody")

  # With the default deadline this would take ten seconds.
  defp say_nothing(status) do
    socket = connect(status)
    :ok = :gen_tcp.send(socket, <<0>>)
    :gen_tcp.recv(socket, 0, 5_000)
  end

  defp connect(%{addresses: [address | _], port: port}) do
    {:ok, socket} = :gen_tcp.connect(to_charlist(address), port, [:binary, active: false])
    socket
  end

  defp ask(socket, request) do
    :ok = :gen_tcp.send(socket, <<byte_size(request)::16, request::binary>>)
    :gen_tcp.recv(socket, 0, 5_000)
  end

  # As users write it on a command line: strings, which are lists in Erlang, and not binaries.
  defp erlang([text | _] = texts) when is_binary(text), do: inspect(texts)
  defp erlang(value), do: List.to_string(:io_lib.format("~tp", [value]))
end
