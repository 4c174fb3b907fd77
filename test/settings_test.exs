defmodule EmbeddedEpmd.SettingsTest do
  # Every source of settings with every setting, as in the table of `t:EmbeddedEpmd.option/0`: each holds, or is
  # refused with a sentence that says where to set it.
  use ExUnit.Case, async: true

  import Support.Vm

  alias EmbeddedEpmd.Boot.Config.Schema
  alias EmbeddedEpmd.Boot.{Config, Lifecycle}

  # Each differs from its default.
  @others [
    relaxed: true,
    remote_names: true,
    allow: ["10.0.0.0/8"],
    health: true,
    reserved_names: [{"prod", ["root"]}, {"billing_*", ["root", "4711"]}],
    request_deadline: 400,
    max_waiting: 3,
    max_waiting_per_source: 2,
    descriptor_share: 33,
    hand_over: false,
    standbys: 3,
    endpoints: [{"app@db.internal", {"10.0.0.2", 9100}}, {"*@mesh.internal", {Support.Mesh, :mine}}],
    log_level: :error
  ]
  @addresses ["127.0.0.1", "127.0.0.2"]
  # Port and addresses do not come from the environment, unless a test sets them.
  @unset [{"ERL_EPMD_PORT", ""}, {"ERL_EPMD_ADDRESS", ""}]

  # How people write them, and how that is read.
  @spellings [
    port: {"4370", 4_370},
    addresses: {" 127.0.0.1,::1 ", ["127.0.0.1", "::1"]},
    local: {"no", false},
    relaxed: {"True", true},
    remote_names: {:yes, true},
    allow: {"10.0.0.0/8, fd00::/8", ["10.0.0.0/8", "fd00::/8"]},
    health: {"on", true},
    reserved_names: {[{"prod", " root "}], [{"prod", ["root"]}]},
    request_deadline: {"400", 400},
    max_waiting: {" 3 ", 3},
    max_waiting_per_source: {"2", 2},
    descriptor_share: {"33", 33},
    hand_over: {"Off", false},
    standbys: {"3", 3},
    endpoints: {[{"app@db", 9_100}], [{"app@db", 9_100}]},
    advertised_port: {"30100", 30_100},
    ports: {" 9100..9199", {9_100, 9_199}},
    log_level: {"Warn", :warning}
  ]
  # What says nothing, and would be another setting if it did.
  @blanks [nil, "", " ", []]
  @misspelt [
    port: :prot,
    addresses: :adresses,
    local: :locale,
    relaxed: :relaxd,
    remote_names: :remote_name,
    allow: :allowed,
    health: :helth,
    reserved_names: :reserve_names,
    request_deadline: :request_deadlin,
    max_waiting: :maxwaiting,
    max_waiting_per_source: :max_waiting_per_sources,
    descriptor_share: :descriptors_share,
    hand_over: :handover,
    standbys: :standby,
    endpoints: :endpoint,
    advertised_port: :advertise_port,
    ports: :portss,
    log_level: :loglevel
  ]

  setup do
    port = free_port()

    %{
      port: port,
      name: unique("ours"),
      settings:
        [port: port, addresses: @addresses, advertised_port: 30_100, ports: {10_000, 10_999}, local: true] ++ @others
    }
  end

  test "these are all settings", %{settings: settings} do
    assert Enum.sort(Keyword.keys(settings)) ==
             Enum.sort(
               Map.keys(Config.load()) -- [:inet6, :trusted_users, :trusted_groups, :port_chosen, :addresses_chosen]
             )

    for {key, value} <- settings, do: assert(Config.load()[key] != value)
  end

  test "each has a row in every table", %{settings: settings} do
    for table <- [settings, @spellings, @misspelt],
        do: assert(Enum.sort(Keyword.keys(table)) == Enum.sort(Schema.names()))

    {:ok, types} = Code.Typespec.fetch_types(EmbeddedEpmd)
    [{:type, _, :union, options}] = for {:type, {:option, type, []}} <- types, do: type
    names = for {:type, _, :tuple, [{:atom, _, name}, _]} <- options, do: name
    assert Enum.sort(names) == Enum.sort(Schema.names())
    for name <- Schema.names(), do: assert(Schema.documentation() =~ "  * `:#{name}` - ")
  end

  # The columns of the table: every setting is read in the same way in each source.
  for {source, name} <- [
        option: "the child's options",
        runtime: "the application environment",
        vm_args: "vm.args",
        file: "a configuration file"
      ] do
    describe "in #{name}" do
      test "other spellings are read" do
        [{config, []}] = read(unquote(source), [for({key, {written, _}} <- @spellings, do: {key, written})])
        for {key, {_, value}} <- @spellings, do: assert({key, config[key]} == {key, value})
      end

      test "what is blank is not set, and an empty list of networks allows none" do
        blanks = for blank <- @blanks, do: for(key <- Schema.names(), do: {key, blank})

        for {{config, []}, blank} <- Enum.zip(read(unquote(source), blanks), @blanks) do
          # In Erlang a string of no characters is an empty list.
          allow = if blank == [] or (blank == "" and unquote(source) == :vm_args), do: [], else: nil
          assert {blank, config} == {blank, %{defaults() | allow: allow}}
        end

        some = [
          [reserved_names: [], endpoints: [], advertised_port: nil, hand_over: [users: [""]]],
          [addresses: ["", "127.0.0.1", nil], allow: ["", nil]]
        ]

        assert [{config, []}, {other, []}] = read(unquote(source), some)
        assert config == defaults()
        assert other == %{defaults() | addresses: ["127.0.0.1"], allow: [], addresses_chosen: true}
      end

      test "what is misspelt is named, with the nearest" do
        if unquote(source) == :option do
          answers = read(:option, for({_, misspelt} <- @misspelt, do: [{misspelt, 1}]))

          for {{key, misspelt}, {:error, sentence}} <- Enum.zip(@misspelt, answers) do
            assert sentence =~ "embedded_epmd: #{misspelt} must be one of the options"
            assert sentence =~ "did you mean #{key}?, got: #{misspelt}"
          end
        else
          [{config, ignored}] = read(unquote(source), [for({_, misspelt} <- @misspelt, do: {misspelt, 1})])
          assert config == defaults()

          assert Enum.sort(ignored) ==
                   Enum.sort(
                     for {key, misspelt} <- @misspelt,
                         do:
                           "config :embedded_epmd, #{misspelt} is ignored, since it is not a setting: did you mean #{key}?"
                   )
        end
      end
    end
  end

  describe "in the environment" do
    setup do
      %{vm: start_plain(nil, env: @unset)}
    end

    test "other spellings are read", %{vm: vm} do
      for {variable, key, spellings} <- [
            {"ERL_EPMD_PORT", :port, [{" 4370 ", 4_370}]},
            {"ERL_EPMD_ADDRESS", :addresses, [{" 127.0.0.1 , ::1,", ["127.0.0.1", "::1"]}]},
            {"ERL_EPMD_RELAXED_COMMAND_CHECK", :relaxed,
             for(no <- ~w(False FALSE no off n 0 f) ++ [" false"], do: {no, false}) ++
               for(yes <- ~w(True TRUE yes on y 1 t) ++ ["true "], do: {yes, true})}
          ],
          {written, value} <- spellings do
        # A lower source says something else.
        {config, []} = load_with(vm, [{variable, written}], relaxed: value == false)
        assert {written, config[key]} == {written, value}
      end
    end

    test "what is blank is not set: the next source counts", %{vm: vm} do
      settings = [port: 4_370, addresses: ["127.0.0.1"], relaxed: true]

      for blank <- [" ", ","] do
        variables = for name <- ~w(ERL_EPMD_PORT ERL_EPMD_ADDRESS ERL_EPMD_RELAXED_COMMAND_CHECK), do: {name, blank}
        {config, []} = load_with(vm, variables, settings)
        assert Map.take(config, Keyword.keys(settings)) == Map.new(settings)
      end
    end

    test "what is misspelt is named, with the nearest", %{vm: vm} do
      for {misspelt, variable} <- [
            {"ERL_EPMD_PROT", "ERL_EPMD_PORT"},
            {"ERL_EPMD_ADDRESSES", "ERL_EPMD_ADDRESS"},
            {"ERL_EPMD_RELAXED_COMMANDCHECK", "ERL_EPMD_RELAXED_COMMAND_CHECK"}
          ] do
        {_, ignored} = load_with(vm, [{misspelt, "1"}, {"ERL_EPMD_DIST_LOW", "5"}], [])
        assert ignored == ["#{misspelt} is ignored, since it is not a setting: did you mean #{variable}?"]
      end
    end

    test "what is neither true nor false is refused with a sentence", %{vm: vm} do
      assert {:error, sentence} = load_with(vm, [{"ERL_EPMD_RELAXED_COMMAND_CHECK", "maybe"}], [])
      assert sentence == "embedded_epmd: ERL_EPMD_RELAXED_COMMAND_CHECK must be true or false, got: \"maybe\""
    end
  end

  test "a blank option leaves what the configuration says" do
    vm = start_plain(nil, env: @unset)
    call(vm, :application, :set_env, [:embedded_epmd, :addresses, ["127.0.0.1"]])
    for blank <- @blanks, do: assert(call(vm, Config, :load, [[addresses: blank]]).addresses == ["127.0.0.1"])
    assert call(vm, Config, :load, [[addresses: "::1"]]).addresses == ["::1"]
  end

  test "a node with a misspelt setting warns once, and the doctor says it", %{port: port, name: name} do
    vm = start_ours(name, port, flags: ~w(-kernel logger_level none -embedded_epmd adresses ["127.0.0.1"]))
    sentence = "config :embedded_epmd, adresses is ignored, since it is not a setting: did you mean addresses?"
    assert [%{status: :warning}] = for(found <- call(vm, EmbeddedEpmd, :examine), found.what == sentence, do: found)

    # At the end of its boot, and again when the child starts.
    log = Path.join(Support.Folder.new("misspelt"), "log")
    handler = "[{handler,default,logger_std_h,\#{config=>\#{file=>#{inspect(log)}}}}]"
    flags = ["-kernel", "logger", handler] ++ ~w(-embedded_epmd adresses ["127.0.0.1"])
    vm = start_ours(unique("other"), port, flags: flags)
    {:ok, _} = call(vm, EmbeddedEpmd, :start_link, [[]])
    :ok = call(vm, :logger_std_h, :filesync, [:default])
    assert [_, _] = String.split(File.read!(log), "embedded_epmd: " <> sentence)
  end

  test "no other spelling of false lets peers end registrations", %{port: port, name: name} do
    vm = start_ours(name, port, env: [{"ERL_EPMD_RELAXED_COMMAND_CHECK", "False"}])
    assert {:error, :closed} = vm |> call(EmbeddedEpmd, :status) |> stop_nobody()
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
      assert {:error, reason} = give(vm, unquote(source), advertised_port: 30_100)
      [%{name: ^name, port: registered}] = stock_names(port)
      assert inspect(reason) =~ "says 30100, but this node is registered with port #{registered}"
      assert inspect(reason) =~ "Set -embedded_epmd advertised_port 30100 in vm.args, or advertised_port in config.exs"
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
    if call(vm, :erlang, :whereis, [Support.Vm.Supervisor]) == :undefined do
      supervise(vm)
      :ok = call(vm, :supervisor, :terminate_child, [Support.Vm.Supervisor, EmbeddedEpmd])
    end

    if source == :runtime, do: call(vm, :application, :set_env, [[embedded_epmd: settings], [persistent: true]])
    supervise_second(vm, Support.Vm.Supervisor, if(source == :option, do: settings, else: []))
  end

  # What a VM reads and ignores, with each of these lists of settings.
  defp read(:option, lists) do
    vm = start_plain(nil, env: @unset)
    for settings <- lists, do: load(vm, settings)
  end

  defp read(:runtime, lists) do
    vm = start_plain(nil, env: @unset)
    for settings <- lists, do: load_with(vm, [], settings)
  end

  defp read(:vm_args, lists) do
    for settings <- lists do
      flags = for {key, value} <- settings, word <- ["-embedded_epmd", "#{key}", erlang(value)], do: word
      load(start_plain(nil, flags: flags, env: @unset), [])
    end
  end

  defp read(:file, lists) do
    for settings <- lists do
      file = Path.join(Support.Folder.new("settings"), "sys.config")
      File.write!(file, :io_lib.format("~tp.~n", [[embedded_epmd: settings]]))
      load(start_plain(nil, flags: ["-config", file], env: @unset), [])
    end
  end

  # With these variables and this application environment, which are taken back.
  defp load_with(vm, variables, settings) do
    for {name, value} <- variables, do: call(vm, :os, :putenv, [to_charlist(name), to_charlist(value)])
    call(vm, :application, :set_env, [[embedded_epmd: settings]])
    answer = load(vm, [])
    for {name, _} <- variables, do: call(vm, :os, :unsetenv, [to_charlist(name)])
    for {key, _} <- settings, do: call(vm, :application, :unset_env, [:embedded_epmd, key])
    answer
  end

  defp load(vm, options) do
    answer = call(vm, Support.Attempt, :run, [Config, :load, [options]])
    with config when is_map(config) <- answer, do: {config, call(vm, Config, :ignored)}
  end

  defp defaults do
    Map.new(Schema.names(), &{&1, Schema.setting(&1).default})
    |> Map.merge(%{trusted_users: [], trusted_groups: [], inet6: false, port_chosen: false, addresses_chosen: false})
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
  defp erlang([text | _] = texts) when is_binary(text), do: String.replace(inspect(texts), "nil", "undefined")
  defp erlang(text) when is_binary(text), do: inspect(text)
  defp erlang(value), do: List.to_string(:io_lib.format("~tp", [value]))
end
