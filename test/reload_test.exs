defmodule EmbeddedEpmd.ReloadTest do
  # Modules are reloaded while the server runs: by hand, by code reloaders, for coverage.
  use ExUnit.Case, async: true

  import Support.Vm

  alias EmbeddedEpmd.Boot.{Config, Lifecycle}
  alias EmbeddedEpmd.{Discovery, Native, Server}

  setup :port_and_name

  setup %{port: port, name: name} do
    vm = start_ours(name, port)
    supervise(vm)
    hush(vm)
    %{vm: vm, supervised: server(vm)}
  end

  test "the native module is not loaded twice", %{vm: vm} = context do
    assert call(vm, :code, :load_file, [Native]) == {:error, :sticky_directory}
    {_, binary, file} = call(vm, :code, :get_object_code, [Native])
    assert call(vm, :code, :load_binary, [Native, file, binary]) == {:error, :sticky_directory}
    assert_unharmed(context)
  end

  test "the other modules are, as often as one likes", %{vm: vm} = context do
    modules =
      for module <- Application.spec(:embedded_epmd, :modules),
          match?(["EmbeddedEpmd" | _], Module.split(module)),
          do: module

    assert Server in modules

    for _ <- 1..3, module <- modules -- [Native] do
      assert {:module, ^module} = call(vm, :code, :load_file, [module])
      # To purge it kills whoever is just running the last version. Nobody does for longer than an action takes.
      eventually(fn -> call(vm, :code, :soft_purge, [module]) end, 5_000)
    end

    assert_unharmed(context)
  end

  test "r of IEx and a compiler in the VM change nothing", %{vm: vm} = context do
    source = Path.expand("../lib/embedded_epmd/native.ex", __DIR__)
    {:ok, _} = call(vm, :application, :ensure_all_started, [:compiler])
    {:ok, _} = call(vm, :application, :ensure_all_started, [:elixir])
    call(vm, Code, :put_compiler_option, [:ignore_module_conflict, true])
    for _ <- 1..2, do: assert([{Native, _} | _] = call(vm, Code, :compile_file, [source]))
    assert_unharmed(context)
  end

  test "where the native module is thrown away, the node gets another server", %{vm: vm, name: name} = context do
    call(vm, Support.Mailbox, :subscribe)
    call(vm, :code, :delete, [Native])
    call(vm, :code, :purge, [Native])
    # The supervised process notices it at the next event.
    assert :noport = call(vm, Discovery, :port_please, [~c"nobody", {127, 0, 0, 1}])
    :peer.stop(start_stock(unique("stock"), context.port))
    eventually(fn -> server(vm) not in [context.supervised, :undefined] end)
    eventually(fn -> match?(%{role: :serving, names: 1}, call(vm, EmbeddedEpmd, :status)) end)
    assert [%{name: ^name}] = stock_names(context.port)
    assert_unharmed(%{context | supervised: server(vm)})
    eventually(fn -> server_threads(pid(vm)) == 1 end)
  end

  test "a release upgrade from another version restarts the VM" do
    folder = Support.Folder.new("relup")
    ebin = Path.join(:code.lib_dir(:embedded_epmd), "ebin")
    {:ok, [{:application, name, properties}]} = :file.consult(Path.join(ebin, "embedded_epmd.app"))
    needed = [:kernel, :stdlib, :elixir, :logger]

    releases =
      for version <- [~c"0.0.9", properties[:vsn]] do
        copy = Path.join(folder, "lib/embedded_epmd-#{version}/ebin")
        File.mkdir_p!(copy)
        File.cp_r!(ebin, copy)
        # In the test environment the application has more dependencies than the library needs.
        described = {:application, name, Keyword.merge(properties, vsn: version, applications: needed)}
        File.write!(Path.join(copy, "embedded_epmd.app"), :io_lib.format("~tp.~n", [described]))
        applications = for app <- [:sasl, :compiler | needed], do: {app, version(app)}
        erts = {:erts, :erlang.system_info(:version)}
        path = Path.join(folder, "upgraded-#{version}")
        release = {:release, {~c"upgraded", version}, erts, applications ++ [{name, version}]}
        File.write!(path <> ".rel", :io_lib.format("~tp.~n", [release]))
        String.to_charlist(path)
      end

    # Mix of 1.15 and later leaves out of the path what a project does not name.
    true = :code.add_pathz(to_charlist(ebin(:sasl)))
    [from, to] = releases
    path = for app <- [:sasl, :compiler, :elixir, :logger], do: ebin(app)
    options = [:silent, :noexec, path: Enum.map(Path.wildcard(folder <> "/lib/*/ebin") ++ path, &String.to_charlist/1)]

    assert {:ok, {_, [{_, _, up}], [{_, _, down}]}, :systools_relup, []} =
             :systools.make_relup(to, [from], [from], options)

    assert :restart_emulator in up and :restart_emulator in down
  end

  defp version(app) do
    {:ok, [{:application, ^app, properties}]} = :file.consult(Path.join(ebin(app), "#{app}.app"))
    properties[:vsn]
  end

  defp ebin(app) do
    case :code.lib_dir(app) do
      {:error, :bad_name} -> "#{:code.root_dir()}/lib/#{app}-*/ebin" |> Path.wildcard() |> hd()
      folder -> Path.join(folder, "ebin")
    end
  end

  test "coverage is not taken of it, and of all others", %{vm: vm} = context do
    ebin = :code.lib_dir(:embedded_epmd) |> Path.join("ebin")
    true = call(vm, :code, :add_patha, [to_charlist(ebin(:tools))])
    {:ok, _} = call(vm, :cover, :start)

    beams =
      for module <- [Native, Discovery, Lifecycle, Server, Config], do: to_charlist(Path.join(ebin, "#{module}.beam"))

    assert [_ | _] = call(vm, :cover, :compile_beam, [beams])
    assert_unharmed(context)
    call(vm, :cover, :stop)
    assert_unharmed(context)
  end

  # The same supervised process runs, and the server answers in memory and over TCP, and sends events.
  defp assert_unharmed(%{vm: vm, port: port, name: name, supervised: supervised}) do
    eventually(fn -> match?([%{name: ^name}], stock_names(port)) end)
    assert {:port, _, 6} = call(vm, Discovery, :port_please, [to_charlist(name), {127, 0, 0, 1}])
    stock = unique("stock")
    {subscriber, %{role: :serving}} = call(vm, Support.Mailbox, :subscribe)
    :peer.stop(start_stock(stock, port))

    eventually(fn ->
      events = call(vm, Support.Mailbox, :messages, [subscriber])
      match?([{_, {:registered, %{name: ^stock}}}, {_, {:unregistered, _}}], events)
    end)

    assert server(vm) == supervised
  end
end
