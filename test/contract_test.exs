defmodule EmbeddedEpmd.ContractTest do
  # Corner cases of the contract with OTP, by the functions that OTP calls. OTP's client is the model.
  use ExUnit.Case, async: true

  import Support.Faults, only: [inetrc: 1]
  import Support.Vm

  alias EmbeddedEpmd.Boot.Client
  alias EmbeddedEpmd.Discovery
  alias Support.Folder

  @localhost {127, 0, 0, 1}

  setup :port_and_name

  describe "register_node" do
    test "refuses a second registration, and the first one stays", %{port: port, name: name} do
      vm = start_ours(name, port)
      before = stock_names(port)
      # The process that calls ends at once.
      for other <- [:b, String.to_atom(name)], arguments <- [[other, 1234], [other, 1234, :inet]] do
        assert call(vm, Discovery, :register_node, arguments) == {:error, :already_registered}
      end

      assert call(vm, Discovery, :register_node, [:b, 1234]) == {:error, :already_registered}
      assert stock_names(port) == before
      assert call(vm, EmbeddedEpmd, :stats) |> elem(1) |> get_in([:connections, :registered]) == 0
    end

    test "passes on what is wrong with a name", %{port: port, name: name} do
      vm = start_unnamed(port)
      hush(vm)
      assert {:error, reason} = call(vm, :net_kernel, :start, [[:"a b@127.0.0.1", :longnames]])
      assert call(vm, :erlang, :node) == :nonode@nohost
      refute inspect(reason) =~ "already_registered"
      # An earlier failure does not affect the next attempt.
      assert {:ok, _} = become_node(vm, name)
      assert [%{name: ^name}] = stock_names(port)
    end

    test "with a fixed port goes on without a name", %{port: port, name: name} do
      _holder = start_ours(name, port)
      before = stock_names(port)

      for fixed <- fixed_ports() do
        vm = start_ours(name, port, flags: fixed)
        assert call(vm, :erlang, :is_alive)
        assert stock_names(port) == before
        # The next VM takes the same name.
        :peer.stop(vm)
      end
    end

    test "with a fixed port goes on beside something that is no EPMD, and is found when that has gone", context do
      %{port: port, name: name} = context
      {fixed, stranger} = {free_port(), hold(port)}
      vm = start_ours(name, port, flags: ~w(-erl_epmd_port #{fixed} -kernel logger_level error))
      assert call(vm, :erlang, :is_alive)
      assert call(vm, EmbeddedEpmd, :status).role == :stopped
      hush(vm)
      supervise(vm)
      :gen_tcp.close(stranger)
      eventually(fn -> stock_names(port) == [%{name: name, port: fixed}] end)
    end
  end

  # From 27.2 on OTP also has a kernel parameter for it.
  defp fixed_ports do
    {:ok, version} = :application.get_key(:kernel, :vsn)
    [major, minor | _] = for number <- String.split("#{version}.0", "."), do: String.to_integer(number)
    parameter = if {major, minor} >= {10, 2}, do: [~w(-kernel erl_epmd_node_listen_port #{free_port()})], else: []
    [~w(-erl_epmd_port #{free_port()}) | parameter]
  end

  describe "in a VM that is booted beside others" do
    # The boot scripts and the environment of a release.
    setup do
      root = Folder.new("boot")
      scripts = Path.join(root, "releases/1")
      File.mkdir_p!(scripts)
      start_clean = Path.join(:code.root_dir(), "bin/start_clean.boot")
      for name <- ["start_clean", "clean", "start"], do: File.cp!(start_clean, Path.join(scripts, name <> ".boot"))
      %{scripts: scripts, release: [{"RELEASE_ROOT", root}, {"RELEASE_VSN", "1"}]}
    end

    for {kind, script, environment} <- [
          {"start_clean", "start_clean", []},
          {"RELEASE_BOOT_SCRIPT_CLEAN", "clean", [{"RELEASE_BOOT_SCRIPT_CLEAN", "clean"}]},
          {"eval", "start", [{"RELEASE_COMMAND", "eval"}]},
          {"rpc", "start", [{"RELEASE_COMMAND", "rpc"}]}
        ] do
      test "a node is registered with whoever serves: #{kind}", %{port: port, name: name} = context do
        owner = unique("owner")
        start_ours(owner, port)
        environment = context.release ++ unquote(environment)
        vm = start_unnamed(port, ["-boot", Path.join(context.scripts, unquote(script))], env: environment)
        supervise(vm)
        assert {:ok, _} = become_node(vm, name)
        assert [%{name: ^name}, %{name: ^owner}] = stock_names(port)
        assert call(vm, :net_adm, :ping, [:"#{owner}@127.0.0.1"]) == :pong
        assert {:ok, [_, _]} = call(vm, :net_adm, :names, [~c"127.0.0.1"])
        assert call(vm, EmbeddedEpmd, :status).role == :stopped
        assert server_threads(pid(vm)) == 0
      end
    end

    test "a child of such a VM is none of them", %{port: port, name: name} = context do
      # It inherits RELEASE_COMMAND, but not the boot script.
      environment = context.release ++ [{"RELEASE_COMMAND", "eval"}]
      vm = start_unnamed(port, [], env: environment)
      assert {:ok, _} = become_node(vm, name)
      assert call(vm, EmbeddedEpmd, :status).role == :serving
    end

    test "the release itself is none of them", %{port: port, name: name} = context do
      environment = context.release ++ [{"RELEASE_COMMAND", "start"}, {"RELEASE_BOOT_SCRIPT_CLEAN", "clean"}]
      vm = start_ours(name, port, flags: ["-boot", Path.join(context.scripts, "start")], env: environment)
      assert call(vm, EmbeddedEpmd, :status).role == :serving
    end
  end

  describe "port_please" do
    test "takes a host as it takes its address", %{name: name, port: port} do
      # Nothing of this port is known to OTP's client.
      unset = [env: [{"ERL_EPMD_PORT", ""}]]
      vm = start_ours(name, nil, unset ++ [flags: ~w(-embedded_epmd port #{port})])
      assert {:port, _, 6} = found = call(vm, Discovery, :port_please, [to_charlist(name), @localhost])

      for host <- [~c"127.0.0.1", ~c"localhost", :localhost],
          do: assert(call(vm, Discovery, :port_please, [to_charlist(name), host]) == found)

      assert call(vm, Discovery, :port_please, [~c"nobody", ~c"localhost"]) == :noport
      # OTP 27 and later say what is wrong with it.
      assert {:error, reason} = call(vm, Discovery, :port_please, [~c"nobody", ~c""])
      assert reason in [:einval, :nxdomain]
    end

    test "takes the host's address in the family of the distribution", %{name: name, port: port} do
      # Nobody listens at the first.
      lines = for ip <- ["127,0,0,2", "0,0,0,0,0,0,0,1"], do: "{host,{#{ip}},[\"both.internal\"]}.\n"
      vm = start_ours(name, port, host: "::1", flags: ~w(-proto_dist inet6_tcp) ++ inetrc(lines))
      assert {:port, _, 6} = call(vm, Discovery, :port_please, [to_charlist(name), ~c"both.internal"])
      assert {:ok, [_]} = call(vm, :net_adm, :names, [~c"both.internal"])
    end

    test "takes :infinity, for an answer in memory and for one over TCP", %{port: port, name: name} do
      vm = start_ours(name, port)
      other = unique("other")
      start_ours(other, port, host: "127.0.0.2")

      for {name, ip} <- [{name, @localhost}, {other, {127, 0, 0, 2}}] do
        assert {:port, _, 6} = call(vm, Discovery, :port_please, [to_charlist(name), ip, :infinity])
        assert :noport == call(vm, Discovery, :port_please, [~c"nobody", ip, :infinity])
      end

      assert {:error, :econnrefused} = call(vm, Discovery, :port_please, [~c"nobody", {127, 0, 0, 3}, :infinity])
    end

    test "speaks the versions that the environment leaves", %{port: port, name: name} do
      vm = start_ours(name, port, env: [{"ERL_EPMD_DIST_HIGH", "5"}])
      stock = unique("stock")
      start_stock(stock, port)
      # Both in its own registration and in its lookups.
      assert {:port, _, 5} = Client.port(name, @localhost, port, 5_000)
      assert {:port, _, 6} = Client.port(stock, @localhost, port, 5_000)
      assert {:port, _, 5} = call(vm, Discovery, :port_please, [to_charlist(stock), @localhost])
      assert {:port, _, 5} = call(vm, :erl_epmd, :port_please, [to_charlist(stock), @localhost])
    end
  end

  describe "names" do
    test "come in the order of OTP's client", %{port: port, name: name} do
      vm = start_ours(name, port)
      stock = start_stock(unique("stock"), port)
      joined = start_ours(unique("joined"), port)
      assert {:ok, [_, _, _] = names} = call(vm, :erl_epmd, :names, [@localhost])
      for vm <- [vm, joined, stock], do: assert(call(vm, :net_adm, :names, [~c"127.0.0.1"]) == {:ok, names})
    end

    test "may be no UTF-8 where the EPMD is another's", %{port: port, name: name} do
      vm = start_ours(name, port)
      ip = {127, 0, 0, 2}
      {:ok, socket} = :gen_tcp.listen(port, ip: ip, mode: :binary, active: false, reuseaddr: true)

      spawn_link(fn ->
        {:ok, peer} = :gen_tcp.accept(socket)
        {:ok, _} = :gen_tcp.recv(peer, 3)
        :gen_tcp.send(peer, [<<port::32>>, "name caf", 0xE9, " at port 1\nname ", "café", " at port 2\n"])
        :gen_tcp.close(peer)
      end)

      assert call(vm, Discovery, :names, [ip]) == {:ok, [{~c"café", 2}, {~c"café", 1}]}
    end

    test "pass on why a host has none", %{port: port, name: name} do
      inetrc = Path.join(Folder.new("inetrc"), "inetrc")
      File.write!(inetrc, "{lookup, [file]}.\n")
      vm = start_ours(name, port, flags: ["-kernel", "inetrc", inspect(inetrc)])
      assert call(vm, :net_adm, :names, [~c"no.such.host"]) == {:error, :nxdomain}
      assert call(vm, :net_adm, :names, [{127, 0, 0, 2}]) == {:error, :address}
    end
  end
end
