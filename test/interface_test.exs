defmodule EmbeddedEpmd.InterfaceTest.Names do
  # Where nodes listen by their names: the rows of erlang/otp#11617.
  use Support.InterfaceCase, async: true

  rows([
    {"a loopback address", "-name", "127.0.0.1", [], "0.0.0.0", "127.0.0.1", :closed, :open},
    {"another loopback address", "-name", "127.0.0.2", [], "0.0.0.0", "127.0.0.2", :closed, :open},
    {"localhost", "-sname", "localhost", [], "0.0.0.0", "127.0.0.1", :closed, :open},
    {"the loopback of IPv6", "-name", "::1", @inet6, "*", "[::1]", :closed, :open},
    {"a loopback of IPv4 in IPv6", "-name", "::ffff:127.0.0.1", @inet6, "*", "[::ffff:127.0.0.1]", :closed, :open},
    {"localhost over IPv6", "-sname", "localhost", @inet6, "*", "[::1]", :closed, :open},
    {"a loopback address over TLS", "-name", "127.0.0.1", :tls, "0.0.0.0", "127.0.0.1", :closed, :open},
    # Other hosts may mean the node by its name, whatever that is here.
    {"a short name at 127.0.1.1", "-sname", "debian", [], "0.0.0.0", "0.0.0.0", :open, :open},
    {"a short name that OTP completes", "-sname", nil, [], "0.0.0.0", "0.0.0.0", :open, :open},
    {"an outer address", "-name", @outer, [], "0.0.0.0", "0.0.0.0", :open, :open},
    {"a long name", "-name", "outer.example", [], "0.0.0.0", "0.0.0.0", :open, :open},
    {"an outer address of IPv6", "-name", @outer6, @inet6, "*", "*", :open, :open}
  ])
end

defmodule EmbeddedEpmd.InterfaceTest.Settings do
  # Where nodes listen by `:local`, and by the carrier and the interface of their flags.
  use Support.InterfaceCase, async: true

  rows([
    {"local: a loopback address", "-name", "127.0.0.1", @local, "0.0.0.0", "127.0.0.1", :closed, :closed},
    {"local: the loopback of IPv6", "-name", "::1", @local ++ @inet6, "*", "[::1]", :closed, :closed},
    {"local: a short name at 127.0.1.1", "-sname", "debian", @local, "0.0.0.0", "127.0.1.1", :closed, :closed},
    {"local: a short name that OTP completes", "-sname", nil, @local, "0.0.0.0", "127.0.1.1", :closed, :closed},
    {"local: a short name over TLS", "-sname", "debian", {:tls, @local}, "0.0.0.0", "127.0.1.1", :closed, :closed},
    {"local: a short name without an address of the family", "-sname", "debian", @local ++ @inet6, "*", "*%lo", :closed,
     :closed},
    # These carriers of OTP 29 listen at all addresses, whatever OTP is told, but for a device.
    {"a loopback address, over inet_epmd and socket", "-name", "127.0.0.1", {:carrier, []}, "0.0.0.0", "0.0.0.0%lo",
     :closed, :open},
    {"local: a short name over inet_epmd and socket", "-sname", "debian", {:carrier, @local}, "0.0.0.0", "0.0.0.0%lo",
     :closed, :closed},
    {"local: a short name over inet_epmd and tls_socket", "-sname", "debian", {:tls_carrier, @local}, "0.0.0.0",
     "0.0.0.0%lo", :closed, :closed},
    {"local: false", "-name", "127.0.0.1", ~w(-embedded_epmd local false), "0.0.0.0", "0.0.0.0", :open, :open},
    {"an interface of its own", "-name", "127.0.0.1", ~w(-kernel inet_dist_use_interface {0,0,0,0}), "0.0.0.0",
     "0.0.0.0", :open, :open},
    {"an interface among the options of listeners", "-name", "127.0.0.1",
     ~w(-kernel inet_dist_listen_options [{ip,{0,0,0,0}}]), "0.0.0.0", "0.0.0.0", :open, :open}
  ])
