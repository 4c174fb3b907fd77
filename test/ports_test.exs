defmodule EmbeddedEpmd.PortsTest do
  # The port that a node listens on. What an owner plans is tested in native/epmd_tools/tests/suites/ports.rs.
  use ExUnit.Case, async: true

  import Support.Vm

  alias EmbeddedEpmd.Boot.Client
  alias Support.Registration

  @localhost {127, 0, 0, 1}

  setup do
    %{port: free_port(), name: unique("ours"), range: range()}
  end

  test "a node has the same port at each start, and two never the same", %{port: port, name: name, range: range} do
    owner = start_ours(unique("owner"), port, flags: ports(range))
    names = for number <- 1..5, do: "#{name}_#{number}"
    vms = start_together(names, port, flags: ports(range))
    planned = planned(port)
    assert planned |> Map.values() |> Enum.uniq() |> length() == 6

    for {_name, node} <- planned do
      assert within?(node, range)
      # It is the port that it listens on.
      assert {:ok, _} = :gen_tcp.connect(@localhost, node, [])
    end

    for vm <- vms, do: kill(vm)
    eventually(fn -> map_size(planned(port)) == 1 end)
    # Another one owns the EPMD's port when they come back.
    standby = start_ours(unique("standby"), port)
    eventually(fn -> call(standby, EmbeddedEpmd, :status).stands_by end)
    kill(owner)
    eventually(fn -> call(standby, EmbeddedEpmd, :status).role == :serving end)
    start_together(Enum.reverse(names), port, flags: ports(range))
    assert Map.take(planned(port), names) == Map.take(planned, names)
  end

  test "a port that another process has is left out, and told", %{port: port, name: name, range: range} do
    start_ours(unique("owner"), port)
    vm = start_ours(name, port, flags: ports(range))
    first = planned(port)[name]
    kill(vm)
    eventually(fn -> planned(port)[name] == nil end)
    # What the VM had is closed one after the other.
    eventually(fn -> match?({:ok, _}, :gen_tcp.listen(first, ip: @localhost, reuseaddr: true)) end)
    assert {text, 0} = erl(port, ports(range), name)
    assert text =~ "another process has a port that was planned for this node"
    # The order of the fields is OTP's.
    assert text =~ " planned=#{first}"
    assert [_, moved] = Regex.run(~r/ port=(\d+)/, text)
    moved = String.to_integer(moved)
    assert within?(moved, range) and moved != first
    # It stays there.
    start_ours(name, port, flags: ports(range))
    assert planned(port)[name] == moved
  end

  test "beside OTP's daemon a node has its port again, too", %{port: port, name: name, range: range} do
    start_daemon(port)
    eventually(fn -> match?({:ok, _}, Client.names(@localhost, port, 1_000)) end)
    # The port that the name would get is another node's.
    {:ok, wanted} = first_choice(name, range)
    {_socket, _} = Registration.register(unique("other"), port, node_port: wanted)

    [first, again] =
      for _ <- 1..2 do
        vm = start_ours(name, port, flags: ports(range))
        planned = planned(port)[name]
        kill(vm)
        eventually(fn -> planned(port)[name] == nil end)
        planned
      end

    assert within?(first, range) and first == again and first != wanted
  end

  test "a VM does not boot where its range is none, or is full, or something else says where it listens", %{
    port: port,
    range: {first, _}
  } do
    for {flags, sentence} <- [
          {ports({first, first - 1}), "ports must be a range of at most 1000 ports, such as 9100..9199, got: {"},
          {ports({first, first + 1_000}), "ports must be a range of at most 1000 ports"},
          {ports({first, first}) ++ ~w(-kernel inet_dist_listen_min 9000),
           "ports (#{first}..#{first}) and the kernel parameter inet_dist_listen_min both set this node's port: " <>
             "remove one of them"},
          {ports({first, first}) ++ ~w(-kernel inet_dist_listen_max 9000),
           "and the kernel parameter inet_dist_listen_max both set"}
        ] do
      assert {text, 1} = erl(port, flags)
      assert text =~ "embedded_epmd: " and text =~ sentence
    end

    assert {text, 0} = erl(port, ports({first, first}) ++ ["-erl_epmd_port", "#{free_port()}"])
    assert text =~ "ports (#{first}..#{first}) is ignored, since this node's port is fixed"

    {:ok, _} = :gen_tcp.listen(first, ip: @localhost)
    assert {text, 1} = erl(port, ports({first, first}))
    assert text =~ "embedded_epmd: no port of #{first}..#{first} is free for this node: let ports name more"
  end

  test "a VM of a release's command takes none, nor one whose name is registered", %{
    port: port,
    name: name,
    range: range
  } do
    start_ours(name, port, flags: ports(range))
    before = planned(port)
    assert {text, 1} = erl(port, ports(range), name)
    assert text =~ "the name #{name}@127.0.0.1 seems to be in use"
    assert planned(port) == before

    rpc = unique("rpc")
    vm = start_unnamed(port, ["-boot", Path.join(:code.root_dir(), "bin/start_clean") | ports(range)])
    assert {:ok, _} = become_node(vm, rpc)
    refute within?(planned(port)[rpc], range)
  end

  test "in a VM that becomes a node later the range holds, and where it listens already it is refused", context do
    %{port: port, name: name, range: {first, last} = range} = context
    vm = start_unnamed(port)
    supervise(vm, ports: first..last)
    assert {:ok, _} = become_node(vm, name)
    assert within?(planned(port)[name], range)

    other = start_ours(unique("other"), port)
    hush(other)
    supervisor = supervise(other)
    :ok = call(other, :supervisor, :terminate_child, [supervisor, EmbeddedEpmd])
    assert {:error, reason} = supervise_second(other, supervisor, ports: range)
    assert inspect(reason) =~ "the option ports says #{first}..#{last}, but this node has chosen its port already"
    assert {:ok, _} = supervise_second(other, supervisor, [])
  end

  test "the task prints the plan, and rules for these ports and networks", %{port: port, name: name, range: range} do
    {first, last} = range
    vm = start_ours(name, port, flags: ports(range))
    start_ours(unique("stays"), port)
    node = planned(port)[name]
    assert {text, 0} = task(["#{first}..#{last}", "--port", "#{port}"])
    assert text =~ ~r/^ PORT  NAME\n#{node}  #{name}  registered$/m
    assert text =~ "nft add rule inet filter input tcp dport { #{port}, #{first}-#{last} } accept"
    assert text =~ "ufw allow proto tcp from any to any port #{port},#{first}:#{last}"
    assert text =~ "    - {name: epmd, port: #{port}}\n    - {name: node-#{first}, port: #{first}}\n"

    # The option comes first.
    other = ~s|System.put_env("ERL_EPMD_PORT", "#{free_port()}")|
    assert {^text, 0} = task(["#{first}..#{last}", "--port", "#{port}"], other)

    kill(vm)
    eventually(fn -> planned(port)[name] == nil end)
    assert {text, 0} = task(["#{first}..#{last}", "--port", "#{port}", "--only", "plan"])
    assert text =~ "#{node}  #{name}  left"
    assert {"no node has or had a port of 1..2" <> _, 0} = task(["1..2", "--port", "#{port}", "--only", "plan"])

    for {arguments, sentence} <- [
          {[], "no range is set: give one, such as 9100..9199, or set ports in config.exs"},
          {["9199..9100"], "expected a range of at most 1000 ports, such as 9100..9199, got: 9199..9100"},
          {["1..2", "--only", "all"], "--only must be one of plan, nft, ufw, service, got: all"}
        ] do
      assert {text, 1} = task(arguments)
      assert text =~ sentence
    end
  end

  test "with :allow, only these networks are let in" do
    allow = fn networks ->
      fn part ->
        task(
          ["9100..9109", "--port", "4369", "--only", part],
          "Application.put_env(:embedded_epmd, :allow, #{inspect(networks)})"
        )
        |> elem(0)
      end
    end

    some = allow.(["10.0.0.0/8", "192.0.2.1", "fd00::/8"])

    assert some.("nft") == """
           nft add rule inet filter input ip saddr { 10.0.0.0/8, 192.0.2.1 } tcp dport { 4369, 9100-9109 } accept
           nft add rule inet filter input ip6 saddr { fd00::/8 } tcp dport { 4369, 9100-9109 } accept
           """

    assert some.("ufw") == """
           ufw allow proto tcp from 10.0.0.0/8 to any port 4369,9100:9109
           ufw allow proto tcp from 192.0.2.1 to any port 4369,9100:9109
           ufw allow proto tcp from fd00::/8 to any port 4369,9100:9109
           """

    assert allow.([]).("ufw") == "# allow: [] lets no other host in\n"
  end

  # Twenty ports, between those of `free_port/0` and those that the system uses for outgoing connections.
  defp range do
    first = Enum.random(32_000..32_740)
    {first, first + 19}
  end

  defp within?(port, {first, last}), do: port in first..last

  defp ports({first, last}), do: ["-embedded_epmd", "ports", "{#{first},#{last}}"]

  defp planned(port), do: Map.new(stock_names(port), &{&1.name, &1.port})

  # Which port a name gets of a range that nobody uses, whatever listens there.
  defp first_choice(name, range) do
    port = free_port()
    vm = start_ours(unique("asked"), port)
    {:ok, {planned, over}} = Client.plan(@localhost, port, name, range, 10_000)
    kill(vm)
    {:ok, if(over == 0, do: planned, else: over)}
  end

  # Boots a VM that ends at once.
  defp erl(port, flags, name \\ unique("ours")) do
    elixir = Path.join(:code.lib_dir(:elixir), "ebin")
    discovery = ~w(-start_epmd false -epmd_module Elixir.EmbeddedEpmd.Discovery)
    arguments = ["-noinput", "-pa", elixir, ebin(), "-name", name <> "@127.0.0.1"] ++ discovery ++ flags
    environment = [{"ERL_EPMD_PORT", "#{port}"}, {"ERL_EPMD_ADDRESS", "127.0.0.1"}, {"ERL_CRASH_DUMP_SECONDS", "0"}]
    System.cmd("erl", arguments ++ ["-eval", "halt()."], env: environment, stderr_to_stdout: true)
  end

  # Without the project, whose build folder newer Mix locks.
  defp task(arguments, before \\ "") do
    expression = "#{before}; Mix.start(); Mix.Task.run(\"embedded_epmd.ports\", #{inspect(arguments)})"
    environment = [{"ERL_EPMD_PORT", ""}, {"ERL_EPMD_ADDRESS", ""}]
    System.cmd("elixir", ["-pa", ebin(), "-e", expression], env: environment, stderr_to_stdout: true)
  end

  defp ebin, do: Path.join(:code.lib_dir(:embedded_epmd), "ebin")
end
