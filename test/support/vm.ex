defmodule Support.Vm do
  @moduledoc """
  Real VMs for tests. Each is an operating system process, controlled over its standard input and output, so that a
  test needs neither distribution nor an EPMD to call functions in it.
  """

  @ours ~w(-start_epmd false -epmd_module Elixir.EmbeddedEpmd.Discovery)
  @stock ~w(-start_epmd false)
  @timeout 60_000
  # Between two looks at a condition; milliseconds.
  @first_pause 10
  @longest_pause 160

  @doc "A port that nobody listens on, and that no other test is given."
  defdelegate free_port, to: Support.Ports, as: :free

  @doc "A name that no other test uses."
  def unique(name), do: "#{name}#{System.unique_integer([:positive])}"

  @doc "For `setup`: a free port, and a name for a node."
  def port_and_name(_context), do: %{port: free_port(), name: unique("ours")}

  @doc "Boots a node whose discovery module is ours."
  def start_ours(name, port, options \\ []), do: start(name, port, @ours, options)

  @doc "Boots nodes whose discovery module is ours, all at the same time; returns them in the order of their names."
  def start_together(names, port, options \\ []) do
    tag = make_ref()
    # Otherwise `global` would log about each node that goes down.
    options = Keyword.merge([wait_boot: {self(), tag}, flags: ~w(-kernel logger_level error)], options)
    vms = for name <- names, do: start_ours(name, port, options)
    for vm <- vms, do: booted(vm, tag)
    vms
  end

  defp booted(vm, tag) do
    receive do
      {^tag, {:started, _, ^vm}} -> :ok
    after
      @timeout -> ExUnit.Assertions.flunk("a VM did not boot in a minute")
    end
  end

  @doc "Boots a stock node: its discovery module is OTP's."
  def start_stock(name, port, options \\ []), do: start(name, port, @stock, options)

  @doc "Boots a VM that is not a node, and whose discovery module is ours."
  def start_unnamed(port, flags \\ [], options \\ []), do: boot(%{}, port, @ours, [{:flags, flags} | options])

  @doc "Boots a VM that is not a node, and whose discovery module is OTP's."
  def start_plain(port, options \\ []), do: boot(%{}, port, @stock, options)

  @doc "Makes a VM a node of this name."
  def become_node(vm, name), do: call(vm, :net_kernel, :start, [[:"#{name}@127.0.0.1", :longnames]])

  @doc "Switches a VM's log off: OTP reports a distribution that does not start at length."
  def hush(vm), do: call(vm, :logger, :set_primary_config, [:level, :none])

  defp start(name, port, flags, options) do
    host = String.to_charlist(options[:host] || "127.0.0.1")
    node = %{name: String.to_charlist(name), host: host, longnames: Keyword.get(options, :longnames, true)}
    boot(node, port, flags, options)
  end

  defp boot(node, port, flags, options) do
    ip = ip(options[:host] || "127.0.0.1")
    # Where the distribution listens, unless it is left to the node's name.
    interface =
      if Keyword.get(options, :interface, true),
        do: ["-kernel", "inet_dist_use_interface", List.to_string(:io_lib.format("~w", [ip]))],
        else: []

    flags =
      flags ++ paths(options) ++ ["-setcookie", options[:cookie] || "test"] ++ interface ++ (options[:flags] || [])

    environment =
      for {name, value} <- [
            {"ERL_EPMD_PORT", "#{port}"},
            {"ERL_EPMD_ADDRESS", List.to_string(:inet.ntoa(ip))} | options[:env] || []
          ] do
        {String.to_charlist(name), String.to_charlist(value)}
      end

    wait_boot = options[:wait_boot] || @timeout

    start = fn ->
      :peer.start_link(
        node
        # For instance nsenter, for a VM in a network of its own.
        |> Map.merge(Map.new(Keyword.take(options, [:exec])))
        |> Map.merge(%{
          connection: :standard_io,
          args: Enum.map(flags, &String.to_charlist/1),
          env: environment,
          wait_boot: wait_boot,
          # Other ways to shut it down address the node by name, and two VMs that are not nodes have the same name.
          shutdown: :close
        })
      )
    end

    case or_tell(start, port) do
      {:ok, vm, _} -> vm
      {:ok, vm} -> vm
    end
  end

  # The VM has said why it does not boot. Who has its port may be gone when somebody reads that.
  defp or_tell(start, port) do
    start.()
  catch
    :exit, {:boot_failed, reason} ->
      listening = listening_sockets(port, ["--processes"])
      ExUnit.Assertions.flunk("a VM does not boot: #{inspect(reason)}; at its port listens: #{inspect(listening)}")
  end

  defp ip(host) do
    host = String.to_charlist(host)

    with {:error, reason} <- :inet.parse_address(host), {:error, ^reason} <- :inet.getaddr(host, :inet) do
      ExUnit.Assertions.flunk("the host name #{host} must resolve to an IPv4 address here: #{reason}")
    else
      {:ok, ip} -> ip
    end
  end

  defp paths(options) do
    ebins = for app <- [:elixir, :logger], do: Path.join(:code.lib_dir(app), "ebin")
    ebins = [options[:ebin] || Path.join(:code.lib_dir(:embedded_epmd), "ebin") | ebins]

    Enum.flat_map(ebins, &["-pa", &1])
  end

  @doc "Calls a function in a VM."
  def call(vm, module, function, arguments \\ []),
    do: :peer.call(vm, module, function, arguments, @timeout)

  @doc "Starts the supervised process in a VM, under a supervisor that outlives the call."
  def supervise(vm, options \\ [], flags \\ []) do
    {:ok, _} = call(vm, :application, :ensure_all_started, [:logger])
    # The supervisor has a name, since its pid would not be valid any more in a VM that has become a node.
    name = __MODULE__.Supervisor
    {:ok, supervisor} = call(vm, :supervisor, :start_link, [{:local, name}, name, {options, flags}])
    supervisor
  end

  @doc "Starts a second supervised process in a VM."
  def supervise_second(vm, supervisor, options \\ []) do
    child = %{id: :second, start: {EmbeddedEpmd, :start_link, [options]}}
    call(vm, :supervisor, :start_child, [supervisor, child])
  end

  @doc "The pid of the supervised process that has claimed the server of a VM."
  def server(vm), do: call(vm, :erlang, :whereis, [EmbeddedEpmd.Server])

  @doc "Listens on a port as a program that is no EPMD, until the test ends."
  def hold(port) do
    {:ok, socket} = :gen_tcp.listen(port, ip: {127, 0, 0, 1}, active: false, reuseaddr: true)
    spawn_link(fn -> answer_as_stranger(socket) end)
    socket
  end

  defp answer_as_stranger(socket) do
    with {:ok, peer} <- :gen_tcp.accept(socket) do
      :gen_tcp.send(peer, "220 mail.example ESMTP\r\n")
      answer_as_stranger(socket)
    end
  end

  @doc "Starts OTP's daemon on a port of 127.0.0.1, until the test ends; returns its process id when it answers."
  def start_daemon(port) do
    pid = start_program(["epmd", "-port", "#{port}", "-address", "127.0.0.1"])
    eventually(fn -> stock_names(port) == [] end)
    pid
  end

  @doc "Starts a program in the background, until the test ends; returns its process id."
  def start_program(command) do
    {pid, 0} = System.cmd("sh", ["-c", "\"$@\" </dev/null >/dev/null 2>&1 & echo $!", "sh" | command])
    pid = String.trim(pid)
    ExUnit.Callbacks.on_exit(fn -> System.cmd("kill", ["-9", pid], stderr_to_stdout: true) end)
    pid
  end

  @doc "The VM's process id."
  def pid(vm), do: vm |> call(:os, :getpid) |> List.to_string()

  @doc "Kills the VM with -9."
  def kill(vm), do: signal(vm, pid(vm), "KILL")

  @doc "Sends the VM a signal, by which it may end."
  def signal(vm, pid, signal) do
    Process.unlink(vm)
    if signal == "STOP", do: suspend(pid), else: {_, 0} = System.cmd("kill", ["-" <> signal, pid])
  end

  @doc "Suspends a process, and waits until each of its threads stands still: until then the others go on."
  def suspend(pid) do
    {_, 0} = System.cmd("kill", ["-STOP", pid])

    eventually(fn ->
      for file <- Path.wildcard("/proc/#{pid}/task/*/stat"), {:ok, stat} <- [File.read(file)], uniq: true do
        # The name before it may have anything in it.
        stat |> String.split(") ") |> List.last() |> String.first()
      end == ["T"]
    end)
  end

  @doc "The addresses with a listener on this port, according to the kernel."
  def listening(port) do
    for socket <- listening_sockets(port, []), uniq: true do
      [_, _, _, local | _] = String.split(socket)
      address(String.trim_trailing(local, ":#{port}"))
    end
  end

  defp address("*"), do: "::"
  defp address(address), do: String.trim(address, "[") |> String.trim("]")

  @doc "The processes that hold a listener on this port, according to the kernel."
  def listeners(port) do
    for socket <- listening_sockets(port, ["--processes"]),
        [_, pid] <- Regex.scan(~r/pid=(\d+)/, socket),
        uniq: true,
        do: pid
  end

  defp listening_sockets(port, options), do: sockets(["--listening" | options], "sport = :#{port}")

  @doc "What ss says of the TCP sockets that a filter selects, a line each."
  # Not from /proc/net/tcp: to read that, the kernel walks its whole table of connections, which can take 20 ms. Nor the
  # processes from /proc here: the file server, which all tests share, would read each descriptor of each process.
  def sockets(options, filter) do
    {sockets, 0} = System.cmd("ss", ~w(--no-header --tcp --numeric) ++ options ++ [filter])
    String.split(sockets, "\n", trim: true)
  end

  @doc "How many threads of the native server the VM has."
  def server_threads(pid) do
    Enum.count(
      File.ls!("/proc/#{pid}/task"),
      &(File.read("/proc/#{pid}/task/#{&1}/comm") == {:ok, "epmd\n"})
    )
  end

  @doc "How many descriptors the VM has open."
  def descriptors(pid), do: length(File.ls!("/proc/#{pid}/fd"))

  @doc "What the stock tool lists, as `EmbeddedEpmd.names/0` shows it; `:none` when nobody answers."
  def stock_names(port) do
    case System.cmd("epmd", ["-port", "#{port}", "-names"], stderr_to_stdout: true) do
      {text, 0} ->
        for [_, name, port] <- Regex.scan(~r/^name (.*) at port (\d+)$/m, text) do
          %{name: name, port: String.to_integer(port)}
        end

      _ ->
        :none
    end
  end

  @doc "Waits until a condition holds, at most a minute, since the machine may be busy; returns what it returned."
  def eventually(condition, timeout \\ @timeout), do: eventually(condition, timeout, @first_pause)

  # Many tests wait side by side, and some conditions start a program.
  defp eventually(condition, timeout, pause) do
    cond do
      result = condition.() ->
        result

      timeout <= 0 ->
        ExUnit.Assertions.flunk("the condition did not come to hold")

      true ->
        Process.sleep(pause)
        eventually(condition, timeout - pause, min(2 * pause, @longest_pause))
    end
  end
end

defmodule Support.Vm.Supervisor do
  @moduledoc false
  use Supervisor

  @impl true
  def init({options, flags}) do
    # Started over a call whose process ends at once: the supervisor must outlive it.
    Process.flag(:trap_exit, true)
    Process.unlink(hd(Process.get(:"$ancestors", [self()])))
    sibling = %{id: :sibling, start: {Agent, :start_link, [fn -> nil end, [name: :sibling]]}}
    flags = Keyword.merge([strategy: :one_for_one, max_restarts: 1_000], flags)
    Supervisor.init([{EmbeddedEpmd, options}, sibling], flags)
  end
end

defmodule Support.Vm.Application do
  @moduledoc false
  # The application of a service: it ends with its VM, before the VM's kernel does.
  use Application

  def start do
    {:ok, _} = :application.ensure_all_started(:logger)
    :ok = :application.load({:application, :vm_service, mod: {__MODULE__, []}, applications: [:kernel, :stdlib]})
    :ok = :application.start(:vm_service)
  end

  @impl true
  def start(_type, _arguments), do: Supervisor.start_link([EmbeddedEpmd], strategy: :one_for_one)
end