end

defmodule EmbeddedEpmd.InterfaceTest do
  # Nodes that start later, what is refused, and what is told.
  use Support.InterfaceCase, async: true

  alias EmbeddedEpmd.Boot.Interface
  alias Support.{Folder, Network}

  describe "a node that starts later" do
    test "is closed by the setting, whatever its name" do
      host = host()

      for local <- [["vm.args", :vm_args], ["the child", :option]], host_name <- ["127.0.0.1", "debian.example"] do
        [_, source] = local
        vm = start_later(host, if(source == :vm_args, do: @local, else: []))
        if source == :option, do: supervise(vm, local: true)
        assert {:ok, _} = call(vm, :net_kernel, :start, [[:"#{unique("later")}@#{host_name}", :longnames]])
        assert seen_from_outside(host, port_of(vm)) == :closed
        assert listens(host, vm) in ["127.0.0.1", "0.0.0.0%lo"]
      end
    end

    # OTP 25 has read its parameters when it tells the name; this function came when the order was changed.
    test "is closed by its name where OTP tells that in time, and open under the next name" do
      told? = Code.ensure_loaded?(:inet_tcp_dist) and function_exported?(:inet_tcp_dist, :fam_listen, 4)
      assert told? or otp() < 27
      host = host()
      vm = start_later(host, [])

      for {host_name, closed} <- [{"127.0.0.1", "127.0.0.1"}, {@outer, "0.0.0.0"}] do
        assert {:ok, _} = call(vm, :net_kernel, :start, [[:"#{unique("later")}@#{host_name}", :longnames]])
        assert listens(host, vm) == if(told?, do: closed, else: "0.0.0.0")
        :ok = call(vm, :net_kernel, :stop)
      end
    end
  end

  # Otherwise they could not stand by for each other.
  test "closed EPMDs of one host have the same addresses, whatever the names of their nodes" do
    host = host()

    for {flag, node_host} <- [{"-name", "127.0.0.1"}, {"-sname", nil}, {"-name", "localhost.localhost"}] do
      vm = node(host, :ours, flag, unique("node"), node_host, @local)
      assert call(vm, EmbeddedEpmd.Boot.Config, :load).addresses == ["127.0.0.1", "::1", "127.0.1.1"]
    end
  end

  test "with another value of the setting once the node listens, the child does not start" do
    host = host()
    vm = node(host, :ours, "-name", unique("node"), "127.0.0.1", [])
    hush(vm)
    supervise(vm)
    :ok = call(vm, :supervisor, :terminate_child, [Support.Vm.Supervisor, EmbeddedEpmd])
    assert {:error, reason} = supervise_second(vm, Support.Vm.Supervisor, local: true)
    sentence = inspect(reason)
    assert sentence =~ "the option local says true, but this node listens without it"
    assert sentence =~ "Set -embedded_epmd local true in vm.args, or local in config.exs"
  end

  describe "a VM does not boot, and says why," do
    test "if its name leads to where other hosts reach it" do
      # In the last case only the system's resolver knows the host.
      for {node_host, environment} <- [
            {@outer, []},
            {"outer.example", []},
            {"outer.example", [{"ERL_INET_ETC_DIR", "/nonexistent"}]}
          ] do
        assert boot("-name", node_host, @local, environment) =~
                 ~r/^embedded_epmd: local is true, but this node cannot be closed to other hosts: its host, #{Regex.escape(node_host)}, has the address #{@outer}, where other hosts reach it; name the node NAME@127.0.0.1 .*\n$/
      end
    end

    test "if its addresses open the EPMD" do
      flags = @local ++ ["-embedded_epmd", "addresses", ~s(["127.0.0.1","#{@outer}"])]

      assert boot("-name", "127.0.0.1", flags) ==
               "embedded_epmd: config :embedded_epmd, local closes the EPMD to other hosts, and config :embedded_epmd, " <>
                 "addresses opens it to them at #{@outer}: remove one of the two\n"
    end
  end

  test "where there is no loopback device to listen on, an address is, or the node is not closed" do
    facts = %{chosen: false, local: nil, host: ~c"localhost", carrier: :own, device: fn -> false end}

    at = fn addresses, more ->
      Interface.place(Map.merge(facts, Map.new([{:addresses, fn -> addresses end} | more])))
    end

    loopback = {127, 0, 0, 1}
    debian = [host: ~c"debian", local: true]

    assert at.([loopback], []) == {:address, loopback}
    assert at.([loopback], local: true) == {:address, loopback}
    assert at.([{127, 0, 1, 1}], debian) == {:address, {127, 0, 1, 1}}
    assert at.([], host: :unknown, local: true) == {:address, loopback}
    assert at.([], host: :unknown) == :otp
    assert at.([loopback], carrier: :inet_epmd) == :otp
    assert at.([loopback], carrier: :inet_epmd, device: fn -> true end) == :device
    assert at.([loopback, {10, 0, 0, 1}], []) == :otp

    for {addresses, more} <- [
          {[loopback, {10, 0, 0, 1}], debian},
          {[], debian},
          {[loopback], [carrier: :inet_epmd] ++ debian}
        ],
        do: assert({:error, "embedded_epmd: local is true, but " <> _} = at.(addresses, more))
  end

  describe "the first log of a VM" do
    test "warns of a distribution that other hosts reach with a weak cookie, and does not tell the cookie" do
      host = host()

      for {node_host, flags, lines} <- [{@outer, [], 1}, {"127.0.0.1", [], 0}, {"debian.example", @local, 0}] do
        log = Path.join(Folder.new("log"), "log")
        handler = "[{handler,default,logger_std_h,\#{config=>\#{file=>#{inspect(log)}}}}]"

        flags = flags ++ ["-kernel", "logger", handler]
        vm = node(host, :ours, "-name", unique("node"), node_host, flags, cookie: "sesame77")
        {:ok, _} = call(vm, EmbeddedEpmd, :start_link, [[]])

        logged = fn ->
          :ok = call(vm, :logger_std_h, :filesync, [:default])
          File.read!(log)
        end

        if lines == 1, do: eventually(fn -> logged.() =~ "the cookie is weak" end), else: Process.sleep(1_000)
        assert length(String.split(logged.(), "cookie is weak")) == lines + 1
        refute logged.() =~ "sesame"
        refute EmbeddedEpmd.Doctor.format(call(vm, EmbeddedEpmd, :examine)) =~ "sesame"
      end
    end
  end

  defp start_later(host, flags),
    do:
      start_unnamed(host.port, flags, [Network.option(host.network), interface: false, env: [{"ERL_EPMD_ADDRESS", ""}]])

  # What a VM says that ends while it boots.
  defp boot(flag, node_host, flags, more \\ []) do
    {:exec, {program, arguments}} = Network.option(Network.start(), hosts_file(), "debian")
    ours = ["-noshell", "-start_epmd", "false", "-epmd_module", "Elixir.EmbeddedEpmd.Discovery", "-pa" | ebins()]
    arguments = Enum.map(arguments, &to_string/1) ++ ours ++ [flag, "#{unique("node")}@#{node_host}" | flags]

    # One that boots all the same is ended.
    {text, 1} =
      System.cmd("timeout", ["-k", "1", "20", to_string(program) | arguments],
        stderr_to_stdout: true,
        env: [{"ERL_EPMD_PORT", "#{free_port()}"}, {"ERL_EPMD_ADDRESS", nil} | more]
      )

    text
  end

  defp ebins, do: for(app <- [:embedded_epmd, :elixir], do: Path.join(:code.lib_dir(app), "ebin"))

  defp otp, do: List.to_integer(:erlang.system_info(:otp_release))
end
